"""What several pw.x calculations in one job computed, in one node: a node for each would cost AiiDA more to store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from aiida.orm import ArrayData
from numpy.typing import NDArray

__all__ = ('PER_FRAME', 'pack_labels', 'unpack_labels')

#: Arrays with one row per frame, by name, with the shape of a row. Beside them, `forces` has one row per atom.
PER_FRAME: Final[Mapping[str, tuple[int, ...]]] = {
    'energy': (),
    'energy_smearing': (),
    'scf_force_error': (),
    'stress': (3, 3),
    'total_magnetization': (),
}


def pack_labels(labels: Mapping[str, Mapping[str, Any]]) -> ArrayData:
    """Return a node with the labels of several frames, NaN where there is no value.

    :param labels: by name of the frame, values as ``PwCalculation`` returns them for the last step: energies in eV,
        ``forces`` (n_atoms, 3) in eV/Å, ``stress`` (3, 3) in GPa, and ``scf_force_error`` in eV/Å.
    :returns: arrays with one row per frame, in the order of the attribute ``frames``; ``forces`` one row per atom.
    """
    node = ArrayData()
    for name, row in PER_FRAME.items():
        node.set_array(name, np.array([np.broadcast_to(values.get(name, np.nan), row) for values in labels.values()]))
    forces = [np.asarray(values['forces']) for values in labels.values()]
    node.set_array('n_atoms', np.array([len(rows) for rows in forces]))
    node.set_array('forces', np.concatenate(forces))
    node.base.attributes.set('frames', list(labels))
    return node


def unpack_labels(node: ArrayData) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return what :func:`pack_labels` was given, without values that are not numbers."""
    columns = {name: node.get_array(name) for name in PER_FRAME}
    forces = np.split(node.get_array('forces'), np.cumsum(node.get_array('n_atoms'))[:-1])
    return {
        frame: {'forces': forces[index]}
        | {name: rows[index] for name, rows in columns.items() if not np.isnan(rows[index]).any()}
        for index, frame in enumerate(node.base.attributes.get('frames'))
    }
