from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111

from aiida_mlipal.runners.committee import load_models
from aiida_mlipal.runners.forces import MaceForces
from aiida_mlipal.runners.keeper import Keeper
from aiida_mlipal.runners.motion import packing
from aiida_mlipal.runners.motion import propagate as propagation
from aiida_mlipal.runners.motion.moving import Langevin, VelocityVerlet
from aiida_mlipal.runners.plans.dynamics import langevin, mover, run
from aiida_mlipal.runners.trajectory import Replica, Trajectory
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.cli.test_model_import import random_model


def replica(index: int, atoms: Atoms | None = None, temperature: float = 600.0, **columns) -> Replica:
    atoms = bulk('Cu', 'fcc', a=3.6, cubic=True) if atoms is None else atoms
    values = {
        'numbers': atoms.numbers, 'positions': atoms.positions, 'cell': atoms.cell.array, 'pbc': atoms.pbc, **columns
    }  # fmt: skip
    return Replica(index=index, temperature=temperature, **values)


def settings(**changes) -> ExplorationSettings:
    return ExplorationSettings(**{'seed': 5, 'n_steps': 40, 'stride': 10, 'dtype': 'float64', **changes})


def propagate(replicas: list[Replica], model, chosen: ExplorationSettings, **more) -> list[Trajectory]:
    (plan,) = chosen.read_plans()
    forces = MaceForces([model])
    return propagation.propagate(
        replicas, langevin(plan, forces, chosen), plan, chosen, max_atoms=chosen.atoms_per_batch, **more
    )


def run_plan(replicas: list[Replica], model, chosen: ExplorationSettings, **more) -> list[Trajectory]:
    (plan,) = chosen.read_plans()
    return propagation.propagate(replicas, mover(plan, MaceForces([model]), chosen), plan, chosen, **more)


def steps_of(trajectory: Trajectory) -> list[int]:
    return [frame.step for frame in trajectory.frames]


def positions_of(trajectory: Trajectory) -> list[np.ndarray]:
    return [frame.positions for frame in trajectory.frames]


@pytest.fixture(scope='module')
def model(committee):
    return committee[0]


def test_trajectory_does_not_depend_on_the_batch(model):
    """Alone, in a batch of 32, or beside a replica that stops at once: the same trajectory."""
    overlapping = bulk('Cu', 'fcc', a=3.6, cubic=True)
    overlapping.positions[1] = overlapping.positions[0] + [0.3, 0, 0]
    replicas = [replica(0, overlapping), replica(1), replica(2, bulk('Cu', cubic=True) * (2, 1, 1))]
    replicas += [replica(index) for index in range(3, 32)]
    together = propagate(replicas, model, settings(batch_atoms=1000))
    by_two = propagate(replicas[:4], model, settings(batch_atoms=12))
    assert together[0].reason
    for index in (1, 2, 3):
        (alone,) = propagate([replicas[index]], model, settings())
        assert steps_of(alone) == [10, 20, 30, 40]
        for other in (together[index], by_two[index]):
            np.testing.assert_allclose(positions_of(other), positions_of(alone), atol=1e-9)
    assert not np.allclose(positions_of(together[1])[0], positions_of(together[3])[0], atol=1e-3)  # their noise differs


def test_compositions_move_together_as_they_do_alone(tmp_path):
    random_model(tmp_path / 'alloy.model', elements=(13, 29))
    (alloy,) = load_models([tmp_path / 'alloy.model'], device='cpu', dtype='float64')
    mixed = bulk('Cu', 'fcc', a=3.8, cubic=True) * (2, 1, 1)
    mixed.numbers[::3] = 13
    cells = [bulk('Al', 'fcc', a=4.05, cubic=True), bulk('Cu', 'fcc', a=3.6, cubic=True), mixed]
    replicas = [replica(index, atoms) for index, atoms in enumerate(cells)]
    together = propagate(replicas, alloy, settings(n_steps=20, batch_atoms=1000))
    for item, found in zip(replicas, together, strict=True):
        (alone,) = propagate([item], alloy, settings(n_steps=20))
        assert steps_of(found) == steps_of(alone) == [10, 20]
        np.testing.assert_allclose(positions_of(found), positions_of(alone), atol=1e-9)


