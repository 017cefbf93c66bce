"""Read what a model file of elsewhere holds, so that nobody has to unpickle it a second time to know.

In: ``settings.json`` (:class:`~aiida_mlipal.science.foundation.InspectSettings`) and ``foundation.model``.
Out: ``result.json`` with elements, cutoff, precision, heads, architecture and energies of the atoms. The file is looked
into (unpickled) after its SHA-256 was found to be the expected one, never before: a pickle may run anything.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from aiida_mlipal.runners.foundation import architecture, atomic_energies, heads_of, load
from aiida_mlipal.science.foundation import FOUNDATION, InspectSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('run',)


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the file holds.

    :raises ValueError: for another file than expected, for what is no model that MACE can train further, and for a head
        that is not there or not named though there are several.
    """
    plan = from_dict(InspectSettings, settings)
    path = folder / FOUNDATION
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != plan.sha256:
        raise ValueError(f'the file has the SHA-256 {found}, expected {plan.sha256}: download it again.')
    model = load(path)
    heads = heads_of(model)
    if (plan.head is None and len(heads) > 1) or (plan.head is not None and plan.head not in heads):
        asked = 'none was named' if plan.head is None else f'`{plan.head}` was named'
        raise ValueError(
            f'the model has the heads {", ".join(heads)}, and {asked}: say which one has the level of theory that you '
            f'give, `--head {heads[0]}`.'
        )
    energies = {
        head: {chemical_symbols[number]: energy for number, energy in values.items()}
        for head, values in atomic_energies(model).items()
    }
    shape = architecture(model)
    return {
        'elements': list(energies[heads[0]]),
        'r_max': shape['r_max'],
        'dtype': str(next(model.parameters()).dtype).removeprefix('torch.'),
        'heads': heads,
        'head': plan.head or heads[0],
        'architecture': shape,
        'atomic_energies': energies,
        'n_parameters': sum(parameter.numel() for parameter in model.parameters()),
    }
