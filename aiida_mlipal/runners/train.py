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

import multiprocessing
import os
import time
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from aiida_mlipal.runners import mace_cli
from aiida_mlipal.runners.foundation import read_foundation
from aiida_mlipal.runners.gpu_lock import visible_gpus
from aiida_mlipal.runners.large_data import MAX_GRAPH_BYTES, SUFFIX, graph_bytes, write_database
from aiida_mlipal.runners.member import Member, failure
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.foundation import REPLAY, REPLAY_HEAD, decided, replay_head
from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_data import DATASET, OTHER, HeadData, bootstrap, head_data
from aiida_mlipal.science.training_settings import TrainingSettings
from aiida_mlipal.science.warm_start import COPIES, load_copies, repeat

__all__ = ('run',)


def _places(settings: TrainingSettings) -> int:
    """Return how many members to train at a time: on the CPU no more than the cores of the job carry.

    :raises ValueError: if a member is to be trained on more GPUs than there are.
    """
    if settings.gpus_per_member > 1:
        gpus = visible_gpus()
        if len(gpus) < settings.gpus_per_member:
            raise ValueError(
                f'`gpus_per_member` is {settings.gpus_per_member}, but the job sees {len(gpus)} GPU(s): ask for more '
                f'with `gpus: {settings.gpus_per_member}` in its options, or set `gpus_per_member: {len(gpus)}`.'
            )
        return min(settings.max_parallel, len(gpus) // settings.gpus_per_member)
    if settings.device != 'cpu':
        return settings.max_parallel
    return max(1, min(settings.max_parallel, len(os.sched_getaffinity(0)) // settings.threads))


def _train(
    members: list[Member], settings: TrainingSettings, heads: dict[str, dict[str, mace_cli.HeadFiles]]
) -> dict[str, dict[str, Any]]:
    """Train ``members``, ``max_parallel`` at a time; whatever happens to one leaves the others alone.

    :param heads: what each member learns from, by its name.
    :raises ValueError: see :func:`_places`.
    """
    parallel = _places(settings)
    import mace.cli.run_train
    import mace.data  # noqa: F401 - imported once, here, for all processes forked below

    context = multiprocessing.get_context('fork')
    waiting = list(members)
    running: dict[Any, tuple[Member, ForkProcess, float]] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    while waiting or running:
        while waiting and len(running) < parallel:
            member = waiting.pop(0)
            if member.stop_requested():
                outcomes[member.name] = member.entry(failure('stopped before it began', 'stopped'))
                continue
            member.prepare()
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


def _resample(member: Member, data: dict[str, HeadData], *, is_large: bool) -> dict[str, mace_cli.HeadFiles]:
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
    members = [Member(index, seed, folder, foundation) for index, seed in enumerate(options.seeds)]
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
