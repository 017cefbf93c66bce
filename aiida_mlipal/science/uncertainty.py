"""How unsure a model is of an atom and of a frame: several measures on one interface, each in units of its own.

None of them is an error. What force error to expect at a value follows from a calibration on labelled random frames, of
each measure by itself, see :mod:`aiida_mlipal.science.calibration`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.stats import chi2

from aiida_mlipal.science.duplicates import nearest_distance
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.settings import unknown_name

__all__ = ('MEASURES', 'NEED_TRAINING_FRAMES', 'Uncertainty', 'measure', 'parts_of', 'size_factor', 'typical_maximum')

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """One number per atom and one per frame; NaN where the model cannot tell."""

    per_atom: Floats  #: (A,)
    per_frame: Floats  #: (F,)


def _forces_max(evaluation: Evaluation, reference: Floats) -> Uncertainty:
    """Return the spread of the forces, eV/Å per component, and the largest of each frame."""
    return Uncertainty(evaluation.forces_std, evaluation.max_forces_std)


def _forces_mean(evaluation: Evaluation, reference: Floats) -> Uncertainty:
    """Return the spread of the forces, eV/Å per component, and its root mean square over the atoms of each frame."""
    total = np.add.reduceat(evaluation.forces_std**2, evaluation.offsets[:-1])
    return Uncertainty(evaluation.forces_std, np.sqrt(total / evaluation.n_atoms))


def _energy_per_atom(evaluation: Evaluation, reference: Floats) -> Uncertainty:
    """Return the spread of the energy, eV per atom."""
    return _on_all_atoms(evaluation, evaluation.energy_std / evaluation.n_atoms)


def _stress(evaluation: Evaluation, reference: Floats) -> Uncertainty:
    """Return the spread of the stress, eV/Å³ per component; NaN for frames that are not periodic."""
    return _on_all_atoms(evaluation, evaluation.stress_std)


def _latent_distance(evaluation: Evaluation, reference: Floats) -> Uncertainty:
    """Return the distance to the nearest training frame, in standard deviations of the training frames' descriptors.

    Janet, Duan, Yang, Nandy and Kulik, Chem. Sci. 10, 7913 (2019). Divided by the root of the number of components
    that vary. Infinite without training frames that differ.
    """
    scale = reference.std(axis=0) if len(reference) else np.zeros(0)
    varies = scale > _NOISE * np.abs(reference).max(initial=0)
    if not varies.any():
        return _on_all_atoms(evaluation, np.full(len(evaluation), np.inf))
    table, known = (rows[:, varies] / scale[varies] for rows in (evaluation.descriptors, reference))
    return _on_all_atoms(evaluation, nearest_distance(table, known) / np.sqrt(varies.sum()))


def _mahalanobis(evaluation: Evaluation, reference: Floats) -> Uncertainty:
    """Return the Mahalanobis distance from the mean of the training frames, by the root of the number of components.

    Lee, Lee, Lee and Shin, NeurIPS 2018 (arXiv 1807.03888). The covariance of the descriptors is shrunk towards a
    multiple of the unit matrix, since there are often fewer frames than components: oracle approximating shrinkage,
    Chen, Wiesel, Eldar and Hero, IEEE Trans. Signal Process. 58, 5016 (2010), equation 23. Infinite for fewer than two
    training frames.
    """
    n_rows, n_features = reference.shape
    centred = reference - reference.mean(axis=0) if n_rows else reference
    if n_rows < 2 or not np.any(centred):
        return _on_all_atoms(evaluation, np.full(len(evaluation), np.inf))
    sample = centred.T @ centred / n_rows
    trace, square = float(np.trace(sample)), float(np.sum(sample**2))
    excess = (n_rows + 1 - 2 / n_features) * (square - trace**2 / n_features)
    share = 1.0 if excess <= 0 else min(1.0, ((1 - 2 / n_features) * square + trace**2) / excess)
    covariance = (1 - share) * sample + share * trace / n_features * np.eye(n_features)
    apart = evaluation.descriptors - reference.mean(axis=0)
    white = solve_triangular(np.linalg.cholesky(covariance), apart.T, lower=True, check_finite=False)
    return _on_all_atoms(evaluation, np.sqrt(np.mean(white**2, axis=0)))


#: Spread below which a descriptor is noise of a single-precision model, relative to the largest one.
_NOISE: Final = 1e-5
_MEASURES: Final[dict[str, Callable[[Evaluation, Floats], Uncertainty]]] = {
    'forces_max': _forces_max,
    'forces_mean': _forces_mean,
    'energy_per_atom': _energy_per_atom,
    'stress': _stress,
    'latent_distance': _latent_distance,
    'mahalanobis': _mahalanobis,
}
#: The spread that the first four look at is that of a committee, or what one model with ``llpr`` or ``heads`` says.
MEASURES: Final = tuple(_MEASURES)
#: Those that look at the descriptors of the training frames.
NEED_TRAINING_FRAMES: Final = frozenset({'latent_distance', 'mahalanobis'})


def _on_all_atoms(evaluation: Evaluation, per_frame: Floats) -> Uncertainty:
    """Return what is known of frames alone, with the same number on all atoms of a frame."""
    return Uncertainty(np.repeat(per_frame, evaluation.n_atoms), per_frame)


def parts_of(name: str) -> list[str]:
    """Return the measures that ``name``, such as ``forces_max + latent_distance``, is the average of.

    :raises ValueError: for one that is not in :data:`MEASURES`.
    """
    parts = [part.strip() for part in name.split('+')]
    for part in parts:
        if part not in _MEASURES:
            raise ValueError(unknown_name('measure of uncertainty', part, MEASURES))
    return parts


def measure(name: str, evaluation: Evaluation, reference: Floats) -> Uncertainty:
    """Return the uncertainty of the atoms and frames of ``evaluation``.

    The average of several measures is their geometric mean: it ranks frames alike in whatever units each is given, so
    that nothing has to be fitted before they are averaged, and a calibration turns it into an error like any other.

    :param name: one of :data:`MEASURES`, or several of them with ``+`` between.
    :param reference: (N, D), descriptors of the training frames by the same model.
    """
    if len(evaluation) == 0:
        return Uncertainty(np.zeros(0), np.zeros(0))
    found = [_MEASURES[part](evaluation, reference) for part in parts_of(name)]
    if len(found) == 1:
        return found[0]
    return Uncertainty(
        _geometric_mean([each.per_atom for each in found]), _geometric_mean([each.per_frame for each in found])
    )


def _geometric_mean(columns: list[Floats]) -> Floats:
    with np.errstate(divide='ignore', invalid='ignore'):
        mean: Floats = np.exp(np.mean(np.log(columns), axis=0))
    return mean


def typical_maximum(n_atoms: NDArray[np.int64], degrees: int) -> Floats:
    """Return the median of the largest of N numbers, each the root of a mean of ``degrees`` squared normal ones.

    What the largest of N atoms exceeds a typical atom by, if all atoms are alike and independent: the error of a force
    has 3 degrees of freedom, the spread of one among K members 3 (K - 1).

    :param n_atoms: N of each frame, shape ``(F,)``.
    :returns: (F,), in units of the root mean square of one number.
    """
    result: Floats = np.sqrt(chi2.ppf(0.5 ** (1 / np.asarray(n_atoms, dtype=float)), degrees) / degrees)
    return result


def size_factor(name: str, n_atoms: NDArray[np.int64], n_members: int) -> Floats:
    """Return what the number of atoms alone does to the uncertainty of a frame, shape ``(F,)``.

    The largest spread of 512 atoms is above that of 8 of the same quality, because each is a sample of few members.
    What one model says is no sample; nor do the other measures grow with the frame.
    """
    parts = parts_of(name)
    if 'forces_max' not in parts or n_members < 2:
        return np.ones(len(n_atoms))
    grown: Floats = typical_maximum(n_atoms, 3 * (n_members - 1)) ** (parts.count('forces_max') / len(parts))
    return grown