@pytest.mark.parametrize('ensemble', ['nvt', 'npt', 'npt_full_cell', 'nvt_nose_hoover', 'nve'])
def test_slots_are_filled_up_without_changing_a_trajectory(model, ensemble):
    """Six replicas of two sizes, one of which stops, with room for two or three at a time."""
    overlapping = bulk('Cu', 'fcc', a=3.6, cubic=True)
    overlapping.positions[1] = overlapping.positions[0] + [1.3, 0, 0]
    cells = [None, overlapping, bulk('Cu', cubic=True) * (2, 1, 1), None, None, None]
    replicas = [replica(index, atoms, pressure=0.01) for index, atoms in enumerate(cells)]
    plan = {'kind': 'dynamics', 'ensemble': ensemble}
    chosen = settings(n_steps=20, stride=5, plans=[plan], max_force=30.0)
    alone = [run_plan([item], model, chosen, max_atoms=1)[0] for item in replicas]
    seen: list[list[int]] = []
    together = run_plan(
        replicas, model, chosen, max_atoms=13,
        after_stride=lambda batch: seen.append([item.index for item in batch.replicas]),
    )  # fmt: skip
    assert max(map(len, seen)) in (2, 3)
    assert {(0, 2), (2, 3)} <= {tuple(some) for some in seen}  # the second takes the place of the one that stopped
    assert together[1].reason
    for one, other in zip(alone, together, strict=True):
        assert one.reason == other.reason
        assert steps_of(one) == steps_of(other)
        for first, second in zip(one.frames, other.frames, strict=True):
            np.testing.assert_allclose(first.positions, second.positions, atol=1e-9)
            np.testing.assert_allclose(first.cell, second.cell, atol=1e-9)
    if ensemble.startswith('npt'):
        assert not np.allclose(together[0].frames[-1].cell, replicas[0].cell, atol=1e-6)


def test_temperature_follows_the_ramp(model):
    plan = {'kind': 'dynamics', 'ramp': [[0, 300.0], [20, 900.0]], 'friction': 0.5}
    chosen = settings(n_steps=40, stride=10, plans=[plan])
    starts = Configurations.from_atoms([bulk('Cu', cubic=True)])
    (read,) = chosen.read_plans()
    done = run(read, starts, [model], chosen, 0, Keeper())
    assert [frame.temperature for frame in done[0].frames] == [300.0, 600.0, 900.0, 900.0]


def test_doubt_ends_a_replica_at_the_frame_where_it_appears(committee):
    """The bound is the uncertainty of the third frame of an exploration without a bound, less a little."""
    forces = MaceForces(committee)
    seen: list[float] = []

    def doubt(batch):
        seen.append(float(forces.uncertainties(batch)[0]))
        return forces.uncertainties(batch)

    (free,) = propagate([replica(0)], committee[0], settings(), doubt=doubt)
    assert len(free.frames) == len(seen) == 4
    highest = int(np.argmax(seen))
    (ended,) = propagate([replica(0)], committee[0], settings(max_uncertainty=0.999 * seen[highest]), doubt=doubt)
    first = next(number for number, value in enumerate(seen) if value > 0.999 * seen[highest])
    assert 'is above `max_uncertainty`' in ended.reason
    assert steps_of(ended) == steps_of(free)[:first]
    np.testing.assert_array_equal(ended.unsafe.positions, free.frames[first].positions)


def test_single_model_without_uncertainty_cannot_doubt(model):
    chosen = settings(max_uncertainty=0.1)
    (plan,) = chosen.read_plans()
    starts = Configurations.from_atoms([bulk('Cu', cubic=True)])
    with pytest.raises(ValueError, match='never doubts: give a committee'):
        run(plan, starts, [model], chosen, 0, Keeper())


