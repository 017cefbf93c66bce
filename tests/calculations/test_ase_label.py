import numpy as np
import pytest
from aiida.engine import run_get_node
from aiida.orm import Dict
from ase.calculators.emt import EMT

from aiida_mlipal.calculations.ase_label import AseLabelCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from tests.committee import copper


@pytest.mark.codes
def test_job_labels_frames_and_names_the_level_of_theory(python_code):
    frames = Configurations.from_atoms([copper(1), copper(2)])
    _, node = run_get_node(
        AseLabelCalculation,
        code=python_code, configurations=ConfigurationsData(frames), settings=Dict({'calculator': 'emt'}),
    )  # fmt: skip
    assert node.is_finished_ok, node.exit_message
    labels = node.outputs.labels.configurations
    assert labels.frame_id.tolist() == frames.frame_id.tolist()
    assert labels.is_labelled.all()
    atoms = copper(2)
    atoms.calc = EMT()
    assert labels.energy[1] == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(labels.stress[1], atoms.get_stress())
    assert node.outputs.labels.level_of_theory == {'calculator': 'emt', 'code': 'ase', 'parameters': {}}


def test_unknown_calculator_is_refused_before_submission(python_code):
    frames = ConfigurationsData(Configurations.from_atoms([copper(1)]))
    with pytest.raises(ValueError, match='Did you mean `tblite`'):
        run_get_node(
            AseLabelCalculation, code=python_code, configurations=frames, settings=Dict({'calculator': 'tblight'})
        )


@pytest.mark.codes
def test_a_model_is_a_teacher(python_code, committee_node):
    """The files of the model travel with the job, and its checksum is in the level of theory."""
    frames = ConfigurationsData(Configurations.from_atoms([copper(1)]))
    _, node = run_get_node(
        AseLabelCalculation,
        code=python_code, configurations=frames, model=committee_node, settings=Dict({'calculator': 'mace'}),
    )  # fmt: skip
    assert node.is_finished_ok, node.exit_message
    labels = node.outputs.labels
    assert labels.configurations.is_labelled.all(), labels.configurations.reason
    assert labels.level_of_theory['model'] == committee_node.digest
    assert node.outputs.results['software']['mace-torch']


def test_labels_of_other_frames_are_not_continued(python_code):
    first, second = (ConfigurationsData(Configurations.from_atoms([copper(seed)])) for seed in (1, 2))
    with pytest.raises(ValueError, match='`previous` holds other frames'):
        run_get_node(
            AseLabelCalculation,
            code=python_code, configurations=first, previous=second, settings=Dict({'calculator': 'emt'}),
        )  # fmt: skip
