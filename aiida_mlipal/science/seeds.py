"""Seed generators: the first frames of a campaign, made from its parent structures.

A recipe is a list of mappings such as ``{'generator': 'rattle', 'n_frames': 8, 'stdev': 0.05}``. Each generator is a
function of a parent, a random stream and its parameters; adding one is adding a function to :data:`GENERATORS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, ground_state_magnetic_moments
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.settings import check_integer, check_number, unknown_name

__all__ = (
    'GENERATORS',
    'Generator',
    'generate',
    'isolated_atoms',
    'set_initial_moments',
    'strained',
    'unpaired_electrons',
    'validate_recipe',
)

#: From a parent and a random stream to frames; the keyword-only parameters are the keys of a recipe item.
Generator = Callable[..., list[Atoms]]

#: Å. Not cubic, so that no degeneracy is imposed on an open shell; the atom sits on no symmetric point.
_ATOM_BOX: Final = (12.0, 12.2, 12.4)
_ATOM_POSITION: Final = (5.83, 6.21, 6.47)


def strained(parent: Atoms, strain: NDArray[np.float64]) -> Atoms:
    """Return ``parent`` with cell and positions deformed by ``1 + strain``, ``strain`` a (3, 3) symmetric tensor."""
    deformation = np.eye(3) + strain
    frame = parent.copy()
    frame.set_cell(parent.cell.array @ deformation.T)
    frame.positions = parent.positions @ deformation.T
    return frame


def _require_periodic(parent: Atoms, generator: str) -> None:
    if not parent.pbc.any():
        raise ValueError(
            f'`{generator}` deforms a cell, but parent {parent.get_chemical_formula()} is not periodic: '
            'use `rattle` for molecules.'
        )


def unchanged(parent: Atoms, rng: np.random.Generator) -> list[Atoms]:
    """Return the parent itself."""
    return [parent.copy()]


def rattle(parent: Atoms, rng: np.random.Generator, *, n_frames: int = 1, stdev: float = 0.05) -> list[Atoms]:
    """Displace all atoms by normal noise of ``stdev`` Å per Cartesian component."""
    check_number('stdev', stdev, above=0)
    frames = []
    for _ in range(n_frames):
        frame = parent.copy()
        frame.positions += rng.normal(scale=stdev, size=(len(frame), 3))
        frames.append(frame)
    return frames


def isotropic_strain(
    parent: Atoms, rng: np.random.Generator, *, n_frames: int = 1, min: float = -0.04, max: float = 0.04
) -> list[Atoms]:
    """Scale all lengths by ``1 + strain``, evenly spaced from ``min`` to ``max`` (a single frame: their middle)."""
    check_number('min', min, above=-1)
    check_number('max', max, above=float(min))
    _require_periodic(parent, 'isotropic_strain')
    strains = np.linspace(min, max, n_frames) if n_frames > 1 else [(min + max) / 2]
    return [strained(parent, strain * np.eye(3)) for strain in strains]


def shear_strain(parent: Atoms, rng: np.random.Generator, *, n_frames: int = 1, max: float = 0.03) -> list[Atoms]:
    """Shear by a symmetric tensor whose three off-diagonal components are uniform in ``[-max, max]``."""
    check_number('max', max, within=(1e-9, 0.5))
    _require_periodic(parent, 'shear_strain')
    frames = []
    for _ in range(n_frames):
        strain = np.zeros((3, 3))
        strain[np.triu_indices(3, 1)] = rng.uniform(-max, max, size=3)
        frames.append(strained(parent, strain + strain.T))
    return frames


def vacancy(
    parent: Atoms, rng: np.random.Generator, *, n_frames: int = 1, n_vacancies: int = 1, stdev: float = 0.05
) -> list[Atoms]:
    """Remove ``n_vacancies`` random atoms and displace the others by normal noise of ``stdev`` Å."""
    check_integer('n_vacancies', n_vacancies)
    check_number('stdev', stdev, within=(0, 2))
    if n_vacancies >= len(parent):
        raise ValueError(
            f'`vacancy` would remove {n_vacancies} of the {len(parent)} atoms of parent '
            f'{parent.get_chemical_formula()}: use a larger cell or fewer vacancies.'
        )
    frames = []
    for _ in range(n_frames):
        frame = parent.copy()
        del frame[np.sort(rng.choice(len(frame), size=n_vacancies, replace=False))]
        frame.positions += rng.normal(scale=stdev, size=(len(frame), 3))
        frames.append(frame)
    return frames


#: All generators that make frames from one parent, by their name in a recipe.
GENERATORS: Final[dict[str, Generator]] = {
    'unchanged': unchanged,
    'rattle': rattle,
    'isotropic_strain': isotropic_strain,
    'shear_strain': shear_strain,
    'vacancy': vacancy,
}
#: Not in :data:`GENERATORS`, because it looks at the elements of all parents together.
_ISOLATED_ATOMS: Final = 'isolated_atoms'


def _valence_shell(number: int) -> tuple[int, int]:
    """Return electrons and orbitals of the open shells of an element: s; s and p; s and d; s, d and f."""
    core = max(noble for noble in (0, 2, 10, 18, 36, 54, 86) if noble < number)
    electrons = number - core
    if core == 0:
        return electrons, 1
    if electrons <= 2 or core in (2, 10):
        return electrons, 4
    filled = {18: 10, 36: 10, 54: 24, 86: 24}[core]  # d (and f) electrons below a p shell
    if electrons > filled + 2:
        return electrons - filled, 4
    if core in (54, 86):
        return (electrons, 13) if electrons <= 16 else (electrons - 14, 6)
    return electrons, 6


def unpaired_electrons(number: int) -> list[int]:
    """Return the plausible numbers of unpaired electrons of the free atom with atomic ``number``, ascending.

    The experimental ground state (:data:`ase.data.ground_state_magnetic_moments`) and two more or fewer, as far as
    the open shells can hold them: hydrogen has no quartet. Where that table breaks the parity of the electrons
    (cerium), both neighbours of its value are taken. Which one a functional prefers is left to the labels.
    """
    table = ground_state_magnetic_moments
    if not 0 < number < len(table) or not np.isfinite(table[number]):
        raise ValueError(f'the ground state of the free atom with atomic number {number} is not in the table of ASE.')
    ground = round(float(table[number]))
    electrons, orbitals = _valence_shell(number)
    most = min(electrons, 2 * orbitals - electrons)
    if (number - ground) % 2:
        return [moment for moment in (ground - 1, ground + 1) if 0 <= moment <= most]
    return [moment for moment in (ground - 2, ground, ground + 2) if moment == ground or 0 <= moment <= most]


def isolated_atoms(numbers: Sequence[int]) -> Configurations:
    """Return one frame per element and plausible multiplicity, with role ``isolated_atom``.

    :param numbers: atomic numbers, each taken once.
    """
    frames, multiplicities = [], []
    for number in sorted({int(number) for number in numbers}):
        for moment in unpaired_electrons(number):
            frames.append(
                Atoms(chemical_symbols[number], positions=[_ATOM_POSITION], cell=np.diag(_ATOM_BOX), pbc=True)
            )
            multiplicities.append(moment + 1)
    return Configurations.from_atoms(frames, multiplicity=multiplicities, role='isolated_atom', origin=_ISOLATED_ATOMS)


def _parameters(generator: str) -> list[str]:
    if generator == _ISOLATED_ATOMS:
        return []
    signature = inspect.signature(GENERATORS[generator])
    return [name for name, value in signature.parameters.items() if value.kind is inspect.Parameter.KEYWORD_ONLY]


def validate_recipe(recipe: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a recipe with an unknown generator or parameter, or one that makes no frames.

    :raises ValueError: naming the item, what is wrong with it and the nearest valid name.
    """
    if not recipe:
        raise ValueError('the seed recipe is empty: add at least one item, for example {"generator": "rattle"}.')
    for index, item in enumerate(recipe):
        where = f'seed recipe, item {index + 1}: '
        if 'generator' not in item:
            raise ValueError(f'{where}the key `generator` is missing. Valid: {", ".join(sorted(GENERATORS))}.')
        name = item['generator']
        if name != _ISOLATED_ATOMS and name not in GENERATORS:
            raise ValueError(where + unknown_name('generator', name, [*GENERATORS, _ISOLATED_ATOMS]))
        valid = _parameters(name)
        for key in item:
            if key != 'generator' and key not in valid:
                raise ValueError(where + unknown_name(f'parameter of `{name}`', key, valid))
        if 'n_frames' in item:
            check_integer(f'{where}n_frames', item['n_frames'])


