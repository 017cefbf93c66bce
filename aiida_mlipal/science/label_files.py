"""Labels in files from elsewhere: extended XYZ, and VASP's ``vasprun.xml`` and ``OUTCAR``.

The energy must be the one that belongs to the forces. For VASP that is the free energy (``free  energy TOTEN``), not
the energy extrapolated to zero smearing. Stress has ASE's sign, positive under tension; VASP's, which has the other
one, is turned. A key that contains ``virial`` is divided by minus the volume.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from ase.io import iread
from numpy.typing import NDArray

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.seeds import isolated_atoms

__all__ = ('DECLARED', 'LabelKeys', 'declared_atoms', 'file_format', 'read_labels_file')

#: Origin of the energies of isolated atoms that a user stated.
DECLARED: Final = 'declared'
_UNCONVERGED: Final = 'the SCF did not converge'
#: One of these names a frame that holds an isolated atom, as MACE spells it.
_CONFIG_TYPES: Final = ('isolatedatom', 'isolated_atom')


@dataclass(frozen=True, kw_only=True)
class LabelKeys:
    """What labels are called in extended XYZ; left empty, ``REF_energy`` and so on, else ``energy`` and so on."""

    energy: str = ''
    forces: str = ''
    stress: str = ''

    def candidates(self, name: str) -> list[str]:
        """Return the keys to look for, the best first."""
        chosen = getattr(self, name)
        if chosen:
            return [chosen]
        return [f'REF_{name}', name, *(['REF_virial', 'virial', 'REF_virials', 'virials'] if name == 'stress' else [])]


def file_format(name: str) -> str:
    """Return how ASE calls the format of a file, told by its name.

    :raises ValueError: for any other.
    """
    lower = Path(name).name.lower()
    if lower.endswith(('.xyz', '.extxyz')):
        return 'extxyz'
    if lower.endswith('.xml'):
        return 'vasp-xml'
    if 'outcar' in lower:
        return 'vasp-out'
    raise ValueError(
        f'cannot tell the format of `{name}`: expected extended XYZ (*.xyz, *.extxyz) or VASP (vasprun*.xml, OUTCAR*). '
        'Anything that ASE reads becomes extended XYZ by `ase convert FILE frames.extxyz`.'
    )


def read_labels_file(path: Path, name: str, keys: LabelKeys) -> Configurations:
    """Return all frames of a file with their labels; steps of VASP whose SCF did not converge are rejected.

    :param name: the name of the file as the user knows it.
    :raises ValueError: if it cannot be read, or a frame has no energy or no forces, saying what it has.
    """
    kind = file_format(name)
    try:
        frames: list[Atoms] = list(iread(str(path), index=':', format=kind))
    except Exception as exception:  # a reader of ASE fails in any way that a broken file can lead to
        raise ValueError(f'`{name}` cannot be read as {kind}: {exception}') from exception
    if not frames:
        raise ValueError(f'`{name}` has no frames.')
    labels = [_label(atoms, f'frame {index} of `{name}`', kind, keys) for index, atoms in enumerate(frames)]
    good = _converged(path, kind, len(frames))
    return Configurations.from_atoms(
        frames,
        energy=np.where(good, [label['energy'] for label in labels], np.nan),
        forces=np.concatenate(
            [label['forces'] if ok else np.full_like(label['forces'], np.nan)
             for label, ok in zip(labels, good, strict=True)]
        ),
        stress=np.where(good[:, None], [label['stress'] for label in labels], np.nan),
        status=np.where(good, 'labelled', 'rejected'),
        reason=np.where(good, '', _UNCONVERGED),
        role=['isolated_atom' if _is_isolated(atoms) else 'train' for atoms in frames],
        origin='import',
        trajectory=name,
        step=np.arange(len(frames)),
    )  # fmt: skip


def declared_atoms(energies: Mapping[str, float]) -> Configurations:
    """Return isolated atoms with these energies (eV, by element), marked by their origin.

    :raises ValueError: for what is no element.
    """
    unknown = [element for element in energies if element not in atomic_numbers]
    if unknown:
        raise ValueError(f'{unknown} are no elements; expected symbols as in `Si=-105.2,O=-430.9`.')
    if not energies:
        return Configurations.empty()
    boxes = isolated_atoms([atomic_numbers[element] for element in energies])
    first = [int(np.flatnonzero(boxes.numbers == atomic_numbers[element])[0]) for element in sorted(energies)]
    atoms = boxes.take(first).to_atoms()
    return Configurations.from_atoms(
        atoms,
        energy=[float(energies[element]) for element in sorted(energies)],
        forces=np.zeros((len(atoms), 3)),
        status='labelled',
        role='isolated_atom',
        origin=DECLARED,
    )


def _label(atoms: Atoms, what: str, kind: str, keys: LabelKeys) -> dict[str, Any]:
    """Return energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt, NaN if there is none) of one frame."""
    found: dict[str, Any] = {**(atoms.calc.results if atoms.calc is not None else {}), **atoms.info, **atoms.arrays}
    if kind != 'extxyz':
        keys = LabelKeys(energy='free_energy', forces='forces', stress='stress')
    energy = _find('energy', found, keys, what, kind)[1]
    forces = _find('forces', found, keys, what, kind)[1]
    if forces.shape != (len(atoms), 3):
        raise ValueError(f'{what} has forces of shape {forces.shape}, expected {(len(atoms), 3)}.')
    stress = np.full(6, np.nan)
    if any(found.get(key) is not None for key in keys.candidates('stress')):
        key, values = _find('stress', found, keys, what, kind)
        stress = _voigt(-values / atoms.get_volume() if 'virial' in key.lower() else values, what)
    return {'energy': float(energy), 'forces': forces, 'stress': stress}


def _find(
    name: str, found: Mapping[str, Any], keys: LabelKeys, what: str, kind: str
) -> tuple[str, NDArray[np.float64]]:
    """Return the key of a quantity and its values."""
    for key in keys.candidates(name):
        if found.get(key) is not None:
            return key, np.asarray(found[key], dtype=float)
    names = ', '.join(f'`{key}`' for key in sorted(found)) or 'nothing'
    mend = f'Name it with `--{name}-key`.' if kind == 'extxyz' else 'Compute it.'
    raise ValueError(f'{what} has no {name} under {" or ".join(keys.candidates(name))}; it has {names}. {mend}')


def _voigt(stress: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """Return a stress in Voigt order, from 6 or 9 numbers."""
    if stress.size == 9:
        return stress.reshape(3, 3)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if stress.size != 6:
        raise ValueError(f'{what} has a stress of {stress.size} numbers, expected 6 (Voigt) or 9.')
    return stress.reshape(6)


def _is_isolated(atoms: Atoms) -> bool:
    named = str(atoms.info.get('config_type', '')).lower() in _CONFIG_TYPES
    return len(atoms) == 1 and (named or not atoms.pbc.any())


def _converged(path: Path, kind: str, n_frames: int) -> NDArray[np.bool_]:
    """Return for each ionic step whether VASP's SCF ended before the largest number of its steps."""
    found: Sequence[bool] = []
    if kind == 'vasp-xml':
        root = ElementTree.parse(path).getroot()
        limits = [item.text for item in root.iter('i') if item.get('name') == 'NELM']
        limit = int(limits[-1] or 60) if limits else 60
        found = [len(step.findall('scstep')) < limit for step in root.iter('calculation')]
    elif kind == 'vasp-out':
        text = path.read_text(encoding='utf-8', errors='replace')
        steps = re.split('FREE ENERGIE OF THE ION-ELECTRON SYSTEM', text)[:-1]
        found = ['aborting loop because EDIFF is reached' in step for step in steps]
    if len(found) != n_frames:
        return np.ones(n_frames, dtype=bool)
    return np.array(found, dtype=bool)
