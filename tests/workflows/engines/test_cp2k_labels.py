"""Labels from real CP2K: derivatives of the energy, signs, spin, failures as rows."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida_quantumespresso.workflows.protocols.utils import recursive_merge
from ase import Atoms
from ase.build import bulk

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.label import LabelWorkChain
from tests.workflows.engines.conftest import SR_CUT, XTB

pytestmark = pytest.mark.codes

#: Å; short, because the error of the grid changes over 0.1 Å and has derivatives of its own.
STEP = 0.002
#: A minimal basis makes no difference to whether the forces are derivatives of the energy.
MINIMAL = {
    'FORCE_EVAL': {
        'SUBSYS': {'KIND': [{'_': 'DEFAULT', 'BASIS_SET': 'SZV-MOLOPT-SR-GTH', 'POTENTIAL': 'GTH-PBE'}]},
    }
}


def _water() -> Atoms:
    return Atoms('OHH', positions=[[0.0, 0.0, 0.0], [0.82, 0.58, 0.03], [-0.70, 0.62, -0.05]])


def _salt() -> Atoms:
    atoms = bulk('NaCl', 'rocksalt', a=5.6)
    atoms.positions[1] += [0.35, -0.20, 0.15]
    return atoms


def _displaced(atoms: Atoms, step: float = STEP) -> list[Atoms]:
    """Return ``atoms`` and two copies with the first atom moved along x, forth and back."""
    frames = [atoms]
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions[0, 0] += sign * step
        frames.append(moved)
    return frames


def _strained(atoms: Atoms, strain: float) -> list[Atoms]:
    """Return two copies of ``atoms``, stretched and compressed in all directions."""
    frames = []
    for sign in (1, -1):
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array * (1 + sign * strain), scale_atoms=True)
        frames.append(copy)
    return frames


def _label(inputs, configurations: Configurations, **settings):
    """Run a LabelWorkChain and return its node."""
    _, node = run_get_node(
        LabelWorkChain,
        configurations=ConfigurationsData(configurations),
        engine=orm.Str('cp2k'),
        engine_inputs=inputs,
        max_concurrent=orm.Int(1),
        **settings,
    )
    return node


def _assert_forces(labels: Configurations) -> None:
    force = -(labels.energy[1] - labels.energy[2]) / (2 * STEP)
    assert abs(force) > 0.05, 'the comparison would say nothing'
    assert labels.forces[0, 0] == pytest.approx(force, abs=2e-3)


def _assert_stress(labels: Configurations, volume: float, strain: float) -> None:
    """dE/d(strain) of an isotropic strain is the volume times the trace of the stress."""
    trace_stress = (labels.energy[3] - labels.energy[4]) / (2 * strain) / volume
    assert labels.stress[0, :3].sum() == pytest.approx(trace_stress, rel=0.02)


def test_water_with_xtb(cp2k_inputs):
    """A molecule without a cell: forces, an empty stress, no gap in the lineage, and nothing paid twice."""
    frames = Configurations.from_atoms(_displaced(_water()))
    node = _label(cp2k_inputs([_water()], XTB), frames)
    assert node.is_finished_ok, node.exit_message
    labels = node.outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    _assert_forces(labels)
    assert np.isnan(labels.stress).all()
    assert node.outputs.labels.level_of_theory['functional'] == 'GFN1-xTB'
    assert trace(node).gaps == []
    costs = node.outputs.costs.chunk_000
    assert costs['n_electrons'] == [10.0] * 3
    again = _label(cp2k_inputs([_water()], XTB), frames)
    assert not [item for item in again.called_descendants if item.process_label == 'Cp2kCalculation']


def test_salt_with_xtb(cp2k_inputs):
    """Derivatives only: as a model of rocksalt CP2K's own xTB is wrong, and collapses."""
    atoms = bulk('NaCl', 'rocksalt', a=5.6)
    atoms.positions[1] += [0.12, -0.07, 0.05]
    frames = Configurations.from_atoms(_displaced(atoms) + _strained(atoms, 0.0005))
    inputs = cp2k_inputs([atoms], recursive_merge(XTB, SR_CUT))
    labels = _label(inputs, frames).outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    _assert_forces(labels)
    _assert_stress(labels, atoms.get_volume(), 0.0005)