def set_initial_moments(parents: Sequence[Atoms], moments: Mapping[str, float] | Sequence[Sequence[float]]) -> None:
    """Give the atoms of ``parents`` their initial magnetic moments, which their seeds then inherit.

    :param moments: µB per atom, either by element (others get none) or one list per parent, in the order of its atoms.
    :raises ValueError: if lists do not match the parents, or an element is in none of them.
    """
    if not isinstance(moments, Mapping):
        expected = [len(parent) for parent in parents]
        found = [len(values) if isinstance(values, Sequence) else 1 for values in moments]
        if found != expected:
            raise ValueError(
                f'`initial_moments` must be one list per structure with one moment per atom: expected lists of '
                f'{expected} numbers, got {found}; or give them by element, for example {{Fe: 2.2}}.'
            )
        for parent, values in zip(parents, moments, strict=True):
            parent.set_initial_magnetic_moments(np.array(values, dtype=float))
        return
    elements = {symbol for parent in parents for symbol in parent.get_chemical_symbols()}
    unknown = sorted(set(moments) - elements)
    if unknown:
        raise ValueError(f'`initial_moments` names {unknown}, but the structures consist of {sorted(elements)}.')
    for parent in parents:
        parent.set_initial_magnetic_moments([float(moments.get(symbol, 0.0)) for symbol in parent.symbols])


