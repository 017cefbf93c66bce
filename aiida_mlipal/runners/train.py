"""Train a committee of MACE models, each member in a process of its own, from one set of labelled frames.

In: ``settings.json`` (:class:`~aiida_mlipal.science.training_settings.TrainingSettings`), ``dataset.npz``, and for each
other level of theory ``other_NAME.npz``, from which a head of that name learns; in ``checkpoints/SEED`` what an earlier
job has left of the member of that seed, which then goes on.
Out: ``member_00.model`` ..., ``member_00/train.log``, ``member_00/results/*_train.txt``, ``checkpoints/SEED``, and in
``result.json`` what became of each member. A file ``STOP`` in the working directory ends all members at
their best checkpoints, one in ``member_00`` ends that member.

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
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, Final

from ase.data import chemical_symbols

from aiida_mlipal.runners import mace_cli
from aiida_mlipal.runners.checkpoints import Continuation, best_checkpoint
from aiida_mlipal.runners.foundation import Foundation, read_foundation
from aiida_mlipal.runners.gpu_lock import share_gpus
from aiida_mlipal.runners.large_data import MAX_GRAPH_BYTES, SUFFIX, graph_bytes, load_frames, write_database
from aiida_mlipal.runners.main import error_kind, write_json
from aiida_mlipal.runners.uncertainty import attach
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.foundation import REPLAY, REPLAY_HEAD, decided, replay_head
from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_data import DATASET, OTHER, STOP, HeadData, bootstrap, head_data
from aiida_mlipal.science.training_settings import TrainingSettings
from aiida_mlipal.science.warm_start import COPIES, START, load_copies, repeat

__all__ = ('run',)

_OUTCOME: Final = 'member.json'


class _Member:
    """One member of the committee: what its process does and what became of it."""

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

    def work(self, settings: TrainingSettings, heads: dict[str, mace_cli.HeadFiles]) -> None:
        """Train, in a process of its own, and leave ``member.json`` in the member's folder."""
        import torch

        os.chdir(self.folder)
        log = os.open('train.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        torch.set_num_threads(settings.threads)
        share_gpus(self.place)
        outcome: dict[str, Any]
        try:
            epoch = best_checkpoint(self.checkpoints) if self.finalise else None
            line = mace_cli.arguments(
                settings,
                name=self.mace_name,
                seed=self.seed,
                heads=heads,
                restart_epoch=epoch,
                foundation=self.foundation,
            )
            continuation = None
            if not self.finalise:
                continuation = Continuation(self.checkpoints, (settings.lr, settings.stage_two_lr))
            cueq = None
            if settings.enable_cueq:
                cueq = mace_cli.guard_kernels(load_frames(heads[MAIN_HEAD].train_file)[:3])
            line += mace_cli.raw_arguments(settings.mace_options)
            mace_cli.run(line, stop=self.stop_requested, continuation=continuation, start=self.start)
            model = mace_cli.model_file(self.folder, self.mace_name)
            uncertainty = None
            if settings.uncertainty in ('heads', 'llpr'):
                train, valid = map(load_frames, (heads[MAIN_HEAD].train_file, heads[MAIN_HEAD].valid_file))
                n_readouts = settings.n_readouts if settings.uncertainty == 'heads' else None
                uncertainty = attach(model, train, valid, seed=self.seed, device=settings.device, n_readouts=n_readouts)
            shutil.copyfile(model, self.root / f'{self.name}.model')
            errors = {
                name: {
                    'train': mace_cli.errors(model, load_frames(head.train_file), settings, name),
                    'valid': mace_cli.errors(model, load_frames(head.valid_file), settings, name),
                }
                for name, head in heads.items()
            }
            outcome = {
                'status': 'ok',
                'stopped': self.finalise,
                'best_epoch': best_checkpoint(self.checkpoints),
                'sha256': hashlib.sha256(model.read_bytes()).hexdigest(),
                **mace_cli.inspect_model(model),
                'errors': errors.pop(MAIN_HEAD),
            }
            if continuation is not None and continuation.start_epoch:
                outcome['continued_from'] = continuation.start_epoch
            if errors:
                outcome['head_errors'] = errors
            if cueq is not None:
                outcome['cueq'] = cueq
            if uncertainty is not None:
                outcome['uncertainty'] = uncertainty
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
        if exit_code in (-signal.SIGTERM, -signal.SIGXCPU):
            return _failure(f'the process was ended from outside by signal {-exit_code}', 'interrupted')
        return _failure(f'the process ended with exit code {exit_code}', 'exception')

    def entry(self, outcome: dict[str, Any]) -> dict[str, Any]:
        """Return what ``result.json`` says of this member."""
        return {'seed': self.seed, 'wall_s': round(self.wall_s, 3), **outcome}


def _failure(reason: str, kind: str) -> dict[str, Any]:
    return {'status': 'failed', 'reason': reason, 'kind': kind}


def _places(settings: TrainingSettings) -> int:
    """Return how many members to train at a time: on the CPU no more than the cores of the job carry."""
    if settings.device != 'cpu':
        return settings.max_parallel
    return max(1, min(settings.max_parallel, len(os.sched_getaffinity(0)) // settings.threads))


def _train(
    members: list[_Member], settings: TrainingSettings, heads: dict[str, dict[str, mace_cli.HeadFiles]]
) -> dict[str, dict[str, Any]]:
    """Train ``members``, ``max_parallel`` at a time; whatever happens to one leaves the others alone.

    :param heads: what each member learns from, by its name.
    """
    import mace.cli.run_train
    import mace.data  # noqa: F401 - imported once, here, for all processes forked below

    context = multiprocessing.get_context('fork')
    waiting = list(members)
    running: dict[Any, tuple[_Member, ForkProcess, float]] = {}
    parallel = _places(settings)
    outcomes: dict[str, dict[str, Any]] = {}
    while waiting or running:
        while waiting and len(running) < parallel:
            member = waiting.pop(0)
            if member.stop_requested():
                outcomes[member.name] = member.entry(_failure('stopped before it began', 'stopped'))
                continue
            member.folder.mkdir(exist_ok=True)
            (member.folder / _OUTCOME).unlink(missing_ok=True)
            taken = {other.place for other, _, _ in running.values()}
            member.place = min(set(range(parallel)) - taken)
            process = context.Process(target=member.work, args=(settings, heads[member.name]), daemon=True)
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


def _by_symbol(e0s: dict[int, float]) -> dict[str, float]:
    return {chemical_symbols[number]: energy for number, energy in e0s.items()}


def _write(name: str, data: HeadData, folder: Path, *, is_large: bool) -> mace_cli.HeadFiles:
    """Write the frames of one head as MACE reads them."""
    is_large = is_large and name != REPLAY_HEAD  # of which MACE wants to know the elements, and looks only into text
    suffix = ('' if name == MAIN_HEAD else f'_{name}') + (SUFFIX if is_large else '.xyz')
    train_file, valid_file = folder / f'train{suffix}', folder / f'valid{suffix}'
    for frames, path in ((data.train, train_file), (data.valid, valid_file)):
        if is_large:
            write_database(frames, path)
        else:
            frames.write_extxyz(path)
    elements = {*data.train.numbers.tolist(), *data.valid.numbers.tolist()}
    return mace_cli.HeadFiles(
        train_file=train_file,
        valid_file=valid_file,
        n_train=len(data.train),
        e0s=data.e0s,
        elements=tuple(sorted(elements)) if is_large else None,
    )


def _resample(member: _Member, data: dict[str, HeadData], *, is_large: bool) -> dict[str, mace_cli.HeadFiles]:
    """Write the frames that one member of an ensemble learns from, if each has its own, into the member's folder."""
    member.folder.mkdir(exist_ok=True)
    return {
        name: _write(name, replace(item, train=bootstrap(item.train, member.seed)), member.folder, is_large=is_large)
        for name, item in data.items()
    }


def run(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one member per seed. A member that fails is listed with its reason; the others are not affected.

    :raises ValueError: for settings or data that cannot be trained with; :class:`SettingsRefused` for options that the
        MACE of this computer does not take.
    """
    options = from_dict(TrainingSettings, settings)
    foundation = read_foundation(folder)
    if foundation is not None:
        options = decided(options, foundation.architecture)
    others = {path.stem.removeprefix(OTHER): Configurations.load(path) for path in folder.glob(f'{OTHER}*.npz')}
    data = head_data(Configurations.load(folder / DATASET), others, options)
    outcome: dict[str, Any] = {}
    if foundation is not None and (folder / REPLAY).exists():
        replay = Configurations.load(folder / REPLAY)
        head, outcome['n_not_replayed'] = replay_head(replay, options, data[MAIN_HEAD], foundation.e0s)
        data = {REPLAY_HEAD: head, **data}
    n_train = len(data[MAIN_HEAD].train)
    if (folder / COPIES).exists():
        repeated = repeat(data[MAIN_HEAD].train, load_copies(folder / COPIES))
        data[MAIN_HEAD] = replace(data[MAIN_HEAD], train=repeated)
    parts = [frames for item in data.values() for frames in (item.train, item.valid)]
    is_large = sum(graph_bytes(frames, r_max=options.r_max) for frames in parts) > MAX_GRAPH_BYTES
    files = {name: _write(name, item, folder, is_large=is_large) for name, item in data.items()}
    mace_cli.check(options, files, foundation)
    members = [_Member(index, seed, folder, foundation) for index, seed in enumerate(options.seeds)]
    own = {
        member.name: _resample(member, data, is_large=is_large) if options.bootstrap else files for member in members
    }
    main = data.pop(MAIN_HEAD)
    outcome |= {
        'members': _train(members, options, own),
        'e0s': _by_symbol(main.e0s),
        'n_train': n_train,
        'valid_frame_ids': main.valid.frame_id.tolist(),
    }
    if data:
        outcome['other_heads'] = {
            name: {'e0s': _by_symbol(head.e0s), 'n_train': len(head.train)} for name, head in data.items()
        }
    return outcome
