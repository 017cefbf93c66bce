import json
import math
from datetime import UTC, datetime

import pytest

from aiida_mlipal.science.training_log import (
    epoch_ends,
    epochs_without_improvement,
    lowest_loss,
    read_history,
    seconds_left,
)


def _record(epoch, loss, head='Default', mode='eval', **more):
    return json.dumps({'mode': mode, 'epoch': epoch, 'loss': loss, 'head': head, 'rmse_f': 2 * loss, **more})


def test_keeps_the_last_record_per_epoch_and_head():
    lines = [
        _record(None, 9.0),  # before training
        _record(0, 0.5, mode='opt'),
        _record(0, 3.0),
        _record(1, 2.0),
        _record(1, 5.0, head='other'),
        _record(None, 9.0),  # a restart
        _record(1, 1.5, rmse_stress=0.25),
        _record(2, 1.0)[:-5],  # being written
    ]
    history = read_history(lines)
    assert set(history) == {'Default', 'other'}
    columns = history['Default']
    assert columns['epoch'] == [0, 1]
    assert columns['loss'] == [3.0, 1.5]
    assert columns['force_rmse'] == [6.0, 3.0]
    assert math.isnan(columns['stress_rmse'][0])
    assert columns['stress_rmse'][1] == 0.25


def test_epochs_are_sorted_by_number():
    history = read_history([_record(epoch, 1.0) for epoch in (10, 2, 9)])
    assert history['Default']['epoch'] == [2, 9, 10]


def test_epochs_without_improvement():
    columns = read_history([_record(*pair) for pair in enumerate([3.0, 1.0, 2.0, math.nan, 1.0])])['Default']
    assert epochs_without_improvement(columns) == 3
    assert epochs_without_improvement(columns, first=2) == 0
    assert epochs_without_improvement(columns, first=5) == 0
    assert epochs_without_improvement(read_history([_record(0, 1.0)])['Default']) == 0
    assert read_history([]) == {}


# -- time left -------------------------------------------------------------------------------------------------------


def _log(seconds, first=0):
    """Return lines of MACE's log of epochs that took ``seconds``."""
    lines, now = ['2026-11-21 23:59:00.000 INFO: Initial: head: Default, loss=1.0'], 1_795_305_540.0
    for epoch, length in enumerate(seconds, first):
        now += length
        stamp = datetime.fromtimestamp(now, UTC).strftime('%Y-%m-%d %H:%M:%S.%f')[:-3]
        lines.append(f'{stamp} INFO: Epoch {epoch}: head: Default, loss=0.5')
    return lines, now


@pytest.mark.parametrize(
    ('seconds', 'passed', 'left'),
    [
        ([10.0] * 4, 0.0, 60.0),  # 6 epochs to come
        ([10.0] * 4, 4.0, 56.0),  # 4 seconds of the fifth have passed
        ([10.0] * 4, 500.0, 0.0),  # it hangs, or ends
        ([300.0, 10.0, 10.0, 10.0], 0.0, 60.0),  # the first one includes the start
        ([10.0, 10.0, 90.0, 10.0], 0.0, 60.0),  # somebody else used the machine for a while
        ([10.0] * 10, 0.0, 0.0),
        ([10.0], 0.0, None),
        ([], 0.0, None),
    ],
)
def test_seconds_left_of_ten_epochs(seconds, passed, left):
    lines, now = _log(seconds)
    found = seconds_left(epoch_ends(lines), 10, now + passed)
    assert found == (None if left is None else pytest.approx(left, abs=0.01))


def test_a_continued_training_knows_its_pace_too():
    lines, now = _log([10.0, 10.0, 10.0], first=5)
    assert seconds_left(epoch_ends(lines), 10, now) == pytest.approx(20.0)


def test_lowest_loss():
    columns = {'epoch': [0, 1, 2, 3], 'loss': [1.0, math.nan, 3.0, 2.0]}
    assert lowest_loss(columns) == 1.0
    assert lowest_loss(columns, first=1) == 2.0
    assert lowest_loss(columns, first=4) is None
