"""The one module that knows MACE's command line and training loop (0.3.14 to 0.3.x); names of options are those of
:mod:`aiida_mlipal.science.mace_options`.

Faults of MACE that are handled here: an incomplete last batch is dropped and a batch larger than the set crashes, so
it is clamped; a validation loss that is not a number is taken for the best one and training goes on, so
:class:`_Watch` raises; ``--patience`` announces a stop and goes on (ACEsuit/mace#1384), so :class:`_Watch` stops.
"""

from __future__ import annotations

import difflib
import math
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

from aiida_mlipal.runners import warm_start
from aiida_mlipal.runners.checkpoints import Continuation
from aiida_mlipal.runners.foundation import Foundation, begin_at_new_level
from aiida_mlipal.runners.main import SettingsRefused
from aiida_mlipal.science.foundation import REPLAY_HEAD
from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.mace_options import FREEZE, OPTION_OF, SETTING_OF, STAGE_TWO_OPTION_OF, canonical
from aiida_mlipal.science.training_data import CHECKPOINTS
from aiida_mlipal.science.training_settings import TrainingSettings

if TYPE_CHECKING:
    from ase import Atoms

__all__ = (
    'HeadFiles',
    'TrainingStopped',
    'arguments',
    'check',
    'checkpoint_folder',
    'guard_kernels',
    'model_file',
    'raw_arguments',
    'run',
)


@dataclass(frozen=True, kw_only=True)
class HeadFiles:
    """What one head is trained with. Energies of the atoms in eV by atomic number."""

    train_file: Path
    valid_file: Path
    n_train: int
    e0s: dict[int, float]
    elements: tuple[int, ...] | None = None  #: atomic numbers, where the files are databases: MACE does not look there

    def options(self) -> dict[str, str]:
        """Return MACE's options. E0s are always explicit: its other ways depend on what is in the files."""
        e0s = '{' + ', '.join(f'{number}: {energy!r}' for number, energy in sorted(self.e0s.items())) + '}'
        numbers = {} if self.elements is None else {'atomic_numbers': str(list(self.elements))}
        return {'train_file': str(self.train_file), 'valid_file': str(self.valid_file), 'E0s': e0s, **numbers}


class TrainingStopped(Exception):  # noqa: N818 - a request, not an error
    """Somebody asked a training to end."""