def generate(parents: Configurations, recipe: Sequence[Mapping[str, Any]], seed: int) -> Configurations:
    """Apply every item of ``recipe`` to every parent.

    ``n_frames`` is per parent. The random stream of an item and a parent depends on ``seed`` and on their places alone.
    ``reference_cell`` stays the parent's through strain and vacancies. Exact repeats (``unchanged`` and a strain of
    zero) enter once, the earlier one. ``isolated_atoms`` adds the atoms of all parents' elements, once.

    :raises ValueError: for a recipe that :func:`validate_recipe` refuses, or no parents.
    """
    validate_recipe(recipe)
    if len(parents) == 0:
        raise ValueError('seeds need at least one parent structure, got none.')
    parts = []
    for item_index, item in enumerate(recipe):
        name = str(item['generator'])
        if name == _ISOLATED_ATOMS:
            parts.append(isolated_atoms(np.unique(parents.numbers).tolist()))
            continue
        parameters = {key: value for key, value in item.items() if key != 'generator'}
        for parent_index in range(len(parents)):
            rng = np.random.default_rng([seed, item_index, parent_index])
            parent = parents.atoms(parent_index)
            parent.calc = None
            frames = GENERATORS[name](parent, rng, **parameters)
            # Taking atoms away changes the parity of the electrons: the spin is then left to the level of theory.
            same_atoms = all(len(frame) == len(parent) for frame in frames)
            parts.append(
                Configurations.from_atoms(
                    frames,
                    reference_cell=parents.reference_cell[parent_index],
                    charge=int(parents.charge[parent_index]),
                    multiplicity=int(parents.multiplicity[parent_index]) if same_atoms else 0,
                    origin=name,
                    parent=str(parents.frame_id[parent_index]),
                )
            )
    everything = Configurations.concatenate(parts)
    _, first = np.unique(everything.frame_id, return_index=True)
    return everything.take(np.sort(first))
