import json
import math

from aiida_mlipal.science.training_log import epochs_without_improvement, read_history


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
