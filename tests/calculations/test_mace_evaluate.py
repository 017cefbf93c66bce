import numpy as np
import pytest
from aiida.engine import run_get_node

from aiida_mlipal.calculations.mace_evaluate import MaceEvaluateCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.runners.committee import evaluate, load_models
from aiida_mlipal.science.configurations import Configurations
from tests.committee import copper, trained_members


@pytest.mark.codes
def test_job_returns_what_the_runner_computes(python_code, committee_node):
    frames = Configurations.from_atoms([copper(1), copper(2, repeat=(2, 1, 1))])
    _, node = run_get_node(
        MaceEvaluateCalculation, code=python_code, model=committee_node, configurations=ConfigurationsData(frames)
    )
    assert node.is_finished_ok, node.exit_message
    found = node.outputs.evaluation.evaluation
    here = evaluate(frames, load_models(trained_members(), device='cpu', dtype='float64'), batch_atoms=256)
    assert found.frame_id.tolist() == frames.frame_id.tolist()
    for name in ('energy', 'forces', 'stress', 'forces_std', 'member_energy', 'descriptors'):
        np.testing.assert_allclose(getattr(found, name), getattr(here, name), atol=1e-9)
    assert node.outputs.results['n_members'] == 2
