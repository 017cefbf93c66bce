"""Stages on a GPU: who asks for ``gpus`` runs on the device ``cuda``, and nobody asks for GPUs that would stay idle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.gpu import gpu_problem
from aiida_mlipal.calculations.runner import RunnerCalculation

__all__ = ('check_gpus', 'with_device')


def with_device(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``settings`` with ``device: cuda`` if the job gets GPUs and they do not name a device themselves."""
    return {'device': 'cuda', **settings} if options.get('gpus') else dict(settings)


def check_gpus(
    stage: str, code: orm.AbstractCode, plugin: str, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Refuse GPUs that the computer's scheduler would not understand or the jobs of a stage would not use.

    :param plugin: entry point of the CalcJob.
    :param settings: all settings of the CalcJob.
    :param options: ``metadata.options`` of the jobs.
    :raises ValueError: with what to do instead.
    """
    problem = gpu_problem(options, code.computer.scheduler_type)
    if problem is None and options.get('gpus'):
        process = CalculationFactory(plugin)
        if issubclass(process, RunnerCalculation):
            problem = process.unused_gpus(options['gpus'], dict(settings))
        else:
            problem = (
                f'`{plugin}` comes from another package and knows no `gpus`: remove it, and write the directive of '
                'your scheduler into `custom_scheduler_commands`.'
            )
    if problem is not None:
        raise ValueError(f'options of the stage `{stage}`: {problem}')
