import pytest
from aiida.engine import run_get_node
from aiida.orm import Dict, Int

from aiida_mlipal.calculations.generate import GenerateCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.seeds import generate
from tests.committee import copper

RECIPE = [{'generator': 'rattle', 'n_frames': 3}, {'generator': 'isolated_atoms'}]


@pytest.mark.codes
def test_job_returns_the_same_seeds_as_a_call(python_code):
    parents = Configurations.from_atoms([copper(1)])
    _, node = run_get_node(
        GenerateCalculation,
        code=python_code, parents=ConfigurationsData(parents), settings=Dict({'recipe': RECIPE}), seed=Int(4),
    )  # fmt: skip
    assert node.is_finished_ok, node.exit_message
    expected = generate(parents, RECIPE, 4).frame_id.tolist()
    assert node.outputs.configurations.configurations.frame_id.tolist() == expected


def test_bad_recipe_is_refused_before_submission(python_code):
    with pytest.raises(ValueError, match='Did you mean `rattle`'):
        run_get_node(
            GenerateCalculation,
            code=python_code, parents=ConfigurationsData(Configurations.from_atoms([copper(1)])),
            settings=Dict({'recipe': [{'generator': 'ratle'}]}), seed=Int(4),
        )  # fmt: skip
