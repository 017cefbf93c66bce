from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_mlipal.runners.committee import evaluate
from aiida_mlipal.runners.explore import draw_stream, explore, run, side_of
from aiida_mlipal.runners.trajectory import replicas_at
from aiida_mlipal.science.configurations import Configurations, frame_id_of
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.committee import copper


def settings(**changes) -> ExplorationSettings:
    base = {
        'seed': 5, 'iteration': 2, 'temperatures': [300.0, 900.0], 'n_replicas_per_temperature': 2, 'n_steps': 60,
        'stride': 10, 'n_stream': 5, 'dtype': 'float64', 'batch_atoms': 64,
    }  # fmt: skip
    return ExplorationSettings(**{**base, **changes})


@pytest.fixture(scope='module')
def starts() -> Configurations:
    cells = [np.eye(3) * 3.6, np.eye(3) * 3.7]
    return Configurations.from_atoms([copper(1), copper(2)], reference_cell=cells, multiplicity=3)


@pytest.fixture(scope='module')
def explored(starts, committee):
    return explore(starts, committee, settings())


def test_pool_and_evaluation_go_row_by_row(explored, starts):
    pool, evaluation, results = explored
    assert pool.frame_id.tolist() == evaluation.frame_id.tolist()
    assert len(pool) == results['n_visited'] == 4 * 6
    assert set(pool.trajectory.tolist()) == {f'i02-r{index:03d}' for index in range(4)}
    assert set(pool.step.tolist()) == {10, 20, 30, 40, 50, 60}
    assert pool.temperature.tolist() == [300.0] * 12 + [900.0] * 12
    for index in range(len(pool)):
        start = int(pool.trajectory[index][-3:]) % 2
        assert pool.parent[index] == starts.frame_id[start]
        np.testing.assert_array_equal(pool.reference_cell[index], starts.reference_cell[start])
        atoms = pool.atoms(index)
        assert pool.frame_id[index] == frame_id_of(
            atoms.numbers,
            atoms.positions,
            atoms.cell.array,
            atoms.pbc,
            0,
            3,
            pool.reference_cell[index],
            np.zeros(len(atoms)),
        )
    assert results['n_steps'] == 4 * 60
    np.testing.assert_array_equal(results['unbiased_max_forces_std'], evaluation.max_forces_std)
    assert results['visited_uncertainty_quantiles']['1'] == evaluation.max_forces_std.max()


def test_equal_settings_give_equal_bits(explored, starts, committee):
    pool, evaluation, _ = explore(starts, committee, settings())
    for first, second in ((pool, explored[0]), (evaluation, explored[1])):
        for name, column in first.columns().items():
            np.testing.assert_array_equal(column, getattr(second, name))


def test_random_stream_alternates_by_trajectory(explored):
    pool, _, _ = explored
    roles = {role: set(pool.trajectory[pool.role == role].tolist()) for role in ('calibration', 'test')}
    assert not roles['calibration'] & roles['test']
    assert len(roles['calibration']) == len(roles['test']) == 2
    assert sorted((pool.role == role).sum() for role in roles) == [2, 3]


def test_stream_is_uniform_in_visited_time(explored):
    pool, _, _ = explored
    counts = np.zeros(len(pool))
    n_draws = 2000
    for seed in range(n_draws):
        counts += draw_stream(pool, 2, settings(seed=seed, n_stream=8)) != 'candidate'
    expected = n_draws * 8 / len(pool)
    # Exchanging a draw that came from one trajectory only shifts single frames by less than 10 %.
    np.testing.assert_allclose(counts, expected, rtol=0.15)


def test_neither_start_nor_temperature_belongs_to_one_side():
    for n_starts in (1, 2, 3, 4, 12):
        plan = settings(temperatures=[300.0, 600.0, 900.0], n_replicas_per_temperature=4)
        by_temperature = [[side_of(4 * t + r, n_starts, 0) for r in range(4)] for t in range(3)]
        assert all(sides.count('test') == 2 for sides in by_temperature)
        if n_starts < plan.n_replicas // 2:
            for start in range(n_starts):
                sides = {side_of(index, n_starts, 0) for index in range(12) if index % n_starts == start}
                assert sides == {'test', 'calibration'}
        assert side_of(0, n_starts, 0) != side_of(0, n_starts, 1)


def test_stream_takes_what_one_side_lacks_from_the_other(explored):
    pool, _, _ = explored
    few = pool.take([0, *np.flatnonzero(pool.trajectory == 'i02-r001')])
    roles = draw_stream(few, 2, settings(n_stream=6))
    assert (roles != 'candidate').sum() == 6
    assert roles[0] != 'candidate'
    assert (draw_stream(few, 2, settings(n_stream=100)) != 'candidate').all()


