"""Train a committee of MACE models, each member in a process of its own, from one set of labelled frames.

In: ``settings.json`` (:class:`~aiida_mlipal.science.training_settings.TrainingSettings`), ``dataset.npz``.
Out: ``member_00.model`` ..., ``member_00/train.log``, ``member_00/results/*_train.txt``, and in ``result.json`` what
became of each member. A file ``STOP`` in the working directory ends all members at their best checkpoints, one in
``member_00`` ends that member.

MACE is imported once and the members are forked from that process.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
import traceback
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Final

from ase.data import chemical_symbols

from aiida_mlipal.runners import mace_cli
from aiida_mlipal.runners.main import error_kind, write_json
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_data import DATASET, STOP, reference_energies, split
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('run',)

_TRAIN_FILE: Final = 'train.xyz'
_VALID_FILE: Final = 'valid.xyz'
_OUTCOME: Final = 'member.json'


class _Member:
    """One member of the committee: what its process does and what became of it."""

    def __init__(self, index: int, seed: int, root: Path) -> None:
        self.name = f'member_{index:02d}'
        self.seed = seed
        self.root = root
        self.folder = root / self.name
        self.finalise = False  #: only write the model of the checkpoint
        self.wall_s = 0.0

    def stop_requested(self) -> bool:
        """Whether somebody asked this member to end."""
        return not self.finalise and any((folder / STOP).exists() for folder in (self.root, self.folder))

    def work(self, settings: TrainingSettings, data: dict[str, Any]) -> None:
        """Train, in a process of its own, and leave ``member.json`` in the member's folder."""
        import torch
        from ase.io import read

        os.chdir(self.folder)
        log = os.open('train.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(settings.threads)
        model = self.folder / f'{self.name}.model'
        outcome: dict[str, Any]
        try:
            epoch = mace_cli.best_checkpoint(self.folder) if self.finalise else None
            line = mace_cli.arguments(settings, name=self.name, seed=self.seed, restart_epoch=epoch, **data)
            mace_cli.run(line, stop=self.stop_requested)
            shutil.copyfile(model, self.root / model.name)
            outcome = {
                'status': 'ok',
                'stopped': self.finalise,
                'best_epoch': mace_cli.best_checkpoint(self.folder),
                'sha256': hashlib.sha256(model.read_bytes()).hexdigest(),
                **mace_cli.inspect_model(model),
                'errors': {
                    'train': mace_cli.errors(model, read(data['train_file'], ':'), settings),
                    'valid': mace_cli.errors(model, read(data['valid_file'], ':'), settings),
                },
            }
        except mace_cli.TrainingStopped:
            outcome = {'status': 'stopped'}
        except (Exception, SystemExit) as exception:  # MACE's argument parser leaves with SystemExit
            traceback.print_exc()
            outcome = _failure(f'{type(exception).__name__}: {exception}', error_kind(exception))
        write_json(self.folder / _OUTCOME, outcome)

    def outcome(self, exit_code: int | None) -> dict[str, Any]:
        """Return what the process left behind; if it died, how it died."""
        path = self.folder / _OUTCOME
        if path.exists():
            return dict(json.loads(path.read_text(encoding='utf-8')))
        if exit_code == -signal.SIGKILL:
            return _failure('the process was killed, probably because memory ran out', 'out_of_memory')
        return _failure(f'the process ended with exit code {exit_code}', 'exception')

    def entry(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Return what ``result.json`` says of this member."""
        return {'seed': self.seed, 'wall_s': round(self.wall_s, 3), **outcome}


def _failure(reason: str, kind: str) -> dict[str, Any]:
    return {'status': 'failed', 'reason': reason, 'kind': kind}


def _train(members: list[_Member], settings: TrainingSettings, data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Train ``members``, ``max_parallel`` at a time; whatever happens to one leaves the others alone."""
    import mace.cli.run_train
    import mace.data  # noqa: F401 - imported once, here, for all processes forked below

    context = multiprocessing.get_context('fork')
    waiting = list(members)
    running: dict[Any, tuple[_Member, ForkProcess, float]] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    while waiting or running:
        while waiting and len(running) < settings.max_parallel:
            member = waiting.pop(0)
            if member.stop_requested():
                outcomes[member.name] = member.entry(_failure('stopped before it began', 'stopped'))
                continue
            member.folder.mkdir(exist_ok=True)
            (member.folder / _OUTCOME).unlink(missing_ok=True)
            process = context.Process(target=member.work, args=(settings, data), daemon=True)
            process.start()
            running[process.sentinel] = (member, process, time.monotonic())
        for sentinel in wait(list(running)) if running else ():  # it would wait for ever for nothing
            member, process, start = running.pop(sentinel)
            process.join()
            member.wall_s += time.monotonic() - start
            outcome = member.outcome(process.exitcode)
            if outcome['status'] == 'stopped':
                member.finalise = True
                waiting.insert(0, member)
            else:
                outcomes[member.name] = member.entry(outcome)
    return outcomes


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one member per seed. A member that fails is listed with its reason; the others are not affected.

    :raises ValueError: for settings or data that cannot be trained with.
    """
    options = from_dict(TrainingSettings, settings)
    configurations = Configurations.load(folder / DATASET)
    train, valid = split(configurations, options)
    e0s = reference_energies(configurations, options)
    train.write_extxyz(folder / _TRAIN_FILE)
    valid.write_extxyz(folder / _VALID_FILE)
    members = [_Member(index, seed, folder) for index, seed in enumerate(options.seeds)]
    data = {
        'train_file': folder / _TRAIN_FILE,
        'valid_file': folder / _VALID_FILE,
        'n_train': len(train),
        'e0s': e0s,
    }
    return {
        'members': _train(members, options, data),
        'e0s': {chemical_symbols[number]: energy for number, energy in e0s.items()},
        'n_train': len(train),
        'valid_frame_ids': valid.frame_id.tolist(),
    }
