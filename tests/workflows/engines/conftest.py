"""Fixtures for tests of label engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from aiida import orm
from aiida_quantumespresso.workflows.protocols.utils import recursive_merge

from tests.workflows.conftest import local_code

#: Quick, but smooth enough for finite differences.
QUICK_CP2K = {
    'FORCE_EVAL': {
        'DFT': {
            'BASIS_SET_FILE_NAME': 'BASIS_MOLOPT',
            'POTENTIAL_FILE_NAME': 'GTH_POTENTIALS',
            'MGRID': {'CUTOFF': 240, 'REL_CUTOFF': 40},
            'QS': {'METHOD': 'GPW', 'EPS_DEFAULT': 1e-11},
            'SCF': {'EPS_SCF': 1e-7},
            'XC': {'XC_FUNCTIONAL': {'_': 'PBE'}},
        },
        'SUBSYS': {'KIND': [{'_': 'DEFAULT', 'BASIS_SET': 'DZVP-MOLOPT-SR-GTH', 'POTENTIAL': 'GTH-PBE'}]},
    }
}
#: bohr. States that a crystal is meant to be labelled with CP2K's own xTB.
SR_CUT = {'FORCE_EVAL': {'DFT': {'QS': {'XTB': {'PARAMETER': {'COULOMB_SR_CUT': 20}}}}}}
XTB = {'FORCE_EVAL': {'DFT': {'QS': {'METHOD': 'XTB'}, 'SCF': {'EPS_SCF': 1e-9}}}}


@pytest.fixture
def cp2k_code(aiida_localhost, cp2k_executable) -> orm.InstalledCode:
    """Return an InstalledCode for CP2K on the local computer."""
    return local_code(aiida_localhost, 'cp2k', cp2k_executable, 'cp2k')


@pytest.fixture
def cp2k_inputs(cp2k_code) -> Callable[..., dict[str, Any]]:
    """Return a function that builds the inputs of the engine for ASE structures."""
    from aiida_mlipal.workflows.engines import load_engine

    def build(atoms: Sequence[Any], parameters: Mapping[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
        merged = recursive_merge(QUICK_CP2K, dict(parameters or {}))
        values = {'parameters': merged, 'clean_workdir': True, 'max_iterations': 2, **settings}
        options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
        structures = [orm.StructureData(ase=item) for item in atoms]
        return load_engine('cp2k').build(cp2k_code, structures, values, options)

    return build
