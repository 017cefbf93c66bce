"""The frames that a calibration is fitted to, and the errors that it is to predict."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.uncertainty import Uncertainty, measure, size_factor, typical_maximum

__all__ = (
    'FORCE_DEGREES',
    'CalibrationFrames',
    'calibration_frames',
    'compositions',
    'largest_error',
    'recency_weights',
)

Floats = NDArray[np.float64]
#: A force has three components.
FORCE_DEGREES: Final = 3


@dataclass(frozen=True, eq=False)
class CalibrationFrames:
    """Labels of the random stream, what a model says of them, and how much each frame counts."""

    labels: Configurations
    predictions: Evaluation
    uncertainty: Uncertainty
    weights: Floats  #: (F,), 1 for the newest iteration

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def is_finite(self) -> NDArray[np.bool_]:
        """Whether the model says something of the frame, (F,): a random frame may be one that breaks it."""
        sound = np.isfinite(self.errors).all(axis=1) & np.isfinite(self.uncertainty.per_atom)
        finite: NDArray[np.bool_] = np.bincount(self.labels.atom_frame, ~sound, len(self)) == 0
        return finite

    def take(self, mask: NDArray[np.bool_]) -> CalibrationFrames:
        """Return the frames of a mask."""
        atoms = np.repeat(mask, self.labels.n_atoms)
        uncertainty = Uncertainty(self.uncertainty.per_atom[atoms], self.uncertainty.per_frame[mask])
        return CalibrationFrames(self.labels.take(mask), self.predictions.take(mask), uncertainty, self.weights[mask])

    @property
    def errors(self) -> Floats:
        """Errors of the forces, (A, 3), eV/Å."""
        return self.predictions.forces - self.labels.forces

    @property
    def atom_weights(self) -> Floats:
        """Weight of each atom, that of its frame, (A,)."""
        return np.repeat(self.weights, self.labels.n_atoms)

    def frame_uncertainty(self, name: str) -> Floats:
        """Uncertainty of each frame, without what its number of atoms alone does to it, (F,)."""
        n_members = self.predictions.member_energy.shape[1]
        return self.uncertainty.per_frame / size_factor(name, self.labels.n_atoms, n_members)


def calibration_frames(dataset: Configurations, evaluation: Evaluation, name: str, decay: float) -> CalibrationFrames:
    """Return the frames with role ``calibration``, an accepted label and an evaluation, in the order of the dataset."""
    evaluated = np.isin(dataset.frame_id, evaluation.frame_id)
    labels = dataset.take(dataset.has_role('calibration') & dataset.is_labelled & evaluated)
    trained = dataset.frame_id[dataset.has_role('train', 'validation') & dataset.is_labelled & evaluated]
    predictions = evaluation.take(evaluation.index_of(labels.frame_id))
    reference = evaluation.descriptors[evaluation.index_of(trained)]
    return CalibrationFrames(
        labels=labels,
        predictions=predictions,
        uncertainty=measure(name, predictions, reference),
        weights=recency_weights(labels.trajectory, decay),
    )


def recency_weights(trajectory: NDArray[np.str_], decay: float) -> Floats:
    """Return ``decay`` to the power of how many iterations a trajectory is older than the newest, shape ``(F,)``.

    Later explorations go where earlier ones could not, and it is there that the calibration is used. The iteration is
    in the name, ``i03-r007``; a name without one counts as of the oldest.
    """
    found = [re.match(r'i(\d+)-', str(name)) for name in trajectory.tolist()]
    known = [int(match[1]) for match in found if match]
    iteration = np.array([int(match[1]) if match else min(known, default=0) for match in found], dtype=float)
    weights: Floats = decay ** (iteration.max(initial=0.0) - iteration)
    return weights


def compositions(frames: Configurations) -> NDArray[np.str_]:
    """Return the formula of each frame; a cell of another size is another composition, shape ``(F,)``."""
    names = np.empty(len(frames), dtype=object)
    for formula, rows in frames.group_by_composition().items():
        names[rows] = formula
    return names.astype(str)


def largest_error(errors: Floats, frames: Configurations | Evaluation) -> Floats:
    """Return the largest error of an atom of each frame, over what the number of atoms alone makes of it, (F,), eV/Å.

    As a root mean square over components, so that a frame of 8 and one of 512 atoms compare if their atoms do.

    :param errors: (A, 3) of the forces of ``frames``.
    """
    if len(frames) == 0:
        return np.zeros(0)
    atomic = np.sqrt(np.mean(errors**2, axis=1))
    largest: Floats = np.maximum.reduceat(atomic, frames.offsets[:-1])
    return largest / typical_maximum(frames.n_atoms, FORCE_DEGREES)
