"""A level of theory in anybody's words is put as the engine puts it; what it cannot describe is refused."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from ase.build import bulk

from aiida_mlipal.science.level_of_theory import digest
from aiida_mlipal.workflows.engines.cp2k_inputs import complete_parameters
from aiida_mlipal.workflows.engines.cp2k_level_of_theory import cp2k_level_of_theory
from aiida_mlipal.workflows.harvest.cp2k import _k_points
from aiida_mlipal.workflows.harvest.cp2k_theory import (
    check_described,
    periodicity,
    plain_sections,
    shared_parameters,
    spin_of,
)
from aiida_mlipal.workflows.harvest.levels import matching, sort_by_level
from aiida_mlipal.workflows.harvest.sources import ANY_RULE, KPoints, Source

XTB = {'QS': {'METHOD': 'XTB', 'XTB': {'PARAMETER': {'COULOMB_SR_CUT': 20}}}}
MESH = {'scheme': 'Monkhorst-Pack', 'mesh_of': 'reference cell'}


def _sections(dft: dict[str, Any], **force_eval: Any) -> dict[str, Any]:
    return plain_sections({'FORCE_EVAL': {'DFT': deepcopy(dft), **force_eval}})


def _theory(parameters: dict[str, Any], symbols: dict[str, str]) -> dict[str, Any]:
    return cp2k_level_of_theory(shared_parameters(parameters, symbols), None, None, None)


def _engine_theory(dft: dict[str, Any], elements: list[str], **force_eval: Any) -> dict[str, Any]:
    sections = {'FORCE_EVAL': {'DFT': dft, **force_eval}}
    return cp2k_level_of_theory(complete_parameters(sections, k_points=False, elements=elements), None, None, None)


@pytest.mark.parametrize(
    ('written', 'meant'),
    [
        ({'QS': {**XTB['QS'], 'XTB': {**XTB['QS']['XTB'], 'DO_EWALD': '.TRUE.', 'CHECK_ATOMIC_CHARGES': True}}}, XTB),
        (
            {**XTB, 'CHARGE': 0, 'UKS': '.TRUE.', 'MULTIPLICITY': 3, 'SCF': {'EPS_SCF': 1e-4}, 'PRINT': {'PDOS': {}}},
            XTB,
        ),
        ({**XTB, 'CHARGE': '1'}, {**XTB, 'CHARGE': 1}),  # a periodic cell with a uniform background
        ({**XTB, 'POISSON': {'PERIODIC': 'XYZ', 'POISSON_SOLVER': 'periodic'}}, XTB),
        (
            {**XTB, 'SCF': {'SMEAR': {'_': 'ON', 'METHOD': 'FERMI_DIRAC', 'ELECTRONIC_TEMPERATURE': '500.0'}}},
            {**XTB, 'SCF': {'SMEAR': {'METHOD': 'FERMI_DIRAC', 'ELECTRONIC_TEMPERATURE': 500}}},
        ),
        ({**XTB, 'SCF': {'SMEAR': {'_': 'OFF'}}}, XTB),
        ({'QS': {**XTB['QS'], 'EXTRAPOLATION': 'ASPC', 'EXTRAPOLATION_ORDER': 3}}, XTB),
    ],
)
def test_words_of_a_user_and_of_the_engine(written, meant):
    assert digest(_theory(_sections(written), {'O': 'O'})) == digest(_engine_theory(meant, ['O']))


def test_a_molecule():
    """Charge, box and solver follow from the frame; another solver than the engine's is another level."""
    usual = {**XTB, 'CHARGE': 1, 'POISSON': {'PERIODIC': 'NONE', 'POISSON_SOLVER': 'MT'}}
    parameters = _sections(usual, SUBSYS={'CELL': {'PERIODIC': 'NONE'}})
    assert periodicity(parameters) == [False, False, False]
    assert digest(_theory(parameters, {'O': 'O'})) == digest(_engine_theory(XTB, ['O']))
    parameters['FORCE_EVAL']['DFT']['POISSON']['POISSON_SOLVER'] = 'WAVELET'
    assert _theory(parameters, {'O': 'O'})['dft']['POISSON'] == {'POISSON_SOLVER': 'WAVELET'}
    with pytest.raises(ValueError, match='no COULOMB_SR_CUT stated'):
        shared_parameters(_sections({'QS': {'METHOD': 'xTB'}}), {'O': 'O'})
    with pytest.raises(ValueError, match='CELL is periodic in NONE, POISSON in XYZ'):
        periodicity(_sections(XTB, SUBSYS={'CELL': {'PERIODIC': 'NONE'}}))


