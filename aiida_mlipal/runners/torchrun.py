"""One training on several GPUs of a machine, in as many processes, which PyTorch's ``torchrun`` starts and watches.

When one of them fails, ``torchrun`` ends the others, which would wait for it for ever.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import aiida_mlipal

__all__ = ('run_on_gpus',)

_WORK: Final = 'work'
_RESULT: Final = 'result'
_ERROR: Final = 'error_'  # the rank of the process follows

Result = TypeVar('Result')


def run_on_gpus(work: Callable[[], Result], n_gpus: int) -> Result:
    """Call ``work``, which must be picklable, in ``n_gpus`` new processes; return what the first of them returns.

    Each finds its number in the environment, as ``torchrun`` documents (``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``,
    ``MASTER_ADDR``, ``MASTER_PORT``), where MACE looks for it. What the first that fails raises is raised here. If it
    was killed by a signal, so is this process.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    here = str(Path(aiida_mlipal.__path__[0]).parent)  # a folder, or the archive of a job
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (here, os.environ.get('PYTHONPATH'))))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / _WORK).write_bytes(pickle.dumps(work))
        try:
            main(['--standalone', f'--nproc-per-node={n_gpus}', '--module', __name__, name])
        except SignalException as received:
            died_of = int(received.sigval)
        except ChildFailedError as failed:
            errors = sorted(folder.glob(f'{_ERROR}*'), key=lambda path: path.stat().st_mtime_ns)
            codes = {process.exitcode for process in failed.failures.values()}
            # The others fail as well, since they miss the first, or are ended (SIGTERM).
            signals = sorted(-code for code in codes if code < 0 and not (errors and code == -signal.SIGTERM))
            if not signals:
                raise pickle.loads(errors[0].read_bytes()) if errors else failed from failed
            died_of = signals[0]
        else:
            result: Result = pickle.loads((folder / _RESULT).read_bytes())
            return result
    if died_of != signal.SIGKILL:
        signal.signal(died_of, signal.SIG_DFL)  # torchrun has set a handler of its own
    signal.raise_signal(died_of)
    raise AssertionError(f'signal {died_of} did not end the process')


def _run_rank(folder: Path) -> None:
    """Do the work of one process."""
    rank = int(os.environ['RANK'])
    work: Callable[[], Any] = pickle.loads((folder / _WORK).read_bytes())
    try:
        result = work()
    except (Exception, SystemExit) as exception:
        (folder / f'{_ERROR}{rank}').write_bytes(pickle.dumps(exception))
        raise
    if rank == 0:
        (folder / _RESULT).write_bytes(pickle.dumps(result))


if __name__ == '__main__':
    _run_rank(Path(sys.argv[1]))
