"""Spin, Hubbard U and molecules from real pw.x: states differ as they must, and forces belong to the energies."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms
from ase.build import bulk

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.label import LabelWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long]


def _label(
    quick_pw_label, pseudo_family, frames: list[Atoms], distance: float, columns: dict, **system
) -> Configurations:
    """Return the labels of ``frames`` at a tight convergence threshold."""
    inputs = dict(quick_pw_label['engine_inputs'])
    parameters = deepcopy(inputs['parameters'].get_dict())
    parameters['SYSTEM'] = {'occupations': 'smearing', 'smearing': 'gaussian', 'degauss': 0.03, **system}
    parameters['ELECTRONS'] = {'conv_thr': 1e-10, 'mixing_beta': 0.3}
    family = orm.load_group(pseudo_family)
    elements = {symbol for atoms in frames for symbol in atoms.get_chemical_symbols()}
    inputs.update(
        parameters=orm.Dict(parameters),
        kpoints_distance=orm.Float(distance),
        pseudos={element: family.get_pseudo(element) for element in elements},
    )
    configurations = ConfigurationsData(Configurations.from_atoms(frames, **columns))
    _, node = run_get_node(LabelWorkChain, configurations=configurations, **{**quick_pw_label, 'engine_inputs': inputs})
    assert node.is_finished, node.exception
    labels = node.outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    return labels


def _displaced(atoms: Atoms, axis: int, step: float) -> list[Atoms]:
    """Return ``atoms``, and the same with the second atom moved forth and back by ``step`` Å."""
    frames = [atoms]
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[1, axis] += sign * step
        frames.append(moved)
    return frames


def _slope(labels: Configurations, rows: slice, step: float) -> float:
    """Return the force along the displacement, from the energies."""
    _, forth, back = labels.energy[rows]
    return -(forth - back) / (2 * step)


def _iron(moments: list[float]) -> Atoms:
    atoms = bulk('Fe', a=2.87, cubic=True)
    atoms.positions[1, 2] += 0.06
    atoms.set_initial_magnetic_moments(moments)
    return atoms


@pytest.mark.parametrize('system', [{}, {'lda_plus_u': True, 'hubbard_u': {'Fe': 2.0}}], ids=['lda', 'lda+u'])
def test_iron_has_two_magnetic_states(quick_pw_label, pseudo_family, system):
    """Ferromagnetic iron is lower than antiferromagnetic iron; both have the forces that belong to their energy."""
    frames = [*_displaced(_iron([2.2, 2.2]), 2, 0.02), *_displaced(_iron([2.2, -2.2]), 2, 0.02)]
    labels = _label(quick_pw_label, pseudo_family, frames, 2.0, {}, nspin=2, ecutwfc=30.0, ecutrho=300.0, **system)
    ferro, antiferro = slice(0, 3), slice(3, 6)
    assert (labels.magnetization[ferro] > 3).all()
    np.testing.assert_allclose(labels.magnetization[antiferro], 0, atol=0.05)
    assert labels.energy[3] - labels.energy[0] > 0.1
    for rows in (ferro, antiferro):
        force = labels.forces[labels.offsets[rows.start] + 1, 2]
        assert abs(force) > 0.05
        assert force == pytest.approx(_slope(labels, rows, 0.02), abs=2e-3)


def test_hydrogen_molecule_and_its_cation_in_a_box(quick_pw_label, pseudo_family):
    """A molecule needs no k-points and has no stress; its cation is one electron short and in a doublet."""
    atoms = Atoms('H2', positions=[[3.0, 3.5, 3.5], [3.85, 3.5, 3.5]], cell=[7.0, 7.2, 7.4])
    neutral, cation = _displaced(atoms, 0, 0.005), _displaced(atoms, 0, 0.005)  # a stiff and anharmonic bond
    labels = _label(
        quick_pw_label,
        pseudo_family,
        [*neutral, *cation],
        1.0,
        {'charge': [0] * 3 + [1] * 3, 'multiplicity': [1] * 3 + [2] * 3},
        ecutwfc=30.0,
        degauss=0.002,
        assume_isolated='martyna-tuckerman',
        vdw_corr='grimme-d2',
    )
    np.testing.assert_allclose(labels.magnetization, [0] * 3 + [1] * 3, atol=1e-3)
    assert labels.energy[3] - labels.energy[0] == pytest.approx(15.4, abs=0.5), 'ionisation energy of H2, eV'
    assert np.isnan(labels.stress).all()
    for rows in (slice(0, 3), slice(3, 6)):
        assert labels.forces[labels.offsets[rows.start] + 1, 0] == pytest.approx(_slope(labels, rows, 0.005), abs=2e-3)
