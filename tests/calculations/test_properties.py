import pytest
from aiida.engine import run_get_node
from aiida.orm import Dict
from ase.build import bulk, molecule

from aiida_mlipal.calculations.properties import PropertiesCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.seeds import generate


@pytest.mark.codes
def test_job_fits_an_equation_of_state_per_parent(python_code, committee_node):
    parents = Configurations.from_atoms([bulk('Cu', 'fcc', a=3.6, cubic=True), bulk('Cu', 'fcc', a=3.6)])
    recipe = [{'generator': 'isotropic_strain', 'n_frames': 7, 'min': -0.06, 'max': 0.06}]
    cells = ConfigurationsData(generate(parents, recipe, seed=0))
    _, node = run_get_node(PropertiesCalculation, code=python_code, model=committee_node, configurations=cells)
    assert node.is_finished_ok, node.exit_message
    curves = node.outputs.results['eos']
    cubic, primitive = (curves[parent] for parent in parents.frame_id.tolist())
    assert len(cubic['volumes']) == 7
    assert cubic['v0'] == pytest.approx(cubic['a0'] ** 3)
    # The same crystal in two cells: a primitive vector is shorter by the square root of two.
    assert primitive['a0'] * 2**0.5 == pytest.approx(cubic['a0'], rel=1e-4)
    assert primitive['e0'] * 4 == pytest.approx(cubic['e0'], abs=1e-4)


def test_molecules_are_refused(python_code, committee_node):
    frames = ConfigurationsData(Configurations.from_atoms([molecule('H2')]))
    with pytest.raises(ValueError, match='needs crystals'):
        run_get_node(
            PropertiesCalculation, code=python_code, model=committee_node, configurations=frames, settings=Dict({})
        )
