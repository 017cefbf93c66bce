"""Each runner's program is tied to the ``CACHE_VERSION`` of its CalcJob."""

import json

from tests.calculations.update_runner_digests import PATH, current


def test_programs_are_the_recorded_ones():
    recorded, now = json.loads(PATH.read_text(encoding='utf-8')), current()
    changed = sorted(name for name in {*recorded, *now} if recorded.get(name) != now.get(name))
    assert not changed, (
        f'the programs of {changed} have changed. If results can change, bump CACHE_VERSION of their CalcJobs; '
        'then run `python tests/calculations/update_runner_digests.py`.'
    )
    assert all(isinstance(entry['cache_version'], int) for entry in now.values())
