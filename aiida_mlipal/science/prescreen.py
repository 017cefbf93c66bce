"""Two levels: a cheap level of theory looks at all candidates, the expensive one only where it contradicts the model.

What is compared is forces alone. Energies of two levels differ by an arbitrary zero for each element, and the stress
hides in forces of other frames; a force that both levels agree on needs no third opinion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.settings import check_number

__all__ = ('PrescreenSettings', 'agreements', 'largest_force_differences')


@dataclass(frozen=True, kw_only=True)
class PrescreenSettings:
    """When the cheap level agrees with the model."""

    threshold: float  #: eV/Å, largest difference of the force on an atom at which they still agree

    def __post_init__(self) -> None:
        check_number('threshold', self.threshold, above=0.0)


def largest_force_differences(labels: Configurations, evaluation: Evaluation) -> dict[str, float]:
    """Return the largest norm of the difference of forces on an atom (eV/Å) of each frame, by ``frame_id``.

    A frame whose cheap label failed, or whose prediction is not finite, is left out: nothing speaks against it.

    :param labels: of the cheap level.
    :param evaluation: of the same frames, and maybe more, by the model: the mean of its committee.
    """
    labels = labels.take(labels.is_labelled)
    if not len(labels):
        return {}
    predicted = evaluation.take(evaluation.index_of(labels.frame_id))
    norms = np.linalg.norm(labels.forces - predicted.forces, axis=1)
    largest = np.maximum.reduceat(norms, labels.offsets[:-1])
    return {
        frame: difference
        for frame, difference in zip(labels.frame_id.tolist(), largest.tolist(), strict=True)
        if np.isfinite(difference)
    }


def agreements(labels: Configurations, evaluation: Evaluation, settings: PrescreenSettings) -> dict[str, str]:
    """Return the frames on which the cheap level agrees with the model, each with the sentence that says so."""
    return {
        frame: f'The cheap level agrees with the model: largest force difference {difference:.3f} eV/Å, '
        f'threshold {settings.threshold:g}.'
        for frame, difference in largest_force_differences(labels, evaluation).items()
        if difference <= settings.threshold
    }
