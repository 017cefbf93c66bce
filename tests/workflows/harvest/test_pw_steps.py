"""Which ionic steps are labels, and that they are what a calculation of their own would give."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.plugins import CalculationFactory
from ase.build import bulk

from aiida_mlipal.calculations.functions.harvest import HarvestSettings
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.units import BOHR, GPA, RY_TO_EV
from aiida_mlipal.workflows.harvest.driver import harvest
from aiida_mlipal.workflows.harvest.pw import PwReader
from aiida_mlipal.workflows.harvest.pw_steps import ionic_steps
from tests.workflows.harvest.conftest import PARAMETERS, silicon

#: As pw.x 6.7 prints it.
FINAL = '     Final scf calculation at the relaxed structure.'


def _steps(node, **level):
    return ionic_steps(node.outputs.output_trajectory, {'system': {}, **level})


def _strained(percents):
    frames = []
    for percent in percents:
        atoms = silicon(1)
        atoms.set_cell(atoms.cell * (1 + percent / 100), scale_atoms=True)
        frames.append(atoms)
    return frames


def test_stress_sign_names_and_steps(finished):
    stdout = 'Total force = 0.1     Total SCF correction =     0.000100\n' * 3
    frames = _steps(finished([silicon(i) for i in range(3)], CONTROL={'calculation': 'relax'}, stdout=stdout))
    np.testing.assert_allclose(frames.scf_force_error, 1e-4 * RY_TO_EV / BOHR)
    assert frames.step.tolist() == [0, 1, 2]
    assert len(set(frames.trajectory.tolist())) == 1
    assert frames.trajectory[0].startswith('relax-')
    np.testing.assert_array_equal(frames.reference_cell[2], silicon(0).cell.array)
    assert frames.is_labelled.all()
    stretched = _strained([3.0])[0]
    frames = _steps(finished(stretched))
    strain = stretched.get_volume() / 40.0 - 1
    np.testing.assert_allclose(frames.stress[0], 0.05 * strain * np.array([1, 1, 1, 0, 0, 0]), atol=1e-12)


def test_vc_relax_keeps_steps_near_the_first_cell_and_the_final_scf(finished):
    """pw.x keeps its plane waves while the cell changes; the final SCF has a basis of its own."""
    cells = _strained([0.0, 0.4, 0.8])
    extra = {name: np.concatenate((values, values[-1:])) for name, values in {
        'energy': np.array([-200.0, -200.1, -200.2]), 'forces': np.zeros((3, 2, 3)), 'stress': np.zeros((3, 3, 3)),
        'scf_iterations': np.full(3, 7)}.items()}  # fmt: skip
    control = {'CONTROL': {'calculation': 'vc-relax'}}
    frames = _steps(finished(cells, arrays=extra, stdout=FINAL, exit_status=501, **control))
    assert frames.status.tolist() == ['labelled', 'labelled', 'rejected', 'labelled']
    assert 'more than 0.5% since pw.x chose the plane waves' in frames.reason[2]
    np.testing.assert_array_equal(frames.cell[3], cells[-1].cell.array)
    # without a final SCF the last entry repeats the last step
    assert len(_steps(finished(cells, arrays=extra, exit_status=502, **control))) == 3
    assert len(_steps(finished(cells, arrays=extra, stdout=FINAL, exit_status=511, **control))) == 3


def test_an_scf_that_used_all_its_steps_is_no_label(finished):
    frames = _steps(
        finished(
            [silicon(1), silicon(2)],
            arrays={'scf_iterations': [5, 4]},
            CONTROL={'calculation': 'relax'},
            ELECTRONS={'electron_maxstep': 5, 'scf_must_converge': False},
        )
    )
    assert frames.reason.tolist() == ['the SCF did not converge in 5 steps', '']
    assert np.isnan(frames.energy[0])


@pytest.mark.parametrize(
    ('arguments', 'reason'),
    [
        ({'exit_status': 410}, 'scf ended with exit status 410: it went wrong'),
        ({'exit_status': 710}, 'scf ended with exit status 710: it went wrong'),
        ({'exit_status': 531, 'CONTROL': {'calculation': 'relax'}}, 'relax ended with exit status 531: it went wrong'),
        ({'CONTROL': {'calculation': 'bands'}}, '`bands` calculations have no forces'),
        ({'arrays': {'energy': None}}, 'scf without energy'),
        ({'outputs': {'output_trajectory': None}}, 'scf without a trajectory'),
        ({'SYSTEM': {'input_dft': 'PBE'}}, 'functionals are mixed: .*'),
    ],
)
def test_what_offers_nothing(finished, arguments, reason):
    import re

    sources, left_out = PwReader().sources([finished(silicon(1), **arguments).pk])
    assert sources == []
    assert re.fullmatch(reason, next(iter(left_out)), re.DOTALL)


@pytest.mark.parametrize('exit_status', [400, 500, 502, 510, 520])
def test_steps_before_a_bad_end_are_labels(finished, exit_status):
    node = finished([silicon(1), silicon(2)], exit_status=exit_status, CONTROL={'calculation': 'relax'})
    (source,), left_out = PwReader().sources([node.pk])
    assert source.n_frames == 2
    assert not left_out


def test_spin_and_charge_of_a_frame(finished):
    """One spin state is a multiplicity; free moments are initial moments, in µB; charge is the frame's."""
    fixed = _steps(finished(silicon(1), SYSTEM={'nspin': 2, 'tot_magnetization': 2, 'tot_charge': 1}))
    assert (fixed.multiplicity[0], fixed.charge[0]) == (3, 1)
    assert not fixed.initial_moments.any()
    stated = _steps(finished(silicon(1), SYSTEM={'nspin': 2, 'tot_magnetization': 2}), system={'tot_magnetization': 2})
    assert stated.multiplicity[0] == 0
    free = finished(
        silicon(1), SYSTEM={'nspin': 2, 'starting_magnetization': {'Si': 0.25}}, arrays={'total_magnetization': [1.5]}
    )
    frames = _steps(free)
    np.testing.assert_allclose(frames.initial_moments, 1.0)  # a quarter of four valence electrons
    assert frames.magnetization[0] == 1.5


