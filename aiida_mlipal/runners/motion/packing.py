"""How many atoms move together: as many as pay, found by trying."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from aiida_mlipal.runners.main import error_kind
from aiida_mlipal.runners.motion.moving import Moving
from aiida_mlipal.runners.trajectory import Replica

__all__ = ('paying_atoms',)

#: Twice the batch has to be this much faster per atom. On a CPU the cost per atom rises again when a batch outgrows the
#: cache; on a GPU it falls until all its units are busy.
_GAIN: Final = 1.05
#: Seconds after which no larger batch is tried.
_PATIENCE: Final = 10.0
_REPEATS: Final = 3


def paying_atoms(replicas: Sequence[Replica], move: Callable[[Sequence[Replica]], Moving]) -> int:
    """Return the number of atoms of the batch with the most atom-steps per second.

    Batches of 1, 2, 4, ... of the replicas are tried until a larger one is not faster any more. One that fills the
    memory halves what the largest before had, which leaves room for cells that shrink.
    """
    if not replicas:
        return 0
    best, best_rate, begin, n = 0, 0.0, time.perf_counter(), 1
    while True:
        some = replicas[:n]
        try:
            batch = move(some)
            seconds = min(_seconds(batch) for _ in range(_REPEATS))
        except RuntimeError as exception:  # no `OutOfMemoryError` if it was raised in a part that is TorchScript
            if error_kind(exception) != 'out_of_memory':
                raise
            return max(best // 2, len(replicas[0].numbers))
        n_atoms = len(batch.numbers)
        rate = n_atoms / seconds
        if rate < best_rate * _GAIN:
            return best
        best, best_rate = n_atoms, rate
        if n >= len(replicas) or time.perf_counter() - begin > _PATIENCE:
            return best
        n *= 2


def _seconds(batch: Moving) -> float:
    """Return the wall time of one evaluation."""
    begin = time.perf_counter()
    batch.evaluate()
    float(batch.energies.sum())  # waits for a GPU
    return time.perf_counter() - begin
