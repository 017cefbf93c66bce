"""GPUs of a job: two options, ``gpus`` and ``gpu_type``, and what they become in the job script of each scheduler.

The directives are written into the finished script, since AiiDA puts ``custom_scheduler_commands`` behind its own
lines: PBS Pro takes the first ``select`` that it meets and ignores all others, so that one must be completed in its
place (``set_resources`` of OpenPBS; Parsl/parsl#2220).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiida.engine import CalcJobProcessSpec

__all__ = ('DIRECT', 'declare_gpu_options', 'gpu_problem', 'request_gpus')

#: Scheduler that is none: all jobs start at once, and the runner keeps them apart (see ``runners.gpu_lock``).
DIRECT: Final = 'core.direct'
_REQUEST: Final = re.compile(r'gpu|gres', re.IGNORECASE)
_TYPE: Final = re.compile(r'[A-Za-z0-9][A-Za-z0-9._-]*')


def _line(text: str) -> Callable[[str], str]:
    """Return a function that adds a directive as the second line, behind the shebang."""

    def add(script: str) -> str:
        first, _, rest = script.partition('\n')
        return f'{first}\n{text}\n{rest}'

    return add


def _complete(pattern: str, text: str) -> Callable[[str], str]:
    """Return a function that adds ``text`` to the one directive of AiiDA that ``pattern`` matches."""

    def add(script: str) -> str:
        changed, count = re.subn(pattern, lambda match: match[0] + text, script, count=1, flags=re.MULTILINE)
        if not count:
            raise ValueError(f'the job script has no line `{pattern}` that the request for GPUs belongs to.')
        return changed

    return add


def _slurm(gpus: int, kind: str | None) -> Callable[[str], str]:
    return _line(f'#SBATCH --gres=gpu:{f"{kind}:" if kind else ""}{gpus}')


def _pbspro(gpus: int, kind: str | None) -> Callable[[str], str]:
    return _complete(r'^#PBS -l select=\S+', f':ngpus={gpus}' + (f':gpu_type={kind}' if kind else ''))


def _torque(gpus: int, kind: str | None) -> Callable[[str], str]:
    return _complete(r'^#PBS -l nodes=[^,\s]+', f':gpus={gpus}' + (f':{kind}' if kind else ''))


def _lsf(gpus: int, kind: str | None) -> Callable[[str], str]:
    return _line(f'#BSUB -gpu "num={gpus}:j_exclusive=yes{f":gmodel={kind}" if kind else ""}"')


def _sge(gpus: int, kind: str | None) -> Callable[[str], str]:
    return _line(f'#$ -l gpu={gpus}' + (f',gpu_type={kind}' if kind else ''))


#: Type of scheduler -> what to do with the script.
_SCHEDULERS: Final[dict[str, Callable[[int, str | None], Callable[[str], str]]]] = {
    'core.lsf': _lsf,
    'core.pbspro': _pbspro,
    'core.sge': _sge,
    'core.slurm': _slurm,
    'core.torque': _torque,
}


def _gpus(value: Any, _: Any) -> str | None:
    return None if not isinstance(value, bool) and value >= 1 else f'`gpus` must be at least 1, got {value!r}.'


def _gpu_type(value: Any, _: Any) -> str | None:
    if _TYPE.fullmatch(value):
        return None
    return f'`gpu_type` must be the one word by which the scheduler knows it, for example `a100`, got {value!r}.'


def declare_gpu_options(spec: CalcJobProcessSpec) -> None:
    """Add the options ``gpus`` and ``gpu_type`` to a CalcJob."""
    spec.input(
        'metadata.options.gpus', valid_type=int, required=False, validator=_gpus, help='GPUs of the job, per machine.'
    )
    spec.input(
        'metadata.options.gpu_type',
        valid_type=str,
        required=False,
        validator=_gpu_type,
        help='Type of GPU, by the name that the scheduler gives it.',
    )


def gpu_problem(options: Mapping[str, Any], scheduler: str) -> str | None:
    """Return why this request for GPUs cannot be passed on to the scheduler, with the mend, or ``None``.

    :param options: ``metadata.options`` of the job.
    :param scheduler: type of the computer's scheduler, for example ``core.slurm``.
    """
    if options.get('gpus') is None:
        return '`gpu_type` says nothing without a number; add `gpus: 1`.' if options.get('gpu_type') else None
    written = options.get('custom_scheduler_commands') or ''
    request = next((line for line in written.splitlines() if _REQUEST.search(line)), None)
    if request is not None:
        return (
            f'GPUs are asked for twice, by `gpus` and by `{request.strip()}` in `custom_scheduler_commands`: remove '
            'one of the two.'
        )
    if scheduler == DIRECT:
        return '`gpu_type` needs a scheduler that chooses; remove it.' if options.get('gpu_type') else None
    if scheduler not in _SCHEDULERS:
        return (
            f'how to ask `{scheduler}` for GPUs is not known here, only {", ".join(sorted(_SCHEDULERS))}: remove '
            '`gpus`, set `device: cuda` and write the directive into `custom_scheduler_commands`.'
        )
    return None


def request_gpus(script: str, options: Mapping[str, Any], scheduler: str) -> str:
    """Return a job script with the request for the GPUs of ``options``; unchanged where none is due.

    :param script: as AiiDA wrote it.
    :raises ValueError: for what :func:`gpu_problem` refuses.
    """
    problem = gpu_problem(options, scheduler)
    if problem is not None:
        raise ValueError(problem)
    if options.get('gpus') is None or scheduler == DIRECT:
        return script
    return _SCHEDULERS[scheduler](options['gpus'], options.get('gpu_type'))(script)