def test_thinning_keeps_the_stream_and_the_edges(starts, committee, explored):
    evaluation = evaluate(explored[0], committee[:1], batch_atoms=64)  # the member that moves the replicas
    strongest = np.maximum.reduceat(np.linalg.norm(evaluation.forces, axis=1), evaluation.offsets[:-1])
    limit = float(np.quantile(strongest, 0.9))
    pool, evaluation, results = explore(starts, committee, settings(max_candidates=6, max_force=limit))
    assert results['stopped'], 'this test needs a replica that stops'
    assert (pool.role == 'candidate').sum() == 6
    assert results['n_pool'] == len(pool) == len(evaluation) == 11
    assert len(results['unbiased_max_forces_std']) == results['n_visited'] > len(pool)
    stopped = {entry['trajectory'] for entry in results['stopped']}
    edges = pool.take(np.isin(pool.origin, ('last_safe', 'first_unsafe')))
    assert set(edges.trajectory.tolist()) <= stopped
    for entry in results['stopped']:
        mine = edges.take(edges.trajectory == entry['trajectory'])
        assert mine.step[mine.origin == 'first_unsafe'].tolist() == [entry['step']]
        assert 'max_force' in entry['reason']


def test_replicas_cover_starts_and_temperatures(starts):
    (plan,) = settings().read_plans()
    replicas = replicas_at(starts, 0, plan.replica_temperatures)
    assert [replica.temperature for replica in replicas] == [300.0, 300.0, 900.0, 900.0]
    np.testing.assert_array_equal(replicas[3].positions, starts.atoms(1).positions)


def test_all_replicas_fail_at_once(committee):
    atoms = bulk('Cu', cubic=True)
    atoms.positions[1] = atoms.positions[0]
    pool, evaluation, results = explore(Configurations.from_atoms([atoms]), committee, settings())
    assert len(pool) == len(evaluation) == 0
    assert len(results['stopped']) == 4


def test_unknown_elements_and_no_starts_are_refused(committee):
    gold = Configurations.from_atoms([bulk('Au', cubic=True)])
    with pytest.raises(ValueError, match='the starts hold Au, but the model knows only Cu'):
        explore(gold, committee, settings())
    with pytest.raises(ValueError, match='no starts'):
        explore(Configurations.empty(), committee, settings())


def test_runner_reads_and_writes_files(tmp_path, committee_files):
    for file in committee_files:
        (tmp_path / file.name).symlink_to(file)
    molecule = Atoms('Cu3', positions=[[0, 0, 0], [2.3, 0.1, 0], [0.2, 2.4, 0.1]])
    Configurations.from_atoms([copper(1), molecule]).save(tmp_path / 'starts.npz')
    plan = {'seed': 1, 'n_steps': 10, 'temperatures': [300], 'n_replicas_per_temperature': 2, 'n_stream': 2}
    result = run(plan, tmp_path)
    pool = Configurations.load(tmp_path / 'pool.npz')
    assert sorted(pool.n_atoms.tolist()) == [3, 4]
    assert result['results']['n_pool'] == 2
    assert not len(Configurations.load(tmp_path / 'uncut.npz'))


def test_frames_that_gave_way_to_cutouts_are_kept_beside_the_pool(tmp_path, committee_files):
    for file in committee_files:
        (tmp_path / file.name).symlink_to(file)
    starts = Configurations.from_atoms([copper(1), copper(2, rattle=0.02, repeat=(4, 2, 2))])
    starts.save(tmp_path / 'starts.npz')
    plan = {
        'seed': 1, 'n_steps': 10, 'temperatures': [300], 'n_replicas_per_temperature': 2, 'n_stream': 0,
        'max_label_atoms': 40, 'cutout_radius': 2.6,
    }  # fmt: skip
    results = run(plan, tmp_path)['results']
    pool, uncut = (Configurations.load(tmp_path / f'{name}.npz') for name in ('pool', 'uncut'))
    assert results['n_visited'] == results['n_pool'] == len(pool) == 2
    assert pool.origin.tolist() == ['dynamics', 'cutout']
    assert pool.n_atoms.max() <= 40
    (told,) = results['cutouts']
    assert uncut.frame_id.tolist() == [told['parent']]
    assert (uncut.n_atoms[0], uncut.origin[0], uncut.parent[0]) == (64, 'dynamics', starts.frame_id[1])


def test_only_unbiased_plans_tell_how_uncertain_the_model_is(starts, committee):
    plans = [{'kind': 'dynamics'}, {'kind': 'normal_modes'}]
    _, _, results = explore(starts, committee, settings(plans=plans))
    _, _, alone = explore(starts, committee, settings(plans=plans[:1]))
    assert results['n_visited'] > alone['n_visited']
    np.testing.assert_allclose(results['unbiased_max_forces_std'], alone['unbiased_max_forces_std'])
    assert results['n_unreached'] == 0


def test_frames_that_stopped_replicas_do_not_reach_are_counted(starts, committee):
    _, _, whole = explore(starts, committee, settings())
    bound = float(np.median(whole['unbiased_max_forces_std']))
    _, _, results = explore(starts, committee, settings(max_uncertainty=bound))
    assert results['stopped']
    assert len(results['unbiased_max_forces_std']) + results['n_unreached'] == 4 * 6


@pytest.mark.parametrize('kind', ['metadynamics', 'replica_exchange'])
def test_a_model_that_never_doubts_is_no_bound_for_any_plan(starts, committee, kind):
    more = {'variables': [{'type': 'distance', 'atoms': [0, 1], 'width': 0.1}]} if kind == 'metadynamics' else {}
    with pytest.raises(ValueError, match='`max_uncertainty` is set, but a single model'):
        explore(starts, committee[:1], settings(plans=[{'kind': kind, **more}], max_uncertainty=1.0))
