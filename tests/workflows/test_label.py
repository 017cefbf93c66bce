"""Labels from real pw.x: values, failures as rows, reuse, order."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain
from aiida_mlipal.workflows.label import LabelWorkChain, _distribute
from tests.workflows.conftest import rattled_silicon

pytestmark = pytest.mark.codes


def _pw_calculations() -> int:
    return orm.QueryBuilder().append(orm.CalcJobNode, filters={'process_type': {'like': '%quantumespresso.pw'}}).count()


def test_labels_failures_and_reuse(quick_pw_label):
    """Good frames are labelled, a hopeless one is a row with its reason, and a repetition computes only that one."""
    frames = rattled_silicon(3, 1)
    parent = bulk('Si', a=5.43)
    frames[1].positions[1] = frames[1].positions[0]  # pw.x refuses atoms on top of each other
    configurations = ConfigurationsData(Configurations.from_atoms(frames, reference_cell=parent.cell.array))
    _, node = run_get_node(LabelWorkChain, configurations=configurations, **quick_pw_label)
    assert node.is_finished_ok, node.exit_message
    labels = node.outputs.labels.configurations
    assert labels.frame_id.tolist() == configurations.configurations.frame_id.tolist()
    assert labels.status.tolist() == ['labelled', 'rejected', 'labelled']
    assert labels.reason[1] == 'atoms 1 and 2 are on top of each other'
    assert np.isfinite(labels.stress[[0, 2]]).all()
    assert (labels.scf_force_error[[0, 2]] < 1e-3).all()  # eV/Å, at a conv_thr of 1e-8 Ry
    assert node.outputs.labels.level_of_theory['functional'] == 'PZ'
    assert trace(node).gaps == []

    before = _pw_calculations()
    _, again = run_get_node(LabelWorkChain, configurations=configurations, **quick_pw_label)
    repeated = again.outputs.labels.configurations
    assert repeated.status.tolist() == ['labelled', 'rejected', 'labelled']
    np.testing.assert_array_equal(repeated.energy[[0, 2]], labels.energy[[0, 2]])
    filters = {'id': {'>': again.pk}, 'process_type': {'like': '%quantumespresso.pw'}}
    calculations = orm.QueryBuilder().append(orm.CalcJobNode, filters=filters).all(flat=True)
    assert len(calculations) == _pw_calculations() - before > 0
    for calculation in calculations:
        np.testing.assert_allclose(calculation.inputs.structure.get_ase().positions, frames[1].positions, atol=1e-12)


def test_forces_and_stress_are_derivatives_of_the_energy(quick_pw_label):
    """Finite differences of the labelled energies at a fixed mesh agree with labelled forces and stress.

    The cell is compressed by 4 %, so that the stress is large beside that of plane waves which change with the cell
    (Pulay), and its sign is the one that ASE says.
    """
    step, strain = 0.01, 0.005
    atoms = rattled_silicon(1, seed=7)[0]
    atoms.set_cell(atoms.cell.array * 0.96, scale_atoms=True)
    moved = []
    for sign in (1, -1):
        copy = atoms.copy()
        copy.positions[0, 0] += sign * step
        moved.append(copy)
    for sign in (1, -1):
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array * (1 + sign * strain), scale_atoms=True)
        moved.append(copy)
    quick_pw_label['engine_inputs']['parameters'] = orm.Dict(
        {
            **quick_pw_label['engine_inputs']['parameters'].get_dict(),
            'SYSTEM': {'ecutwfc': 30.0, 'occupations': 'smearing', 'smearing': 'cold', 'degauss': 0.02},
            'ELECTRONS': {'conv_thr': 1e-11},
        }
    )
    frames = Configurations.from_atoms([atoms, *moved], reference_cell=bulk('Si', a=5.43).cell.array)
    _, node = run_get_node(LabelWorkChain, configurations=ConfigurationsData(frames), **quick_pw_label)
    labels = node.outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    force = -(labels.energy[1] - labels.energy[2]) / (2 * step)
    assert labels.forces[0, 0] == pytest.approx(force, abs=2e-3)
    # dE/d(strain) = V * trace(stress) for an isotropic strain.
    trace_stress = (labels.energy[3] - labels.energy[4]) / (2 * strain) / atoms.get_volume()
    assert labels.stress[0, :3].sum() == pytest.approx(trace_stress, rel=0.02)
    assert labels.stress[4, :3].sum() < labels.stress[3, :3].sum() < 0, 'compression must make the stress negative'


def test_inputs_that_a_parent_gets_as_one_dict_are_checked(quick_pw_label):
    """AiiDA validates the namespace before it fills in the defaults."""
    builder = ActiveLearningWorkChain.get_builder()
    builder.label = {'engine': quick_pw_label['engine'], 'engine_inputs': quick_pw_label['engine_inputs']}
    assert builder.label.engine == quick_pw_label['engine']
    with pytest.raises(ValueError, match='`max_attempts` is 0, expected 1 or more'):
        builder.label = {**quick_pw_label, 'max_attempts': orm.Int(0)}
    with pytest.raises(ValueError, match='unknown label engine `vasp`'):
        builder.label = {**quick_pw_label, 'engine': orm.Str('vasp')}


def test_no_more_at_a_time_than_allowed(quick_pw_label, pw_wrapped, tmp_path):
    """`max_concurrent` is 2: two calculations run side by side, the third waits."""
    log = tmp_path / 'times'
    code = pw_wrapped(f'start=$(date +%s.%N)\nsleep 1\n$PW "$@"\necho $start $(date +%s.%N) >> {log}\n')
    inputs = {**quick_pw_label, 'engine_inputs': {**quick_pw_label['engine_inputs'], 'code': code}}
    frames = ConfigurationsData(Configurations.from_atoms(rattled_silicon(3, 21)))
    _, node = run_get_node(
        LabelWorkChain, configurations=frames, reuse=orm.Bool(False), frames_per_job=orm.Int(1), **inputs
    )
    assert node.outputs.labels.configurations.is_labelled.all()
    times = [tuple(map(float, line.split())) for line in log.read_text().splitlines()]
    assert len(times) == 3
    assert max(sum(start <= begin < end for start, end in times) for begin, _ in times) == 2


def test_longest_tasks_first_on_the_emptiest_lane():
    costs = {'a': 5.0, 'b': 4.0, 'c': 3.0, 'd': 3.0}
    assert _distribute(costs, 2) == [['a', 'd'], ['b', 'c']]
    assert _distribute(costs, 9) == [['a'], ['b'], ['c'], ['d']]