@pytest.mark.codes
def test_steps_are_what_single_points_give(pw_code, pseudo_family):
    """Real pw.x: each step of a relaxation, a cell relaxation and MD has the energy and forces of its own SCF."""
    pseudo = orm.load_group(pseudo_family).get_pseudo('Si')
    kpoints = orm.KpointsData()
    kpoints.set_kpoints_mesh((2, 2, 2))

    def run(atoms, **control):
        builder = CalculationFactory('quantumespresso.pw').get_builder()
        builder.code, builder.structure, builder.kpoints = pw_code, orm.StructureData(ase=atoms), kpoints
        builder.pseudos = {'Si': pseudo}
        # Without symmetry pw.x takes the same k-points for every shape of the cell.
        system = {**PARAMETERS['SYSTEM'], 'nosym': True, 'noinv': True}
        electrons = {'conv_thr': 1e-10}
        control = {**PARAMETERS['CONTROL'], **control}
        namelists = {'CONTROL': control, 'SYSTEM': system, 'ELECTRONS': electrons}
        if control['calculation'] == 'vc-relax':
            control.update(etot_conv_thr=1e-3, forc_conv_thr=2e-2)
            namelists['CELL'] = {'press_conv_thr': 10.0}
        builder.parameters = orm.Dict(namelists)
        builder.metadata.options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
        return run_get_node(builder)[1]

    start = bulk('Si', a=5.40)
    start.positions[1] += [0.01, 0.005, -0.005]
    group, _ = orm.Group.collection.get_or_create('steps')
    nodes = [run(start, calculation='relax'), run(start, calculation='vc-relax'), run(start, calculation='md', nstep=3)]
    group.add_nodes(nodes)
    result = harvest(group=group, settings=HarvestSettings(thin=0.0))
    (level,) = result.levels
    assert trace(level.dataset).gaps == []
    frames = level.frames
    assert {name.rsplit('-', 1)[0] for name in frames.trajectory[frames.is_labelled].tolist()} >= {'relax', 'vc-relax'}
    assert (frames.scf_force_error[frames.is_labelled] < 1e-3).all()
    last = [
        np.flatnonzero((frames.trajectory == name) & frames.is_labelled).max(initial=0)
        for name in set(frames.trajectory.tolist())
    ]
    for row in sorted({0, *map(int, last)}):
        atoms = frames.atoms(row)
        trajectory = run(atoms).outputs.output_trajectory
        rigid = np.allclose(frames.cell[row], frames.reference_cell[row], atol=1e-6)
        final = frames.trajectory[row].startswith('vc')
        assert frames.energy[row] == pytest.approx(
            trajectory.get_array('energy')[-1], abs=1e-5 if rigid or final else 5e-3
        )
        forces = frames.forces[frames.offsets[row] : frames.offsets[row + 1]]
        np.testing.assert_allclose(forces, trajectory.get_array('forces')[-1], atol=2e-3 if rigid or final else 0.02)
        stress = -np.asarray(trajectory.get_array('stress')[-1]).diagonal() * GPA
        np.testing.assert_allclose(frames.stress[row, :3], stress, atol=1e-3)
