"""With which options `doctor` tries the codes of a campaign file."""

from __future__ import annotations

import pytest
from ase.build import bulk

from aiida_mlipal.cli.doctor import _check_code, _codes_of

CAMPAIGN = """\
structures: [silicon.cif]
label:
  code: pw@cluster
  pseudo_family: SSSP
  options: {account: me, resources: {num_machines: 4}}
train: {code: python@cluster, options: {queue_name: cpu}}
explore: {options: {queue_name: gpu, gpus: 1, modules: [cuda/12.4]}}
evaluate: {options: {queue_name: other, gpus: 1}}
"""


def test_codes_and_options_of_a_file(tmp_path):
    """A code of several stages is tried on the GPU that one of them asks for."""
    bulk('Si').write(tmp_path / 'silicon.cif')
    (tmp_path / 'campaign.yaml').write_text(CAMPAIGN)
    jobs, family = _codes_of(tmp_path / 'campaign.yaml', None)
    assert family == 'SSSP'
    assert jobs == {
        'pw@cluster': {'account': 'me', 'resources': {'num_machines': 4}},
        'python@cluster': {'queue_name': 'gpu', 'gpus': 1, 'prepend_text': 'module load cuda/12.4'},
    }


@pytest.mark.codes
def test_a_missing_gpu_is_found_out(python_code):
    """The small job runs on the device of the stage: here it waits for a pretended GPU, and torch sees none."""
    options = {'gpus': 1, 'environment_variables': {'CUDA_VISIBLE_DEVICES': '99'}}
    finding = _check_code(python_code.full_label, options, None)
    assert 'device `cuda` was asked for, but torch sees no CUDA device' in finding.found
    assert finding.mend
