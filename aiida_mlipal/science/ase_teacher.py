"""What can be said of an ASE calculator before it runs: its level of theory, and what it cannot label."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.label_settings import LabelSettings, calculator_class
from aiida_mlipal.science.level_of_theory import canonical
from aiida_mlipal.science.settings import from_dict

__all__ = ('charge_problem', 'gives_stress', 'known_elements', 'level_of_theory', 'model_problem')

#: Calculators that look at elements and positions alone.
_NO_CHARGE: Final = ('emt', 'lj', 'mace')
#: Parameters that say how, not what is computed: labels do not depend on them.
_TECHNICAL: Final = (
    'cache_api', 'command', 'compile_mode', 'device', 'directory', 'enable_cueq', 'enable_oeq', 'label', 'verbosity',
)  # fmt: skip


def level_of_theory(settings: Mapping[str, Any], model_digest: str | None = None) -> dict[str, Any]:
    """Return the level of theory of an ASE calculator: its name, the parameters that change labels, and its model.

    The version of the program is not part of it, as with any other code: it is known only after the job has run, which
    records it in its ``results``, and each bug fix would cost all labels anew.

    :param settings: of :class:`LabelSettings`.
    :param model_digest: SHA-256 of the files of the model that is the calculator, if there is one.
    """
    known = from_dict(LabelSettings, settings)
    parameters = {key: value for key, value in known.parameters.items() if key not in _TECHNICAL}
    description = {'code': 'ase', 'calculator': known.name, 'parameters': parameters}
    return canonical({**description, 'model': model_digest} if model_digest else description)


def gives_stress(settings: LabelSettings) -> bool:
    """Return whether the calculator has a stress; where only the compute node knows, yes."""
    if not settings.path.startswith('ase.'):  # others may not be installed here
        return True
    properties = calculator_class(settings).implemented_properties
    return not isinstance(properties, (list, tuple)) or 'stress' in properties  # some classes know it by instance only


def known_elements(settings: LabelSettings) -> Collection[str] | None:
    """Return the chemical symbols that the calculator knows, or ``None`` if that cannot be said here."""
    if settings.name == 'emt':
        from ase.calculators.emt import parameters

        return list(parameters)
    if settings.name == 'tblite':
        from ase.data import chemical_symbols

        return list(chemical_symbols[1:87])  # GFN1-xTB and GFN2-xTB are parametrised up to radon
    return None


def charge_problem(settings: LabelSettings, frames: Configurations) -> str | None:
    """Return why the calculator cannot take the charge of some ``frames``, with the mend."""
    charged = frames.charge != 0
    if settings.name in _NO_CHARGE and charged.any():
        return (
            f'charged frames ({charged.sum()} of {len(frames)}) would be labelled by the calculator `{settings.name}` '
            'as if they were neutral: choose one that knows charges, such as `tblite`, or set `charge` to 0.'
        )
    periodic = charged & frames.pbc.any(axis=1)
    if settings.name == 'tblite' and periodic.any():
        return (
            f'charged periodic frames ({periodic.sum()} of {len(frames)}) need a background, and `tblite` does not say '
            'by what it would compensate them: make them neutral, or non-periodic if they are molecules.'
        )
    return None


def model_problem(settings: LabelSettings, has_model: bool) -> str | None:
    """Return what is wrong with the model that a calculator is given, or not given, with the mend."""
    has_path = 'model_paths' in settings.parameters
    if settings.name == 'mace' and has_model == has_path:
        found = 'both `model` and `model_paths` were given' if has_model else 'no model was given'
        return (
            f'the calculator `mace` needs one model, and {found}: set `model` to a model of this profile, which is '
            'recorded, or `parameters: {model_paths: [/path/on/the/computer]}`.'
        )
    if has_model and settings.name != 'mace':
        return f'the calculator `{settings.name}` takes no `model`; remove it, or set `calculator: mace`.'
    return None
