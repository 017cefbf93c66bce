"""One member of a committee that is trained: what its process does, and what became of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import traceback
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiida_mlipal.runners import mace_cli
from aiida_mlipal.runners.checkpoints import Continuation, best_checkpoint
from aiida_mlipal.runners.foundation import Foundation
from aiida_mlipal.runners.gpu_lock import share_gpus
from aiida_mlipal.runners.large_data import load_frames
from aiida_mlipal.runners.main import error_kind, write_json
from aiida_mlipal.runners.torchrun import run_on_gpus
from aiida_mlipal.runners.trained_model import errors, inspect_model
from aiida_mlipal.runners.uncertainty import attach
from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.training_data import STOP
from aiida_mlipal.science.training_settings import TrainingSettings
from aiida_mlipal.science.warm_start import START

__all__ = ('Member', 'failure')

_OUTCOME: Final = 'member.json'


def failure(reason: str, kind: str) -> dict[str, Any]:
    """Return the outcome of a member that could not be trained."""
    return {'status': 'failed', 'reason': reason, 'kind': kind}


class Member:
    """What a training knows of one member."""

    def __init__(self, index: int, seed: int, root: Path, foundation: Foundation | None) -> None:
        self.place = 0  #: among the members at work, of which each GPU gets every n-th
        self.name = f'member_{index:02d}'
        self.seed = seed
        self.root = root
        self.folder = root / self.name
        self.mace_name = f'seed_{seed}'  #: checkpoints are named by it, and the next job may count members otherwise
        self.checkpoints = mace_cli.checkpoint_folder(self.folder, seed)
        start = root / f'{START}{seed}.model'
        self.start = start if start.exists() else None  #: model to go on from
        self.foundation = foundation
        self.finalise = False  #: only write the model of the checkpoint
        self.wall_s = 0.0

    def stop_requested(self) -> bool:
        """Whether somebody asked this member to end."""
        return not self.finalise and any((folder / STOP).exists() for folder in (self.root, self.folder))

    def prepare(self) -> None:
        """Make the folder ready for a process that begins."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / _OUTCOME).unlink(missing_ok=True)

    def work(self, settings: TrainingSettings, heads: dict[str, mace_cli.HeadFiles]) -> None:
        """Train, in a process of its own, and leave ``member.json`` in the member's folder."""
        import torch

        os.chdir(self.folder)
        log = os.open('train.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(settings.threads)
        share_gpus(self.place, settings.gpus_per_member)
        outcome: dict[str, Any]
        try:
            learn = partial(self._learn, settings, heads)
            said = learn() if settings.gpus_per_member == 1 else run_on_gpus(learn, settings.gpus_per_member)
            outcome = self._finish(settings, heads) | said
        except mace_cli.TrainingStopped:
            outcome = {'status': 'stopped'}
        except (Exception, SystemExit) as exception:  # MACE's argument parser leaves with SystemExit
            traceback.print_exc()
            outcome = failure(f'{type(exception).__name__}: {exception}', error_kind(exception))
        write_json(self.folder / _OUTCOME, outcome)

    def _learn(self, settings: TrainingSettings, heads: dict[str, mace_cli.HeadFiles]) -> dict[str, Any]:
        """Run MACE, in this process; return what there is to say of that beside the model."""
        line = mace_cli.arguments(
            settings,
            name=self.mace_name,
            seed=self.seed,
            heads=heads,
            restart_epoch=best_checkpoint(self.checkpoints) if self.finalise else None,
            foundation=self.foundation,
        )
        said: dict[str, Any] = {}
        continuation = None
        if not self.finalise:
            continuation = Continuation(self.checkpoints, (settings.lr, settings.stage_two_lr))
        if settings.enable_cueq:
            said['cueq'] = mace_cli.guard_kernels(load_frames(heads[MAIN_HEAD].train_file)[:3])
        line += mace_cli.raw_arguments(settings.mace_options)
        mace_cli.run(line, stop=self.stop_requested, continuation=continuation, start=self.start)
        if continuation is not None and continuation.start_epoch:
            said['continued_from'] = continuation.start_epoch
        return said

    def _finish(self, settings: TrainingSettings, heads: dict[str, mace_cli.HeadFiles]) -> dict[str, Any]:
        """Give the model that MACE has left its uncertainty, hand it over, and return what there is to say of it."""
        import torch

        torch.set_default_dtype(getattr(torch, settings.dtype))  # MACE has, but not here if it ran in other processes
        model = mace_cli.model_file(self.folder, self.mace_name)
        uncertainty = None
        if settings.uncertainty in ('heads', 'llpr'):
            train, valid = map(load_frames, (heads[MAIN_HEAD].train_file, heads[MAIN_HEAD].valid_file))
            n_readouts = settings.n_readouts if settings.uncertainty == 'heads' else None
            uncertainty = attach(model, train, valid, seed=self.seed, device=settings.device, n_readouts=n_readouts)
        shutil.copyfile(model, self.root / f'{self.name}.model')
        found = {
            name: {
                'train': errors(model, load_frames(head.train_file), settings, name),
                'valid': errors(model, load_frames(head.valid_file), settings, name),
            }
            for name, head in heads.items()
        }
        said = {
            'status': 'ok',
            'stopped': self.finalise,
            'best_epoch': best_checkpoint(self.checkpoints),
            'sha256': hashlib.sha256(model.read_bytes()).hexdigest(),
            **inspect_model(model),
            'errors': found.pop(MAIN_HEAD),
        }
        if found:
            said['head_errors'] = found
        if uncertainty is not None:
            said['uncertainty'] = uncertainty
        return said

    def outcome(self, exit_code: int | None) -> dict[str, Any]:
        """Return what the process left behind; if it died, how it died."""
        path = self.folder / _OUTCOME
        if path.exists():
            return dict(json.loads(path.read_text(encoding='utf-8')))
        if exit_code == -signal.SIGKILL:
            return failure('the process was killed, probably because memory ran out', 'out_of_memory')
        if exit_code in (-signal.SIGTERM, -signal.SIGXCPU):
            return failure(f'the process was ended from outside by signal {-exit_code}', 'interrupted')
        return failure(f'the process ended with exit code {exit_code}', 'exception')

    def entry(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Return what ``result.json`` says of this member."""
        return {'seed': self.seed, 'wall_s': round(self.wall_s, 3), **outcome}
