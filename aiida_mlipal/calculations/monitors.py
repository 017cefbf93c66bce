"""Monitors of running jobs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from aiida.orm import CalcJobNode
from aiida.transports import Transport

from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_data import STOP
from aiida_mlipal.science.training_log import epochs_without_improvement, read_history
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('training_plateau',)


def training_plateau(node: CalcJobNode, transport: Transport, patience_epochs: int = 20) -> str | None:
    """End each member of a training whose validation loss has not improved for ``patience_epochs`` epochs.

    It leaves a file ``STOP`` in the member's folder. The runner then writes the model of the member's best
    checkpoint and goes on with the others, so the job ends by itself and is parsed as ever: this monitor never kills,
    and always returns ``None``. A training of two stages is left alone until the second has begun.
    """
    start = from_dict(TrainingSettings, node.inputs.settings.get_dict()).stage_two_start or 0
    work = Path(node.get_remote_workdir())
    for log in transport.glob(str(work / 'member_*' / 'results' / '*_train.txt')):
        stop = Path(log).parent.parent / STOP
        if transport.path_exists(str(stop)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / 'log'
            transport.getfile(log, str(local))
            lines = local.read_text(encoding='utf-8', errors='replace').splitlines()
            history = read_history(lines).get(MAIN_HEAD)
            if history is not None and epochs_without_improvement(history, start) >= patience_epochs:
                local.write_text(f'no improvement for {patience_epochs} epochs\n', encoding='utf-8')
                transport.putfile(str(local), str(stop))
    return None
