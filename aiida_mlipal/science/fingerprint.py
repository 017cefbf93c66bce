"""A description of a frame that needs no model: how its atoms are surrounded. Used to thin out old calculations.

For each atom and each element :math:`b` around it,

- radial functions :math:`G_k^b = \\sum_{j \\in b} e^{-(r_{ij} - \\mu_k)^2 / 2 \\sigma^2} f_c(r_{ij})`, a histogram of
  distances with soft bins: the :math:`G^2` functions of Behler and Parrinello, Phys. Rev. Lett. 98, 146401 (2007);
- angular functions
  :math:`A_l^{bc} = \\sum_{j \\in b, k \\in c} w_{ij} w_{ik} P_l(\\cos \\theta_{jik}) / (1 + W^b)(1 + W^c)`
  with :math:`w = f_c^2`, :math:`W = \\sum w` and Legendre polynomials of degree 1 to 4. This is their :math:`G^4`
  without the distance :math:`r_{jk}`, and the squared bond order of Steinhardt et al., Phys. Rev. B 28, 784 (1983). It
  is summed through moments of the directions (Shapeev, Multiscale Model. Simul. 14, 1153 (2016)), so that its cost
  grows with the number of neighbours, not with their square.

The root of the angular functions, with its sign and softened at zero, is taken: an atom that leaves a symmetric place
changes it in first order, and the sums only in second. :math:`f_c` is the cosine cutoff. A frame is described by the
mean and the standard deviation over its atoms of each element. It does not change when atoms of one element are
exchanged or the frame is rotated, mirrored or moved. Magnetic moments and charge are no part of it. The unit is a
number of neighbours.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import factorial
from typing import Any, Final

import numpy as np
from ase.neighborlist import primitive_neighbor_list
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.duplicates import distinct

__all__ = ('CUTOFF', 'fingerprints', 'thin')

CUTOFF: Final = 5.0  #: Å
_CENTRES: Final = np.linspace(0.8, 5.0, 15)  # Å
_WIDTH: Final = 0.3  # Å
#: Where the root of an angular function turns into a straight line, so that it is smooth at zero.
_SOFT: Final = 1e-4
#: Monomials of the direction of a neighbour, by degree, and how often each occurs in the power of a scalar product.
_MONOMIALS: Final[list[list[tuple[int, ...]]]] = [
    list(combinations_with_replacement(range(3), degree)) for degree in range(5)
]
_WEIGHTS: Final = [
    np.array([factorial(len(m)) / np.prod([factorial(m.count(axis)) for axis in range(3)]) for m in monomials])
    for monomials in _MONOMIALS
]
#: Coefficients of the Legendre polynomials 1 to 4 in powers 0 to 4 of the cosine.
_LEGENDRE: Final = np.array(
    [[0, 1, 0, 0, 0], [-0.5, 0, 1.5, 0, 0], [0, -1.5, 0, 2.5, 0], [0.375, 0, -3.75, 0, 4.375]], dtype=float
)


def fingerprints(frames: Configurations) -> NDArray[np.float64]:
    """Return one row per frame, shape ``(n_frames, D)``; all have the columns of the elements of ``frames``."""
    elements = np.unique(frames.numbers)
    offsets = frames.offsets
    rows = []
    for index in range(len(frames)):
        atoms = slice(offsets[index], offsets[index + 1])
        species = np.searchsorted(elements, frames.numbers[atoms])
        local = _environments(frames.positions[atoms], frames.cell[index], frames.pbc[index], species, len(elements))
        parts = []
        for kind in range(len(elements)):
            own = local[species == kind]
            parts += [own.mean(axis=0), own.std(axis=0)] if len(own) else [np.zeros(local.shape[1])] * 2
        rows.append(np.concatenate(parts))
    return np.array(rows) if rows else np.zeros((0, 0))


def _environments(
    positions: NDArray[np.float64],
    cell: NDArray[np.float64],
    pbc: NDArray[np.bool_],
    species: NDArray[np.int64],
    n_species: int,
) -> NDArray[np.float64]:
    """Return radial and angular functions of each atom, shape ``(n_atoms, n_functions)``."""
    centre, other, length, vector = primitive_neighbor_list('ijdD', pbc, cell, positions, CUTOFF)
    length = np.maximum(length, 1e-6)
    direction = vector / length[:, None]
    cutoff = 0.5 * (1 + np.cos(np.pi * length / CUTOFF))
    radial = np.exp(-0.5 * ((length[:, None] - _CENTRES) / _WIDTH) ** 2) * cutoff[:, None]
    products: dict[tuple[int, ...], NDArray[np.float64]] = {(): cutoff**2}
    for monomials in _MONOMIALS[1:]:
        products.update({monomial: products[monomial[:-1]] * direction[:, monomial[-1]] for monomial in monomials})
    values = np.column_stack([radial, *products.values()])
    # Sum over the neighbours of each element around each atom.
    n_atoms = len(species)
    target = centre * n_species + species[other]
    summation = csr_matrix((np.ones(len(target)), (target, np.arange(len(target)))), (n_atoms * n_species, len(target)))
    sums = (summation @ values).reshape(n_atoms, n_species, -1)
    radial_part = sums[:, :, : len(_CENTRES)].reshape(n_atoms, -1)
    powers, start = [], len(_CENTRES)
    for weights in _WEIGHTS:
        tensor = sums[:, :, start : start + len(weights)]
        powers.append(np.einsum('abm,acm,m->abc', tensor, tensor, weights))
        start += len(weights)
    neighbours = 1 + sums[:, :, len(_CENTRES)]
    scaled = np.stack(powers, axis=-1) / (neighbours[:, :, None] * neighbours[:, None, :])[..., None]
    upper = np.triu_indices(n_species)
    angular = (scaled @ _LEGENDRE.T)[:, upper[0], upper[1]].reshape(n_atoms, -1)
    angular /= (angular**2 + _SOFT**2) ** 0.25
    return np.hstack([radial_part, angular])


def _kind(frames: Configurations, index: int) -> tuple[Any, ...]:
    """Return what two frames must share to be compared: composition, periodicity, charge and magnetic state."""
    atoms = slice(frames.offsets[index], frames.offsets[index + 1])
    atoms_and_moments = sorted(zip(frames.numbers[atoms].tolist(), frames.initial_moments[atoms].tolist(), strict=True))
    state = (int(frames.charge[index]), int(frames.multiplicity[index]))
    return (tuple(atoms_and_moments), tuple(frames.pbc[index].tolist()), state)


def thin(frames: Configurations, distance: float) -> NDArray[np.bool_]:
    """Return which frames to keep, shape ``(n_frames,)``: of frames closer than ``distance`` the first one stays.

    Only labelled frames of the same composition, periodicity, charge, multiplicity and initial moments are compared.
    Rejected frames and isolated atoms always stay. Later frames never push out earlier ones.

    :param distance: Euclidean distance of :func:`fingerprints`; zero keeps everything but exact repetitions.
    """
    keep = np.ones(len(frames), dtype=bool)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for index in np.flatnonzero(frames.is_labelled & ~frames.has_role('isolated_atom')).tolist():
        kinds.setdefault(_kind(frames, index), []).append(index)
    for rows in kinds.values():
        owner = distinct(fingerprints(frames.take(rows)), distance)
        keep[np.array(rows)[owner != np.arange(len(rows))]] = False
    return keep