def test_energies_of_crystals_with_xtb_hang_on_a_cut_off(cp2k_inputs):
    """Why a crystal is refused unless the cut-off is stated. If this fails, CP2K is mended: lift the refusal."""
    atoms = bulk('NaCl', 'rocksalt', a=5.6, cubic=True)
    frames = Configurations.from_atoms([atoms])
    with pytest.raises(ValueError, match='own xTB depend on the cut-off of a lattice sum'):
        _label(cp2k_inputs([atoms], XTB), frames)
    energies = []
    for cut in (20, 30):
        stated = {
            'FORCE_EVAL': {'DFT': {'QS': {'XTB': {'PARAMETER': {'COULOMB_SR_CUT': cut, 'COULOMB_SR_EPS': 1e-5}}}}}
        }
        labels = _label(cp2k_inputs([atoms], recursive_merge(XTB, stated)), frames).outputs.labels.configurations
        energies.append(labels.energy[0] / len(atoms))
    assert abs(energies[1] - energies[0]) > 0.05, 'eV per atom'


def test_water_with_gpw(cp2k_inputs):
    frames = Configurations.from_atoms(_displaced(_water()))
    labels = _label(cp2k_inputs([_water()], MINIMAL), frames).outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    _assert_forces(labels)
    assert np.isnan(labels.stress).all()


def test_the_net_force_of_a_coarse_grid(cp2k_inputs):
    """0.6 eV/Å for water at 150 Ry, where 240 Ry and more give 0.03 to 0.16: the label is a row with the reason."""
    coarse = {'FORCE_EVAL': {'DFT': {'MGRID': {'CUTOFF': 150, 'REL_CUTOFF': 30}}}}
    inputs, frames = cp2k_inputs([_water()], recursive_merge(MINIMAL, coarse)), Configurations.from_atoms([_water()])
    node = _label(inputs, frames, max_attempts=orm.Int(1))
    reason = node.outputs.labels.configurations.reason[0]
    assert reason.startswith('the sum of the forces over the square root of the number of atoms')
    assert reason.endswith('is above 0.5 eV/Å: use a finer grid')
    labels = _label(inputs, frames, checks=orm.Dict({'max_net_force': 2.0})).outputs.labels.configurations
    assert labels.is_labelled.all(), 'what was computed is kept for wider thresholds'
    assert 0.5 < np.linalg.norm(labels.forces.sum(axis=0)) / np.sqrt(3) < 2.0


@pytest.mark.long
def test_salt_with_gpw(cp2k_inputs):
    atoms = _salt()
    fine = {'FORCE_EVAL': {'DFT': {'MGRID': {'CUTOFF': 400, 'REL_CUTOFF': 80}, 'QS': {'EPS_DEFAULT': 1e-12}}}}
    frames = Configurations.from_atoms(_displaced(atoms) + _strained(atoms, 0.004))
    labels = _label(cp2k_inputs([atoms], recursive_merge(MINIMAL, fine)), frames).outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    _assert_forces(labels)
    _assert_stress(labels, atoms.get_volume(), 0.004)
    assert labels.stress[4, :3].sum() < labels.stress[3, :3].sum() < 0, 'compression must make the stress negative'


def _steps(number: int) -> dict:
    """Return an SCF of so many steps."""
    outer = {'MAX_SCF': 1, 'EPS_SCF': 1e-7}
    return {'FORCE_EVAL': {'DFT': {'SCF': {'EPS_SCF': 1e-7, 'MAX_SCF': number, 'OUTER_SCF': outer}}}}