def test_dispersion_as_cp2k_assumes_it():
    """CP2K's own default is the older damping, the engine's is not."""
    functional = {'XC_FUNCTIONAL': {'_': 'PBE'}}
    dft = {'XC': {**functional, 'VDW_POTENTIAL': {'POTENTIAL_TYPE': 'PAIR_POTENTIAL'}}}
    shared = shared_parameters(_sections(dft), {'O': 'O'})
    assert shared['FORCE_EVAL']['DFT']['XC']['VDW_POTENTIAL']['PAIR_POTENTIAL']['TYPE'] == 'DFTD3'
    shared = shared_parameters(_sections({'XC': {**functional, 'VDW_POTENTIAL': {}}}), {'O': 'O'})
    assert 'VDW_POTENTIAL' not in shared['FORCE_EVAL']['DFT']['XC']


def test_kinds_of_one_element():
    """Moments and masses may differ between atoms of an element, the basis set may not."""
    kinds = [{'_': 'Fe1', 'MAGNETIZATION': 2, 'MASS': 57}, {'_': 'Fe2', 'MAGNETIZATION': -2}]
    symbols = {'Fe1': 'Fe', 'Fe2': 'Fe'}
    assert 'kinds' not in _theory(_sections(XTB, SUBSYS={'KIND': kinds}), symbols)
    kinds[0]['BASIS_SET'] = 'TZVP'
    with pytest.raises(ValueError, match='atoms of one element have different basis sets'):
        shared_parameters(_sections(XTB, SUBSYS={'KIND': kinds}), symbols)


@pytest.mark.parametrize(
    ('dft', 'expected'),
    [
        (XTB, (False, 0)),
        ({**XTB, 'MULTIPLICITY': 3}, (False, 0)),
        ({**XTB, 'LSD': 'T', 'MULTIPLICITY': 3}, (True, 3)),
        ({**XTB, 'UKS': True, 'MULTIPLICITY': 3, 'SCF': {'SMEAR': {}}}, (True, 0)),
        ({**XTB, 'UKS': True, 'SCF': {'SMEAR': {'FIXED_MAGNETIC_MOMENT': 2.0}}}, (True, 3)),
    ],
)
def test_spin(dft, expected):
    assert spin_of(_sections(dft)) == expected


@pytest.mark.parametrize(
    ('parameters', 'message'),
    [
        ({'FORCE_EVAL': [{'DFT': {}}, {'DFT': {}}]}, 'no FORCE_EVAL with DFT, or several'),
        ({'FORCE_EVAL': {'METHOD': 'FIST', 'DFT': {}}}, 'FORCE_EVAL.METHOD is FIST, not QUICKSTEP'),
        ({'FORCE_EVAL': {'DFT': {}, 'QMMM': {}}}, 'FORCE_EVAL.QMMM is described by no level of theory'),
        ({'FORCE_EVAL': {'DFT': {}}, 'MOTION': {'CONSTRAINT': {}}}, 'MOTION.CONSTRAINT changes the forces'),
        ({'FORCE_EVAL': {'DFT': {}, 'SUBSYS': {'CELL': {'ABC': '4 4 4'}}}}, 'cell or positions are set in'),
        ({'FORCE_EVAL': {'DFT': {}, 'SUBSYS': {'KIND': {'ELEMENT': 'H'}}}}, 'a KIND without a name'),
    ],
)
def test_what_no_level_describes(parameters, message):
    with pytest.raises(ValueError, match=message):
        check_described(parameters)


