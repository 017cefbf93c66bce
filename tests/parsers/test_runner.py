"""What all parsers of this package share."""

from __future__ import annotations

import re

import pytest

from tests.parsers.jobs import finished_job, parse, result_json

ENTRY_POINT = 'mlipal.mace.train'


def _error(kind, error='RuntimeError: bad luck'):
    return {'result.json': result_json(status='error', kind=kind, error=error, traceback='Traceback ...')}


@pytest.mark.parametrize(
    ('files', 'status', 'message'),
    [
        ({}, 300, 'left no `result.json`.*verdi calcjob outputcat'),
        ({'result.json': '{"status": "o'}, 301, '`result.json` is not JSON'),
        ({'result.json': result_json()}, 301, "KeyError: 'members'"),
        (_error('exception'), 310, 'RuntimeError: bad luck.*verdi calcjob outputcat'),
        (_error('out_of_memory'), 311, 'bad luck.*lower `batch_size`'),
        (_error('non_finite'), 312, 'bad luck'),
        (_error('missing_package', "ModuleNotFoundError: No module named 'mace'"), 313, "named 'mace'.*pip install"),
        (_error('settings_refused'), 314, 'nothing was computed, mend `settings` and submit again: .*bad luck'),
        (_error('a kind of tomorrow'), 310, 'bad luck'),
    ],
)
def test_exit_codes(aiida_localhost, tmp_path, files, status, message):
    _, exit_code = parse(finished_job(aiida_localhost, ENTRY_POINT, files), tmp_path)
    assert exit_code.status == status
    assert re.search(message, exit_code.message)


@pytest.mark.parametrize('files', [{}, _error('exception')])
@pytest.mark.parametrize('status', [110, 120, 140])
def test_what_the_scheduler_found_stays(aiida_localhost, tmp_path, files, status):
    node = finished_job(aiida_localhost, ENTRY_POINT, files)
    node.set_exit_status(status)
    node.set_exit_message('The scheduler says so.')
    _, exit_code = parse(node, tmp_path)
    assert (exit_code.status, exit_code.message) == (status, 'The scheduler says so.')