def test_model_with_a_hole_is_found_out(model):
    """Atoms attract each other without end: the others go on, and the contact is named."""
    forces = MaceForces([model])

    class Hole(MaceForces):
        def __call__(self, systems, *, stress=False):
            prediction = super().__call__(systems, stress=stress)
            for system, item in enumerate(systems.replicas):
                if item.index == 1:  # atom 1 is drawn to atom 0
                    first = int(systems.ends[system] - systems.sizes[system])
                    pull = systems.positions[first] - systems.positions[first + 1]
                    prediction.forces[first + 1] += 8 * pull / pull.norm()
                    prediction.forces[first] -= 8 * pull / pull.norm()
            return prediction

    chosen = settings(n_steps=60, stride=2, max_temperature_factor=1e4, max_force=1e3)
    (plan,) = chosen.read_plans()
    done = propagation.propagate(
        [replica(0), replica(1), replica(2)], langevin(plan, Hole([model]), chosen), plan, chosen, max_atoms=100
    )
    assert 'Å apart, less than 0.5 times' in done[1].reason, done[1].reason
    assert done[1].unsafe is not None or done[1].frames
    (alone,) = propagation.propagate([replica(2)], langevin(plan, forces, chosen), plan, chosen, max_atoms=100)
    assert steps_of(done[2]) == steps_of(alone) == list(range(2, 61, 2))


def test_batch_that_pays_is_found_and_noted(model):
    keeper = Keeper()
    replicas = [replica(index) for index in range(6)]
    (plan,) = settings(n_steps=10).read_plans()
    forces = MaceForces([model])
    done = propagation.propagate(replicas, langevin(plan, forces, settings()), plan, settings(), keeper=keeper)
    assert keeper.notes['batch_atoms'] in (4, 8, 16, 24)
    (alone,) = propagate([replica(5)], model, settings(n_steps=10))
    np.testing.assert_allclose(positions_of(done[5])[0], positions_of(alone)[0], atol=1e-9)


def fill_in_torchscript() -> None:
    """Let memory run out where most of MACE does: TorchScript makes another error of it than torch's own."""
    import torch

    @torch.jit.script
    def fill(n: int) -> torch.Tensor:
        return torch.empty(n)

    fill(1 << 60)


@pytest.mark.parametrize(('best', 'room', 'expected'), [(8, 100, 32), (100, 8, 16), (1, 100, 4)])
def test_batch_grows_while_it_pays_and_as_far_as_memory_goes(monkeypatch, best, room, expected):
    """Made-up costs: per atom they fall up to ``best`` replicas; more than ``room`` do not fit."""

    def move(replicas):
        if len(replicas) > room:
            fill_in_torchscript()
        return SimpleNamespace(numbers=np.zeros(4 * len(replicas)), n=len(replicas))

    monkeypatch.setattr(packing, '_seconds', lambda batch: max(1.0, batch.n / best))
    assert packing.paying_atoms([replica(index) for index in range(32)], move) == expected


def test_same_seed_gives_equal_bits_another_does_not(model):
    first, again, other = (
        propagate([replica(0), replica(1)], model, settings(seed=seed, n_steps=10)) for seed in (5, 5, 6)
    )
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(positions_of(a), positions_of(b))
        assert not np.array_equal(positions_of(a), positions_of(c))


def test_without_friction_energy_is_conserved(model):
    """The error of velocity Verlet is of second order: half the time step, a quarter of the fluctuation."""
    spread = []
    for time_step in (2.0, 1.0):
        replicas = [replica(index) for index in range(4)]
        batch = VelocityVerlet(replicas, MaceForces([model]), time_step=time_step, friction=0.0, key=[1, 0])
        totals = []
        for _ in range(int(120 / time_step)):
            batch.step()
            totals.append((batch.energies + batch.kinetic_energies()).tolist())
        spread.append(np.std(totals, axis=0).mean())
    assert spread[1] < 1e-3
    assert 3 < spread[0] / spread[1] < 5.5


