"""Continue a training of MACE where it was interrupted, on the CPU to the last bit as if it had not been.

MACE's own restart (0.3.16) is not used, because of what it does; ``tests/runners/test_checkpoints.py`` tells when that
changes:

- only epochs that improve are written, so a job shorter than the wait for an improvement begins anew for ever;
- the epoch of the checkpoint is trained a second time, the average of the weights begins anew, batches are drawn as in
  the first epoch;
- the lowest loss is forgotten: the first epoch after a restart, however bad, replaces the best checkpoint;
- the old checkpoint is deleted before the new one is written, so a kill in between leaves none;
- one that cannot be read is passed over without a word, and the training begins anew;
- the learning rate is that of the checkpoint, whatever the command line says.
"""

from __future__ import annotations

import importlib
import logging
import math
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ('STATE', 'Continuation', 'best_checkpoint')

#: The whole state of a training before one of its epochs, beside MACE's checkpoints.
STATE: Final = 'state.pt'

_EPOCH: Final = re.compile(r'_epoch-(\d+)(_swa)?\.pt$')
#: The state is written when this many times the seconds of the last writing have passed: at most 2 % of the time.
_PAUSE: Final = 50


def _checkpoints(folder: Path) -> list[tuple[int, bool, Path]]:
    """Return epoch, whether it is of the second stage, and file of MACE's checkpoints, the newest last."""
    found = ((_EPOCH.search(path.name), path) for path in folder.glob('*.pt'))
    return sorted((int(match[1]), bool(match[2]), path) for match, path in found if match)


def best_checkpoint(folder: Path) -> int | None:
    """Return the epoch of the newest checkpoint (there is one when the validation loss has improved).

    In a second stage losses begin anew, so its best epoch comes after all of the first.
    """
    checkpoints = _checkpoints(folder)
    return checkpoints[-1][0] if checkpoints else None


def _write(content: dict[str, Any], path: Path) -> None:
    """Write a file in one go: whoever kills this process leaves the old one or the new one."""
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    torch.save(content, partial)
    os.replace(partial, path)


def _read(path: Path) -> dict[str, Any]:
    import torch

    return dict(torch.load(path, map_location='cpu', weights_only=True))


class Continuation:
    """Keeps the state of one training in a folder, and begins with the one that it finds there.

    A state is continued if its learning rates are those of this training. Otherwise a rate was lowered because the
    last one led astray: the weights of the best checkpoint are taken, and a new optimiser.
    """

    def __init__(self, folder: Path, rates: tuple[float, float]) -> None:
        """Continue what is in ``folder``.

        :param rates: learning rates of the first and the second stage.
        """
        self.folder = folder
        self.rates = list(rates)
        self.loss = math.inf  #: the last validation loss; whoever logs it puts it here
        self.start_epoch = 0
        self._lowest = dict.fromkeys((False, True), math.inf)  # by stage
        self._parts: dict[str, Any] = {}
        self._writes = True
        self._written, self._cost = -math.inf, 0.0

    def install(self, run_train: Any) -> None:
        """Make ``run_train``, MACE's module, train under this object's eyes, in this process."""
        loop: Any = importlib.import_module('mace.tools.train')
        train, train_one_epoch = loop.train, loop.train_one_epoch

        def one_epoch(**arguments: Any) -> None:
            self._before(arguments['epoch'])
            train_one_epoch(**arguments)

        loop.train_one_epoch = one_epoch
        run_train.tools.train = lambda **arguments: self._train(train, arguments)

    def _train(self, train: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Run MACE's training from where an earlier one has left it."""
        self._writes = arguments['rank'] == 0  # of several processes on as many GPUs, the first
        swa = arguments['swa']
        self._parts = {
            'model': arguments['model'],
            'optimizer': arguments['optimizer'],
            'scheduler': arguments['lr_scheduler'].lr_scheduler,
            **({} if arguments['ema'] is None else {'ema': arguments['ema']}),
            **({} if swa is None else {'stage_two': swa.scheduler}),
        }
        self._shuffle = arguments['train_loader'].generator
        io = arguments['checkpoint_handler'].io
        io.save = lambda checkpoint, epochs, keep_last=False: self._keep(
            checkpoint, self.folder / io._get_checkpoint_filename(epochs, io.swa_start)
        )
        self._restore()
        train(**{**arguments, 'start_epoch': self.start_epoch})
        self._save(arguments['max_num_epochs'])

    def _restore(self) -> None:
        """Take up what is in the folder."""
        checkpoints = _checkpoints(self.folder)
        for _, stage_two, path in checkpoints:
            self._lowest[stage_two] = _read(path)['loss']
        if not (self.folder / STATE).exists():
            return
        state = _read(self.folder / STATE)
        if state['rates'] == self.rates:
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self._shuffle.set_state(state['shuffle'])
            self.start_epoch = state['epoch']
            logging.info(f'Continuing before epoch {self.start_epoch}')
        elif checkpoints:
            epoch, _, path = checkpoints[-1]
            self._parts['model'].load_state_dict(_read(path)['model'])
            if 'ema' in self._parts:  # it holds the weights that the model began with
                average = self._parts['ema']
                parameters = [item.detach().clone() for item in self._parts['model'].parameters()]  # frozen ones, too
                average.load_state_dict({**average.state_dict(), 'shadow_params': parameters})
            self.start_epoch = epoch + 1
            logging.info(f'Continuing from the weights of epoch {epoch} with other learning rates')

    def _before(self, epoch: int) -> None:
        """Write the state before an epoch, if that is not too often."""
        now = time.monotonic()
        if epoch > self.start_epoch and now - self._written >= _PAUSE * self._cost:
            self._save(epoch)
            self._written = time.monotonic()
            self._cost = self._written - now

    def _save(self, epoch: int) -> None:
        if not self._writes:
            return
        content = {name: _plain(part.state_dict()) for name, part in self._parts.items()}
        _write(
            {**content, 'shuffle': self._shuffle.get_state(), 'epoch': epoch, 'rates': self.rates}, self.folder / STATE
        )

    def _keep(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Write a checkpoint of MACE if an earlier training had no better one; then remove those before it."""
        stage_two = path.name.endswith('_swa.pt')
        if self.loss >= self._lowest[stage_two]:
            return
        self._lowest[stage_two] = self.loss
        _write({**{name: _plain(part) for name, part in checkpoint.items()}, 'loss': self.loss}, path)
        for _, stage, old in _checkpoints(self.folder):
            if stage == stage_two and old != path:
                old.unlink()


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state without the functions that schedulers put into theirs, which no safe reader takes."""
    return {name: value for name, value in state.items() if not callable(value)}
