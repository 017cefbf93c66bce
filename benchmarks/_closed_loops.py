"""Closed loops of `label_efficiency.py`: the model explores, a live teacher labels, and candidates depend on both.

Each round is an iteration of a campaign, by the campaign's own functions: calibration on the random stream, dynamics
from training frames that end at its bounds or at the doubt of the model, thinning, the decision with its filters, trust
window, duplicates and share of random picks, and checks of the labels. Settings are the defaults, with fewer labels and
replicas. What is missing against a campaign is that of AiiDA, and the choice of validation frames, which the program of
the training draws itself.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from _label_runs import Curve, force_errors
from _systems import System, labelled

from aiida_mlipal.calculations.functions.select import choose_frames
from aiida_mlipal.runners.explore import collect, draw_stream
from aiida_mlipal.runners.plans.dynamics import in_bath
from aiida_mlipal.runners.pool import thin
from aiida_mlipal.runners.trajectory import replicas_at
from aiida_mlipal.science.calibration import Calibration, calibrate
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.exploration_plans import DynamicsPlan
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.selection_settings import SelectionSettings
from aiida_mlipal.science.starts import choose_starts

N_START = 8
#: Labels of a round: with the default shares two of the random stream, one random pick, seven by the strategy.
BATCH = 10
#: Replicas for each temperature, and atoms that move together.
N_REPLICAS, BATCH_ATOMS = 2, 256
PLAIN = '300 K'  #: random frames of plain dynamics of the teacher
PLAIN_BATCH = 4 * BATCH  #: of these, more are labelled in a round: how many it takes is what is asked


class Learner(Protocol):
    """A model that is trained again whenever labels came in."""

    #: What moves replicas, :class:`aiida_mlipal.runners.forces.Forces`, and knows its doubt.
    forces: Any

    def train(self, dataset: Configurations) -> None:
        """Learn from the training frames of ``dataset``."""

    def evaluate(self, frames: Configurations) -> Evaluation:
        """Return what the model says of frames."""


def explore(
    learner: Learner, starts: Configurations, settings: ExplorationSettings
) -> tuple[Configurations, Evaluation | None]:
    """Return the pool and its evaluation, as :func:`aiida_mlipal.runners.explore.explore` does for MACE models."""
    (plan,) = settings.read_plans()
    assert isinstance(plan, DynamicsPlan)
    replicas = replicas_at(starts, 0, plan.replica_temperatures)
    trajectories = in_bath(replicas, learner.forces, learner.forces, plan, settings)
    frames = collect([(plan, trajectories)], starts, settings)
    if not len(frames):
        return frames, None
    frames = frames.with_columns(role=draw_stream(frames, len(starts), settings))
    evaluation = learner.evaluate(frames)
    rows, _ = thin(frames, evaluation, [plan], settings.max_candidates)
    return frames.take(rows), evaluation.take(rows)


def next_frames(
    learner: Learner,
    system: System,
    dataset: Configurations,
    selection: SelectionSettings,
    seed: int,
    iteration: int,
) -> tuple[Configurations, dict[str, float]]:
    """Explore and decide: return the frames to label, and the energies that the model expects of them."""
    predicted = learner.evaluate(dataset)
    fitted = calibrate(
        dataset,
        predicted,
        lower_factor=selection.lower_factor,
        upper_factor=selection.upper_factor,
        uncertainty=selection.uncertainty,
        decay=selection.calibration_decay,
    )
    exploration: dict[str, Any] = {
        **system.exploration,
        'n_replicas_per_temperature': N_REPLICAS,
        'batch_atoms': BATCH_ATOMS,
        'seed': seed,
        'iteration': iteration,
        'n_stream': selection.n_stream,
        'max_uncertainty': None if fitted is None else fitted.error_map.uncertainty_at(fitted.upper),
    }
    settings = ExplorationSettings(**exploration)
    none = Configurations.empty()
    starts = choose_starts(
        settings.n_replicas,
        settings.starts,
        dataset.take(dataset.is_labelled & dataset.has_role('train')),
        uncertainties={},
        previous_pool=none,
        structures=none,
        rng=np.random.default_rng([seed, iteration, 4]),
    )
    pool, evaluation = explore(learner, starts, settings)
    if evaluation is None:
        return pool, {}
    choice = choose_frames(
        {
            'pool': SimpleNamespace(configurations=pool),
            'evaluation': SimpleNamespace(evaluation=evaluation),
            'dataset': SimpleNamespace(configurations=dataset),
            'dataset_evaluation': SimpleNamespace(evaluation=predicted),
            'calibration': SimpleNamespace(get_dict=lambda: _stored(fitted)),
            'budget': SimpleNamespace(get_dict=dict),
            'decision': {'iteration': iteration - 1, 'n_labels': len(dataset)},
            'seed': SimpleNamespace(value=seed),
        },
        selection,
        None,
    )
    frames = pool.take(pool.index_of(choice.selected_ids))
    role = np.where(frames.role == 'candidate', 'train', frames.role)
    return frames.with_columns(role=role), dict(zip(pool.frame_id.tolist(), evaluation.energy.tolist(), strict=True))


def _stored(fitted: Calibration | None) -> dict[str, Any]:
    """Return a calibration as a campaign stores it."""
    return {'fitted': fitted is not None, **(fitted.to_dict() if fitted else {})}


def run_loop(learner: Learner, system: System, strategy: str, seed: int, n_rounds: int) -> Curve:
    """Start from rattled copies of the parent, the same for all strategies; explore, choose, label, train, and again.

    With the strategy ``300 K`` nothing is explored: frames are drawn from dynamics of the teacher at that temperature,
    four times as many, and all are trained on.
    """
    rng = np.random.default_rng([seed, 2])
    start = [system.parent.copy() for _ in range(N_START)]
    for atoms in start:
        atoms.positions += rng.normal(scale=system.rattle, size=atoms.positions.shape)
    plain = [system.plain[row] for row in rng.permutation(len(system.plain))]
    dataset = labelled(Configurations.from_atoms(start, role='train'), system.teacher)
    curve, test = Curve([], []), system.test
    for iteration in range(n_rounds + 1):
        learner.train(dataset)
        square = np.mean((learner.evaluate(test).forces - test.forces) ** 2, axis=1)
        curve.add(len(dataset), force_errors(square, np.repeat(test.origin, test.n_atoms)))
        if iteration == n_rounds:
            break
        expected: dict[str, float] = {}
        if strategy == PLAIN:
            drawn = plain[iteration * PLAIN_BATCH : (iteration + 1) * PLAIN_BATCH]
            frames = Configurations.from_atoms(drawn, role='train')
        else:
            selection = SelectionSettings(method=strategy, n_labels=BATCH)
            frames, expected = next_frames(learner, system, dataset, selection, seed, iteration)
        dataset = Configurations.concatenate([dataset, labelled(frames, system.teacher, expected)])
    return curve