def test_k_points_of_a_section():
    cell = bulk('Na', cubic=True).cell.array

    def rules(**section: Any) -> KPoints:
        return _k_points(_sections({**XTB, 'KPOINTS': section}), {}, cell, [True] * 3, isolated=False)

    assert rules(SCHEME='GAMMA').gamma
    found = rules(SCHEME='MONKHORST-PACK 2 2 2', SYMMETRY='F')
    length = 2 * 3.141592653589793 / cell[0, 0]
    assert found.interval == pytest.approx((length / 2, length))
    assert found.given_by({'distance': 0.8 * length, **MESH})
    assert not found.given_by('gamma')
    assert not found.given_by({'distance': 0.8 * length, 'offset': [0, 0, 0], 'mesh_of': 'reference cell'})
    with pytest.raises(ValueError, match='a mesh of k-points that no distance gives'):
        rules(SCHEME='MONKHORST-PACK 4 4 1')
    with pytest.raises(ValueError, match='k-points other than a Monkhorst-Pack mesh'):
        rules(KPOINT=['0 0 0'])


def _source(number: int, k_points: KPoints, isolated: bool = False, **kinds: Any) -> Source:
    return Source(
        calculation=number, result=number, n_frames=1, n_atoms=1, isolated=isolated, k_points=k_points,
        rest={'code': 'cp2k', 'dft': {}, 'occupations': 'fixed' if isolated else {'METHOD': 'FERMI_DIRAC'}},
        by_element={'kinds': {'Fe': {}, **kinds}},
    )  # fmt: skip


def test_gamma_and_meshes(aiida_profile):
    """What is at Γ follows the distance of others if it gives Γ, else it is a level of its own; atoms join all."""
    small, large = KPoints(interval=(0.5, 1.0), rest=MESH), KPoints(interval=(0.4, 9.0), rest=MESH, gamma=True)
    alone, atom = KPoints(interval=None, rest={}, gamma=True), _source(9, ANY_RULE, isolated=True)
    levels, left_out = sort_by_level([_source(1, small), _source(2, large), _source(3, alone), atom], 'gamma')
    mesh, gamma = sorted(levels, key=lambda level: str(level.description['k_points']) == 'gamma')
    assert mesh.description['k_points'] == {'distance': 0.5, **MESH}
    assert [item.calculation for item in mesh.sources] == [1, 2, 9]
    assert gamma.description['k_points'] == 'gamma'
    assert [item.calculation for item in gamma.sources] == [2, 3, 9]
    assert not left_out
    (level,), _ = sort_by_level([_source(2, large)], 'gamma')
    assert level.description['k_points'] == 'gamma'
    assert 'kinds' not in level.description
    wanted, left_out = matching([_source(1, small)], level.description)
    assert not wanted.sources
    assert dict(left_out) == {'another mesh of k-points than Γ alone': 1}


def test_an_element_with_settings_of_its_own(aiida_profile):
    gamma = KPoints(interval=None, rest={}, gamma=True)
    plain, with_u = _source(1, gamma), _source(2, gamma, Fe={'DFT_PLUS_U': {'L': 2}})
    levels, _ = sort_by_level([plain, with_u, _source(3, gamma, O={})], 'gamma')
    assert [[item.calculation for item in level.sources] for level in levels] == [[1, 3], [2]]
    assert levels[1].description['kinds'] == {'Fe': {'DFT_PLUS_U': {'L': 2}}}
    taken, left_out = matching([plain, with_u], levels[1].description)
    assert [item.calculation for item in taken.sources] == [2]
    assert dict(left_out) == {'another level of theory: kinds.Fe.DFT_PLUS_U.L: 2 -> (absent)': 1}