def arguments(
    settings: TrainingSettings,
    *,
    name: str,
    seed: int,
    heads: Mapping[str, HeadFiles],
    restart_epoch: int | None = None,
    foundation: Foundation | None = None,
) -> list[str]:
    """Return the command line of ``mace_run_train`` for one member, to be run in the member's own folder.

    :param heads: by name, the main head last: MACE judges by the last one which epoch is the best.
    :param restart_epoch: the epoch of the checkpoint to load; nothing is trained then, MACE only writes the model.
    :param foundation: the model to start from; with a head :data:`REPLAY_HEAD` it keeps to what it has learned.
    """
    n_gpus = settings.gpus_per_member
    options: dict[str, Any] = {
        'name': name,
        'seed': seed,
        'checkpoints_dir': os.path.join('..', CHECKPOINTS, str(seed)),
        **heads[MAIN_HEAD].options(),
        'energy_key': 'REF_energy',
        'forces_key': 'REF_forces',
        'stress_key': 'REF_stress',
        **{option: getattr(settings, setting) for setting, option in OPTION_OF.items()},
        'radial_MLP': list(settings.radial_MLP),
        # Not above the smallest head's either: MACE also walks through each head's frames alone.
        'batch_size': min(settings.batch_size, *(head.n_train // n_gpus for head in heads.values())),
        'valid_batch_size': settings.valid_batch_size or settings.batch_size,
        'eval_interval': 1,
        'error_table': 'PerAtomRMSE',
        'skip_evaluate_heads': 'train_,valid_',  # all frames at the end: the job does that itself, and keeps it
        'plot': False,
        'launcher': 'none' if n_gpus == 1 else 'torchrun',
    }
    flags = ['save_cpu'] if n_gpus == 1 else ['save_cpu', 'distributed']
    if settings.ema_decay:
        options['ema_decay'] = settings.ema_decay
        flags.append('ema')
    if settings.enable_cueq:  # see guard_kernels
        options['enable_cueq'] = True
    if settings.pair_repulsion:
        flags.append('pair_repulsion')
    start = settings.stage_two_start
    if restart_epoch is not None:
        flags.append('restart_latest')
        options['max_num_epochs'] = restart_epoch
        if start is not None:
            # MACE looks for the second stage only if it begins before the end. Nothing is trained any more, so it may
            # begin one epoch earlier than it did.
            start = min(start, restart_epoch - 1) if restart_epoch >= start else None
    if start is not None:
        options['start_stage_two'] = start
        options |= {option: getattr(settings, setting) for setting, option in STAGE_TWO_OPTION_OF.items()}
    own = {name: head for name, head in heads.items() if name != REPLAY_HEAD}
    if len(own) > 1:  # what a head does not say, MACE takes from the options above
        options['heads'] = {name: {} if name == MAIN_HEAD else head.options() for name, head in own.items()}
    if foundation is not None:
        options |= _fine_tuning(settings, foundation, heads.get(REPLAY_HEAD))
    return [f'--{key}={value}' for key, value in options.items()] + [f'--{flag}' for flag in flags]


def _fine_tuning(settings: TrainingSettings, foundation: Foundation, replay: HeadFiles | None) -> dict[str, Any]:
    """Return the options of a training that starts from a model. Files, never names: those MACE would download."""
    options: dict[str, Any] = {'foundation_model': str(foundation.path), 'multiheads_finetuning': replay is not None}
    if foundation.head is not None:
        options['foundation_head'] = foundation.head
    if replay is not None:
        options |= {'pt_train_file': str(replay.train_file), 'pt_valid_file': str(replay.valid_file)}
        options['force_mh_ft_lr'] = True  # or MACE sets learning rate and average to its own taste
    if settings.lora:
        options |= {name: getattr(settings, name) for name in ('lora', 'lora_rank', 'lora_alpha')}
    if settings.freeze in FREEZE:
        options['freeze'] = FREEZE[settings.freeze]
    return options


def raw_arguments(options: Mapping[str, Any]) -> list[str]:
    """Return the command line of raw options, after a look at those that the installed MACE has.

    Those that follow from settings have been refused when the settings were read.

    :raises SettingsRefused: for an unknown option, with the nearest one, and for a flag with a value.
    """
    actions = {
        text.removeprefix('--'): action
        for action in _parser()._actions  # argparse has no public way to list them
        for text in action.option_strings
        if text.startswith('--')
    }
    line, problems = [], []
    for name, value in options.items():
        if name not in actions:
            problems.append(f'MACE {_version()} of this computer has no option `{name}`.{_nearest(name, actions)}')
        elif actions[name].nargs != 0:
            line.append(f'--{name}={value}')
        elif value is True:
            line.append(f'--{name}')
        else:
            problems.append(f'`{name}` is a flag of MACE and only takes true, got {value!r}; leave it out otherwise.')
    if problems:
        raise SettingsRefused(f'`mace_options`: {" ".join(problems)}')
    return line


def _nearest(name: str, options: Iterable[str]) -> str:
    """Return what an unknown option was probably meant to be."""
    found = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if not found:
        return ' See `mace_run_train --help`.'
    setting = SETTING_OF.get(canonical(found[0]))
    return f' Did you mean `{found[0]}`?' if setting is None else f' Did you mean the setting `{setting}`?'


def check(settings: TrainingSettings, heads: Mapping[str, HeadFiles], foundation: Foundation | None = None) -> None:
    """Hold all options of a training against the installed MACE, before anything is trained.

    :raises SettingsRefused: if it does not take them.
    """
    line = arguments(settings, name='member_00', seed=settings.seeds[0], heads=heads, foundation=foundation)
    _parse([*line, *raw_arguments(settings.mace_options)])


def _parse(command_line: Sequence[str]) -> Namespace:
    """Return what MACE makes of a command line.

    :raises SettingsRefused: with the words of its parser, which otherwise would end the process.
    """

    def refuse(message: str) -> NoReturn:
        raise SettingsRefused(
            f'MACE {_version()} of this computer does not take the settings: {message}. Mend them, or install a '
            "version that does: `pip install 'mace-torch>=0.3.14,<0.4'`."
        )

    parser = _parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(list(command_line))


def _parser() -> ArgumentParser:
    """Return MACE's own parser of its command line."""
    from mace.tools import build_default_arg_parser

    parser: ArgumentParser = build_default_arg_parser()
    return parser


def _version() -> str:
    """Return the version of the installed MACE."""
    return version('mace-torch')


def guard_kernels(frames: Sequence[Atoms]) -> dict[str, Any]:
    """Let ``--enable_cueq`` do nothing before a comparison, see ``guard_training`` of ``runners.cueq``."""
    from mace.cli import run_train

    from aiida_mlipal.runners.cueq import guard_training

    return guard_training(run_train, frames)


def run(
    command_line: Sequence[str],
    stop: Callable[[], bool],
    continuation: Continuation | None,
    start: Path | None = None,
) -> None:
    """Train one member in the current folder, in this process.

    :param stop: asked after each batch from the second epoch on (then there is a checkpoint) whether to end.
    :param continuation: where to begin, and what keeps the state; ``None`` if nothing is trained.
    :param start: model file with the weights to begin with; random ones if not given.
    :raises TrainingStopped: if so.
    :raises FloatingPointError: if the validation loss is not a finite number.
    :raises StartRefused: if the weights of ``start`` are those of another kind of model.
    """
    from mace import tools
    from mace.cli import run_train

    class _Watch(tools.MetricsLogger):
        def log(self, d: dict[str, Any]) -> None:
            super().log(d)
            if d['mode'] == 'eval' and not math.isfinite(d['loss']):
                raise FloatingPointError(f'the validation loss is {d["loss"]} after epoch {d["epoch"]}')
            if d['mode'] == 'eval' and continuation is not None:
                continuation.loss = d['loss']
            # A batch of a later epoch: the checkpoint of the last epoch is complete by now.
            if d['mode'] == 'opt' and d['epoch'] > 0 and stop():
                raise TrainingStopped

    def no_torchscript(*_: Any) -> None:
        raise NotImplementedError  # MACE passes over it

    tools.MetricsLogger = _Watch
    # Besides the model MACE compiles a TorchScript copy, for seconds per member; nobody reads it here.
    run_train.jit = SimpleNamespace(compile=no_torchscript)
    options = _parse(command_line)
    if options.foundation_model is not None:
        begin_at_new_level(run_train)
    if start is not None:
        warm_start.install(run_train, start)
    if continuation is not None:
        continuation.install(run_train)
    run_train.run(options)


def checkpoint_folder(folder: Path, seed: int) -> Path:
    """Return where the member trained in ``folder`` has its checkpoints; it is found by its seed, as in a next job."""
    return folder.parent / CHECKPOINTS / str(seed)


def model_file(folder: Path, name: str) -> Path:
    """Return the model that a training in ``folder`` has ended with: that of the second stage, if there was one."""
    second = folder / f'{name}_stagetwo.model'
    return second if second.exists() else folder / f'{name}.model'
