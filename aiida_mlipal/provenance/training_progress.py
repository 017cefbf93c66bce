"""How far running trainings are, read from their folders while they run, on this computer and on remote ones.

Nothing is stored. All jobs of a computer are read over one connection with one command each, and only the lines that
count come back: validation errors from MACE's results file, ends of epochs from its log.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any, Final

from aiida import orm

from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_log import clock, epoch_ends, lowest_loss, read_history, seconds_left
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('MemberProgress', 'TrainingProgress', 'TrainingReader', 'parse_progress')

#: Seconds that computers together may take to answer.
TIMEOUT: Final = 5.0
#: What an AiiDA job is doing while it is not in the hands of the scheduler.
_STATES: Final = {
    'uploading': 'its files are on their way to the computer',
    'submitting': 'is being submitted',
    'stashing': 'has ended, its files are on their way back',
    'retrieving': 'has ended, its files are on their way back',
    'parsing': 'has ended, its files are being read',
}
#: Prints, member by member, how it ended, its validation errors, and the ends of its last epochs.
_COMMAND: Final = """cd {folder} 2>/dev/null || exit 0
date '+now %Y-%m-%d %H:%M:%S'
for member in member_*; do
  [ -d "$member" ] || continue
  echo "member $member"
  [ -f "$member/member.json" ] && echo "outcome $(tr -d '\\n' < "$member/member.json")"
  [ -f "$member/train.log" ] && echo started
  grep -h '"mode": "eval"' "$member"/results/*_train.txt 2>/dev/null
  tail -n 300 "$member/train.log" 2>/dev/null | grep 'INFO: Epoch '
done
exit 0
"""


@dataclass(frozen=True, kw_only=True)
class MemberProgress:
    """How far one committee member has come. Losses are those of the stage that it is in."""

    member: str
    state: str  #: ``waiting``, ``starting``, ``training``, ``done`` or ``failed``
    max_epochs: int
    epoch: int = 0  #: epochs that have ended
    loss: float | None = None  #: validation loss after the last one
    best_loss: float | None = None  #: the lowest so far
    force_rmse: float | None = None  #: on the validation frames, eV/Å
    left_s: float | None = None  #: seconds to the last epoch, at the pace of the last ones


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """How far one training job is."""

    pk: int
    computer: str
    attempt: int  #: 1 for the first job of a TrainWorkChain
    restarted: str  #: why there was an attempt after the first
    state: str  #: in words, what the job is waiting for, empty if members can be seen
    members: tuple[MemberProgress, ...] = ()


def parse_progress(text: str, settings: TrainingSettings) -> tuple[MemberProgress, ...]:
    """Return the members in what the command has printed; lines of a chatty login shell are passed over."""
    now, parts = 0.0, dict[str, list[str]]()
    for line in text.splitlines():
        word, _, rest = line.partition(' ')
        if word == 'now':
            now = clock(rest)
        elif word == 'member':
            parts[rest] = []
        elif parts:
            parts[next(reversed(parts))].append(line)
    return tuple(_member(name, lines, settings, now) for name, lines in parts.items())


def _member(name: str, lines: Sequence[str], settings: TrainingSettings, now: float) -> MemberProgress:
    columns = read_history(lines).get(MAIN_HEAD)
    state = 'starting' if 'started' in lines else 'waiting'
    seen: dict[str, Any] = {}
    if columns is not None:
        state = 'training'
        start = settings.stage_two_start or 0
        seen = {
            'epoch': int(columns['epoch'][-1]) + 1,
            'loss': columns['loss'][-1],
            'best_loss': lowest_loss(columns, start if columns['epoch'][-1] >= start else 0),
            'force_rmse': columns['force_rmse'][-1],
        }
        seen['left_s'] = seconds_left(epoch_ends(lines), settings.max_num_epochs, now)
    for line in lines:
        if line.startswith('outcome '):
            status = json.loads(line.removeprefix('outcome '))['status']
            state = {'ok': 'done', 'stopped': 'done'}.get(status, 'failed')
            seen['left_s'] = None
    return MemberProgress(member=name, state=state, max_epochs=settings.max_num_epochs, **seen)


@dataclass
class _Look:
    """What one computer has answered, by PK of the job; ``error`` says why it has not."""

    folders: Mapping[int, str]
    at: float = field(default_factory=time.monotonic)
    answers: dict[int, str] = field(default_factory=dict)
    error: str | None = None

    def start(self, transport: Any) -> threading.Thread:
        """Begin to read. The thread is a daemon: whoever waits for a dead computer may give up."""

        async def read() -> None:
            async with transport:
                for pk, folder in self.folders.items():
                    command = _COMMAND.format(folder=shlex.quote(folder))
                    _, self.answers[pk], _ = await transport.exec_command_wait_async(command)

        def run() -> None:
            try:
                asyncio.run(read())
            except Exception as exception:  # whatever a transport plugin raises: this is a display
                self.error = f'{type(exception).__name__}: {exception}'

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


class TrainingReader:
    """Reads running trainings. One that is asked again opens no connection before AiiDA's safe interval has passed."""

    def __init__(self, timeout: float = TIMEOUT) -> None:
        """Wait at most ``timeout`` seconds for all computers together."""
        self.timeout = timeout
        self._looks: dict[str, _Look] = {}

    def read(self, pks: Iterable[int]) -> list[TrainingProgress]:
        """Return how far the training jobs ``pks`` are."""
        jobs = [orm.load_node(pk) for pk in pks]
        self._look({job.pk: job for job in jobs if _is_on_computer(job)})
        return [self._progress(job) for job in jobs]

    def _look(self, jobs: Mapping[int, orm.CalcJobNode]) -> None:
        """Ask all computers at the same time, each over one connection."""
        threads = []
        for computer in {job.computer.uuid: job.computer for job in jobs.values()}.values():
            own = [job for job in jobs.values() if job.computer.uuid == computer.uuid]
            transport = own[0].get_transport()
            last = self._looks.get(computer.uuid)
            if last is not None and time.monotonic() - last.at < transport.get_safe_open_interval():
                continue
            look = _Look({job.pk: job.get_remote_workdir() for job in own})
            self._looks[computer.uuid] = look
            threads.append((look, look.start(transport)))
        deadline = time.monotonic() + self.timeout
        for look, thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                look.error = f'no answer within {self.timeout:g} s'

    def _progress(self, job: orm.CalcJobNode) -> TrainingProgress:
        attempt, restarted = _attempt(job)
        members: tuple[MemberProgress, ...] = ()
        state = _waiting_for(job)
        look = self._looks.get(job.computer.uuid)
        if not state and look is not None:
            if job.pk in look.answers:
                settings = from_dict(TrainingSettings, job.inputs.settings.get_dict())
                members = parse_progress(look.answers[job.pk], settings)
            elif look.error is not None:
                state = (
                    f'the computer `{job.computer.label}` does not answer ({shorten(look.error, 120)}): try '
                    f'`verdi computer test {job.computer.label}`'
                )
        if not members and not state:
            state = 'starting'
        return TrainingProgress(
            pk=job.pk,
            computer=job.computer.label,
            attempt=attempt,
            restarted=restarted,
            state=state,
            members=members,
        )


def _is_on_computer(job: orm.CalcJobNode) -> bool:
    return job.get_remote_workdir() is not None and not _waiting_for(job)


def _waiting_for(job: orm.CalcJobNode) -> str:
    """Return what a job is waiting for, in words; empty if it runs."""
    if job.paused:
        return f'is paused ({job.process_status}): `verdi process play {job.pk}`'
    state = job.get_state()
    if state is None:
        return 'waiting for the daemon'
    scheduler = job.get_scheduler_state()
    if state.value == 'withscheduler' and scheduler is not None and scheduler.value in ('queued', 'queued held'):
        return 'waiting in the queue'
    return _STATES.get(state.value, '')


def _attempt(job: orm.CalcJobNode) -> tuple[int, str]:
    """Return which job of its WorkChain this is, counted from 1, and why the one before was not the last."""
    caller = job.caller
    if caller is None:
        return 1, ''
    before = sorted(
        (item for item in caller.called if item.process_label == job.process_label and item.pk < job.pk),
        key=lambda item: item.pk,
    )
    if not before:
        return 1, ''
    last = before[-1]
    return len(before) + 1, f'{last.exit_status} {shorten(last.exit_message or "", 100, placeholder=" ...")}'.strip()