def test_an_scf_that_does_not_converge(cp2k_inputs):
    """Without a second attempt it is a row with its reason; with one, conjugate gradients and more steps mend it."""
    inputs = cp2k_inputs([_water()], recursive_merge(XTB, _steps(2)), max_iterations=1)
    frames = Configurations.from_atoms([_water()])
    node = _label(inputs, frames, max_attempts=orm.Int(1), reuse=orm.Bool(False))
    assert node.exit_status == LabelWorkChain.exit_codes.ERROR_ALL_LABELS_FAILED.status
    labels = node.outputs.labels.configurations
    assert labels.status.tolist() == ['rejected']
    assert labels.reason.tolist() == ['the SCF did not converge']
    node = _label(inputs, frames, max_attempts=orm.Int(2), reuse=orm.Bool(False))
    assert node.is_finished_ok, node.exit_message
    assert node.outputs.labels.configurations.is_labelled.all()
    assert node.outputs.costs.chunk_000['n_attempts'] == [2]
    assert trace(node).gaps == []


def test_the_handler_goes_on_from_the_last_wavefunctions(cp2k_inputs):
    """The SCF needs more steps than one calculation has; the second begins where the first stopped."""
    inputs = cp2k_inputs([_water()], recursive_merge(XTB, _steps(4)), max_iterations=5)
    node = _label(inputs, Configurations.from_atoms([_water()]), max_attempts=orm.Int(1), reuse=orm.Bool(False))
    assert node.is_finished_ok, node.exit_message
    calculations = [item for item in node.called_descendants if item.process_label == 'Cp2kCalculation']
    assert len(calculations) > 1
    assert trace(node).gaps == []


def test_isolated_atoms(cp2k_inputs):
    """A hydrogen atom is a doublet with the energy of one electron."""
    atoms = [Atoms('H', positions=[[2.4, 2.6, 2.7]], cell=[5.0, 5.2, 5.4], pbc=True)]
    frames = Configurations.from_atoms(atoms, multiplicity=2, role='isolated_atom')
    labels = _label(cp2k_inputs(atoms), frames).outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    assert labels.magnetization[0] == pytest.approx(1.0, abs=1e-3)
    assert labels.energy[0] == pytest.approx(-13.6, abs=1.5), 'the box is minute'


@pytest.mark.long
def test_oxygen_is_a_triplet(cp2k_inputs):
    atoms = [Atoms('O', positions=[[2.4, 2.6, 2.7]], cell=[5.0, 5.2, 5.4], pbc=True)]
    coarse = {'FORCE_EVAL': {'DFT': {'MGRID': {'CUTOFF': 120}, 'SCF': {'EPS_SCF': 1e-5}}}}
    frames = Configurations.from_atoms(atoms * 2, multiplicity=[3, 5], role='isolated_atom')
    labels = _label(cp2k_inputs(atoms, coarse), frames).outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    np.testing.assert_allclose(labels.magnetization, [2.0, 4.0], atol=1e-3)
    assert labels.energy[0] < labels.energy[1] - 1


def test_doctor(cp2k_code):
    from aiida_mlipal.cli.doctor import _check_cp2k

    finding = _check_cp2k(cp2k_code, {'resources': {'num_machines': 1}}, None)
    assert finding.mend == ''
    assert finding.found.startswith('CP2K 20')


@pytest.mark.long
def test_a_metal_has_the_free_energy(cp2k_inputs):
    """Sodium with k-points and a wide smearing: the entropy term is far larger than the tolerance.

    Its semicore states need a fine grid: at 240 Ry the net force is 19 eV/Å. At 600 Ry the three cells have 64 grid
    points along an axis each; where that number changes with the strain (800 Ry), the energy jumps by 10 meV.
    """
    atoms = bulk('Na', cubic=True)
    atoms.positions[1] += [0.5, -0.3, 0.2]
    smeared = {
        'FORCE_EVAL': {
            'DFT': {
                'MGRID': {'CUTOFF': 600, 'REL_CUTOFF': 80},
                'QS': {'EPS_DEFAULT': 1e-12},
                'SCF': {'SMEAR': {'METHOD': 'FERMI_DIRAC', 'ELECTRONIC_TEMPERATURE': 5000}},
            }
        }
    }
    frames = Configurations.from_atoms(_displaced(atoms) + _strained(atoms, 0.004), reference_cell=atoms.cell.array)
    node = _label(cp2k_inputs([atoms], recursive_merge(MINIMAL, smeared), kpoints_distance=0.8), frames)
    labels = node.outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    _assert_forces(labels)
    _assert_stress(labels, atoms.get_volume(), 0.004)
    assert trace(node).gaps == []
