import pytest
from aiida.engine import run_get_node

from aiida_mlipal.calculations.doctor import DoctorCalculation


@pytest.mark.codes
def test_job_reports_versions_device_and_an_energy(python_code):
    _, node = run_get_node(DoctorCalculation, code=python_code)
    assert node.is_finished_ok, node.exit_message
    results = node.outputs.results.get_dict()
    assert {'python', 'torch', 'mace-torch', 'ase'} <= set(results['software'])
    assert results['device'] == 'cpu'
    assert results['max_force'] > 1e-3
    assert results['deviation'] < 1e-8
    assert isinstance(results['energy'], float)
