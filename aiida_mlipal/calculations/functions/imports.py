"""Datasets from files that were computed elsewhere, at a level of theory that the user declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.label_checks import LabelChecks, check_labels
from aiida_mlipal.science.label_files import LabelKeys, declared_atoms, read_labels_file
from aiida_mlipal.science.settings import from_dict

__all__ = ('ImportSettings', 'declared', 'import_labels', 'read_files')


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """How files are read, and the energies that the user states."""

    keys: dict[str, str] = field(default_factory=dict)  #: :class:`LabelKeys`
    e0s: dict[str, float] = field(default_factory=dict)  #: energies of isolated atoms by element, eV
    checks: dict[str, Any] = field(default_factory=lambda: {'require_stress': False})  #: :class:`LabelChecks`


def declared(level_of_theory: Mapping[str, Any]) -> dict[str, Any]:
    """Return a level of theory marked as stated by a user, not read from calculations.

    :raises ValueError: if it does not say what labels of different origin are told apart by.
    """
    missing = [key for key in ('code', 'functional') if not level_of_theory.get(key)]
    if missing:
        raise ValueError(
            f'the level of theory lacks {" and ".join(f"`{key}`" for key in missing)}; write for example '
            '`code: vasp`, `functional: PBE`, `cutoff: 520`, and whatever else energies depend on.'
        )
    return {**level_of_theory, 'declared': True}


def read_files(files: Sequence[tuple[Path, str]], settings: ImportSettings) -> Configurations:
    """Return the frames of all files (path and name), each once, judged, with the declared atoms.

    :raises ValueError: for a file without labels, and for what is no element.
    """
    keys = from_dict(LabelKeys, settings.keys)
    parts = [read_labels_file(path, name, keys) for path, name in files]
    frames = Configurations.concatenate([*parts, declared_atoms(settings.e0s)])
    first: dict[str, int] = {}
    for row, frame in enumerate(frames.frame_id.tolist()):
        first.setdefault(frame, row)
    return check_labels(frames.take(list(first.values())), from_dict(LabelChecks, settings.checks))


@calcfunction
def import_labels(level_of_theory: orm.Dict, settings: orm.Dict, **files: orm.SinglefileData) -> ConfigurationsData:
    """Return the labelled frames of ``files`` as one dataset.

    :param settings: :class:`ImportSettings`.
    """
    from contextlib import ExitStack

    with ExitStack() as stack:
        nodes = [files[key] for key in sorted(files)]
        paths = [(Path(stack.enter_context(node.as_path())), node.filename) for node in nodes]
        frames = read_files(paths, from_dict(ImportSettings, settings.get_dict()))
    return ConfigurationsData(frames, level_of_theory=level_of_theory.get_dict())
