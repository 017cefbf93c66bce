"""Explore configuration space with the current model: plans search, the committee looks at the saved frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from aiida_mlipal.runners.committee import check_elements, evaluate, load_models, member_files
from aiida_mlipal.runners.cueq import accelerate_models
from aiida_mlipal.runners.cutouts import cut_large
from aiida_mlipal.runners.keeper import FOLDER, Keeper
from aiida_mlipal.runners.plans import (
    adversarial,
    basin_hopping,
    dynamics,
    metadynamics,
    neb,
    normal_modes,
    plumed,
    random_search,
    replica_exchange,
    uncertainty_bias,
)
from aiida_mlipal.runners.pool import quantiles, thin
from aiida_mlipal.runners.trajectory import Replica, Trajectory
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.exploration_plans import DynamicsPlan, Plan
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('STREAM', 'collect', 'draw_stream', 'explore', 'run', 'run_plans', 'side_of')

#: Roles of the random stream; the trajectories alternate between them.
STREAM = ('calibration', 'test')

#: The program of each kind of plan.
PROGRAMS: Final[dict[str, Callable[..., list[Trajectory]]]] = {
    'dynamics': dynamics.run,
    'metadynamics': metadynamics.run,
    'plumed': plumed.run,
    'replica_exchange': replica_exchange.run,
    'uncertainty_bias': uncertainty_bias.run,
    'neb': neb.run,
    'random_search': random_search.run,
    'normal_modes': normal_modes.run,
    'adversarial': adversarial.run,
    'basin_hopping': basin_hopping.run,
}


def run_plans(
    starts: Configurations, models: Sequence[Any], settings: ExplorationSettings, keepers: Sequence[Keeper]
) -> list[tuple[Plan, list[Trajectory]]]:
    """Return what each plan visited; their replicas are numbered one after the other.

    :param keepers: one for each plan; a plan that came to its end in an earlier job is not run again.
    """
    visited: list[tuple[Plan, list[Trajectory]]] = []
    first = 0
    for plan, keeper in zip(settings.read_plans(), keepers, strict=True):
        trajectories = keeper.finished()
        if trajectories is None:
            trajectories = PROGRAMS[plan.KIND](plan, starts, models, settings, first, keeper)
            keeper.finish(trajectories)
        visited.append((plan, trajectories))
        first += plan.n_replicas
    return visited


def side_of(index: int, n_starts: int, iteration: int) -> str:
    """Return the role that frames of trajectory ``index`` take in the random stream.

    Neighbouring starts alternate, so do the passes over all starts, and so do iterations: neither a start nor a
    temperature belongs to one side only.
    """
    return STREAM[(index % n_starts + index // n_starts + iteration) % 2]


def _name(replica: Replica, settings: ExplorationSettings) -> str:
    return f'i{settings.iteration:02d}-r{replica.index:03d}'


def collect(
    visited: Sequence[tuple[Plan, Sequence[Trajectory]]], starts: Configurations, settings: ExplorationSettings
) -> Configurations:
    """Return all visited frames as candidates, by trajectory and step. Here each frame receives its ``frame_id``.

    ``origin`` is the kind of the plan, or what is special about the frame: ``last_safe`` and ``first_unsafe`` for those
    before and after a replica left its bounds, or the mark that the plan has put on it.
    """
    rows: list[dict[str, Any]] = []
    for plan, trajectories in visited:
        for trajectory in trajectories:
            replica = trajectory.replica
            start = replica.start
            atoms = slice(starts.offsets[start], starts.offsets[start + 1])
            same_atoms = np.array_equal(starts.numbers[atoms], replica.numbers)
            reference_cell = starts.reference_cell[start] if replica.reference_cell is None else replica.reference_cell
            frames = [(frame, frame.mark or plan.KIND) for frame in trajectory.frames]
            if trajectory.reason and frames and not trajectory.frames[-1].mark:
                frames[-1] = (frames[-1][0], 'last_safe')
            if trajectory.unsafe is not None:
                frames.append((trajectory.unsafe, 'first_unsafe'))
            rows += [
                {
                    'atoms': Atoms(
                        numbers=replica.numbers,
                        positions=frame.positions,
                        cell=frame.cell,
                        pbc=replica.pbc,
                        magmoms=starts.initial_moments[atoms] if same_atoms else None,
                    ),
                    'reference_cell': reference_cell,
                    'charge': starts.charge[start],
                    # Other atoms may change the parity of the electrons: the spin is then left to the level of theory.
                    'multiplicity': starts.multiplicity[start] if same_atoms else 0,
                    'origin': origin,
                    'plan': plan.label,
                    'trajectory': _name(replica, settings),
                    'parent': starts.frame_id[start],
                    'step': frame.step,
                    'temperature': replica.temperature if np.isnan(frame.temperature) else frame.temperature,
                    'pressure': replica.pressure,
                }
                for frame, origin in frames
            ]
    if not rows:
        return Configurations.empty()
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    return Configurations.from_atoms(columns.pop('atoms'), role='candidate', **columns)


def draw_stream(frames: Configurations, n_starts: int, settings: ExplorationSettings) -> NDArray[np.str_]:
    """Return a role per visited frame: the random stream's, or ``candidate``. Only unbiased plans give to the stream.

    A seeded draw without replacement, uniform over the visited frames of each side, and half of ``n_stream`` from each
    as far as they go (the odd one alternates with the iteration). If all of a side came from one trajectory and
    another exists, the last is replaced by the next in the draw from another.
    """
    roles = np.full(len(frames), 'candidate', dtype='<U11')
    index = np.array([int(name.split('-r')[1]) for name in frames.trajectory.tolist()], dtype=np.int64)
    sides = np.array([side_of(i, n_starts, settings.iteration) for i in index.tolist()], dtype='<U11')
    unbiased = [plan.label for plan in settings.read_plans() if plan.is_unbiased]
    order = np.random.default_rng([settings.seed, settings.iteration]).permutation(len(frames))
    order = order[np.isin(frames.plan[order], unbiased)]
    rows = {side: order[sides[order] == side] for side in STREAM}
    first, second = (STREAM, STREAM[::-1])[settings.iteration % 2]
    share = {first: (settings.n_stream + 1) // 2, second: settings.n_stream // 2}
    share[first] = max(share[first], settings.n_stream - len(rows[second]))
    share[second] = settings.n_stream - min(share[first], len(rows[first]))
    for side in STREAM:
        drawn = rows[side][: share[side]]
        others = rows[side][share[side] :]
        if len(drawn) > 1 and len(set(index[drawn].tolist())) == 1:
            elsewhere = others[index[others] != index[drawn[0]]]
            if len(elsewhere):
                drawn = np.append(drawn[:-1], elsewhere[0])
        roles[drawn] = side
    return roles


def n_unreached(visited: Sequence[tuple[Plan, Sequence[Trajectory]]]) -> int:
    """Return how many frames the replicas of unbiased plans did not come to, because they were stopped."""
    return sum(
        plan.n_steps // plan.stride - len(trajectory.frames) - (trajectory.unsafe is not None)
        for plan, trajectories in visited
        if isinstance(plan, DynamicsPlan) and plan.is_unbiased
        for trajectory in trajectories
        if trajectory.reason
    )


def explore(
    starts: Configurations, models: Sequence[Any], settings: ExplorationSettings, folder: Path | None = None
) -> tuple[Configurations, Evaluation, dict[str, Any]]:
    """Return the pool, its evaluation row by row, and the statistics of what was visited.

    :param folder: where the state of the plans is kept, and taken up if an earlier job has left one.
    :raises ValueError: for no starts, or a start with an element that the model does not know.
    """
    if not len(starts):
        raise ValueError('there are no starts: give at least one frame.')
    check_elements(starts, models[0], 'the starts')
    plans = settings.read_plans()
    for plan in plans:
        plan.check_starts(starts)
    begin = time.perf_counter()
    keepers = [Keeper(None if folder is None else folder / f'{number:02d}.npz') for number in range(len(plans))]
    visited = run_plans(starts, models, settings, keepers)
    propagated = time.perf_counter()
    frames = collect(visited, starts, settings)
    frames = frames.with_columns(role=draw_stream(frames, len(starts), settings))
    evaluation = evaluate(frames, models, batch_atoms=settings.atoms_per_batch)
    evaluated = time.perf_counter()
    trajectories = [trajectory for _, some in visited for trajectory in some]
    uncertainties = evaluation.max_forces_std
    unbiased = np.isin(frames.plan, [plan.label for plan in plans if plan.is_unbiased])
    rows, thrown_away = thin(frames, evaluation, settings.read_plans(), settings.max_candidates)
    n_steps = sum(trajectory.n_steps for trajectory in trajectories)
    seconds = max(propagated - begin, 1e-9)
    results = {
        'n_replicas': len(trajectories),
        'n_steps': n_steps,
        'n_visited': len(frames),
        'stopped': [
            {
                'trajectory': _name(trajectory.replica, settings),
                'plan': plan.label,
                'step': trajectory.n_steps,
                'temperature': trajectory.replica.temperature,
                'reason': trajectory.reason,
            }
            for plan, some in visited
            for trajectory in some
            if trajectory.reason
        ],
        'found': [
            {'trajectory': _name(trajectory.replica, settings), 'plan': plan.label, **trajectory.found}
            for plan, some in visited
            for trajectory in some
            if trajectory.found
        ],
        'unbiased_max_forces_std': uncertainties[unbiased].tolist(),
        'n_unreached': n_unreached(visited),
        'visited_uncertainty_quantiles': quantiles(uncertainties),
        'thrown_away': thrown_away,
        'plans': {plan.label: keeper.notes for plan, keeper in zip(plans, keepers, strict=True)},
        'steps_per_second': n_steps / seconds,
        'atom_steps_per_second': sum(t.n_steps * len(t.replica.numbers) for t in trajectories) / seconds,
        'propagate_s': seconds,
        'evaluate_s': evaluated - propagated,
    }
    return frames.take(rows), evaluation.take(rows), {**results, 'n_pool': len(rows)}


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read ``starts.npz`` and the member models, write the pool with its evaluation, return the statistics.

    ``uncut.npz`` holds the frames in whose place there are cut-outs, if any.
    """
    import torch

    plan = from_dict(ExplorationSettings, settings)
    torch.set_num_threads(plan.threads)
    models = load_models(member_files(folder), device=plan.device, dtype=plan.dtype)
    starts = Configurations.load(folder / 'starts.npz')
    models, cueq = accelerate_models(models, starts, plan.enable_cueq)
    visited, judged, results = explore(starts, models, plan, folder / FOLDER)
    pool, evaluation, cutouts = cut_large(visited, judged, models, plan)
    visited.take(~np.isin(visited.frame_id, pool.frame_id)).save(folder / 'uncut.npz')
    pool.save(folder / 'pool.npz')
    evaluation.save(folder / 'evaluation.npz')
    return {'results': {**results, 'n_pool': len(pool), 'cutouts': cutouts, **cueq}}