def test_bath_gives_the_temperature_and_its_fluctuations(model):
    """A strong bath, 30 replicas: the mean of T within three standard errors, and the fluctuation of T."""
    replicas = [replica(index, temperature=400.0) for index in range(30)]
    batch = Langevin(replicas, MaceForces([model]), time_step=2.0, friction=0.05, key=[3, 0])
    samples = []
    for _ in range(5):
        batch.start_block(20)
        for _ in range(20):
            batch.step()
        batch.steps += 20
        samples.append(batch.temperatures().numpy())
        momentum = (batch.masses * batch.velocities)[:4].sum(dim=0)
        assert abs(momentum).max() < 1e-10
    late = np.concatenate(samples[1:])
    dof = 9
    error = 400 * np.sqrt(2 / dof / 60)  # taking every second of 120 samples for independent is on the safe side
    assert abs(late.mean() - 400) < 3 * error
    assert late.std() == pytest.approx(400 * np.sqrt(2 / dof), rel=0.25)


def test_slab_molecule_and_crystal_keep_their_own_periodicity(model):
    slab = fcc111('Cu', (2, 2, 2), a=3.6, vacuum=6.0)
    molecule = Atoms('Cu3', positions=[[0, 0, 0], [2.3, 0.1, 0], [0.2, 2.4, 0.1]])
    replicas = [replica(0, slab), replica(1, molecule, 300.0), replica(2), replica(3, slab * (2, 1, 1))]
    done = propagate(replicas, model, settings(n_steps=10))
    assert [trajectory.reason for trajectory in done] == [''] * 4
    for item in replicas:
        (alone,) = propagate([item], model, settings(n_steps=10))
        np.testing.assert_allclose(positions_of(done[item.index]), positions_of(alone), atol=1e-9)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'max_force': 0.05}, 'max_force'),
        ({'max_temperature_factor': 1.001, 'temperatures': [1.0]}, 'max_temperature_factor'),
        ({'min_distance_factor': 0.97}, 'min_distance_factor'),
    ],
)
def test_replica_out_of_bounds_stops_with_its_reason(model, changes, reason):
    atoms = bulk('Cu', cubic=True) * (2, 1, 1)
    atoms.rattle(0.02, seed=1)
    temperature = changes.get('temperatures', [600.0])[0]
    (done,) = propagate([replica(0, atoms, temperature)], model, settings(n_steps=200, **changes))
    assert reason in done.reason
    assert done.n_steps == 10 * (len(steps_of(done)) + 1)  # it stops at the first frame that is not saved
    assert done.unsafe is not None
    assert not any(np.array_equal(done.unsafe.positions, positions) for positions in positions_of(done))


def test_non_finite_replica_stops_and_leaves_the_others_alone(model):
    same_place = bulk('Cu', 'fcc', a=3.6, cubic=True)
    same_place.positions[1] = same_place.positions[0]
    broken = [replica(0, positions=np.full((4, 3), np.nan)), replica(1, same_place)]
    done = propagate([*broken, replica(2)], model, settings(n_steps=10))
    (alone,) = propagate([replica(2)], model, settings(n_steps=10))
    for trajectory in done[:2]:
        assert trajectory.reason
        assert trajectory.unsafe is None
        assert steps_of(trajectory) == []
    assert 'not finite' in done[0].reason
    assert steps_of(done[2]) == [10]
    np.testing.assert_allclose(positions_of(done[2]), positions_of(alone), atol=1e-9)
    assert [steps_of(trajectory) for trajectory in propagate(broken, model, settings(n_steps=10))] == [[], []]


def test_runaway_replica_stops_between_saved_frames(model, monkeypatch):
    monkeypatch.setattr(propagation, '_HARD_FORCE', 1e-3)
    (done,) = propagate([replica(0)], model, settings(max_force=1.0))
    assert 'far above `max_force`' in done.reason
    assert 0 < done.n_steps < 10
    assert steps_of(done) == []


def test_single_atom_is_refused(model):
    with pytest.raises(ValueError, match='single atom'):
        propagate([replica(0, bulk('Cu'))], model, settings())
