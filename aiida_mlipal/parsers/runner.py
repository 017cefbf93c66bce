"""The base of all parsers of this package: read ``result.json`` and say what went wrong, if something did."""

from __future__ import annotations

import json
import zipfile
from abc import abstractmethod
from pathlib import Path
from typing import Any, Final

from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_mlipal.runners.main import RESULT

__all__ = ('RunnerParser',)

_EXIT_CODES: Final = {
    'out_of_memory': 'ERROR_OUT_OF_MEMORY',
    'non_finite': 'ERROR_NON_FINITE',
    'missing_package': 'ERROR_MISSING_PACKAGE',
    'settings_refused': 'ERROR_SETTINGS_REFUSED',
}


class RunnerParser(Parser):
    """Parse a :class:`~aiida_mlipal.calculations.runner.RunnerCalculation`. Never unpickles anything.

    A subclass implements :meth:`parse_result`. There, :meth:`path` gives the files that became output nodes.
    """

    _folder: Path

    def parse(self, **kwargs: Any) -> ExitCode | None:
        """Attach the outputs; return an exit code if there are none.

        What the scheduler found out (out of memory, out of walltime, node failure) stays, if the runner did not end
        by itself.
        """
        self._folder = Path(kwargs['retrieved_temporary_folder'])
        try:
            result = json.loads(self.retrieved.base.repository.get_object_content(RESULT))
        except FileNotFoundError:
            return self._scheduler_exit_code() or self.exit_codes.ERROR_NO_RESULT.format(pk=self.node.pk)
        except ValueError as exception:
            return self.exit_codes.ERROR_INVALID_OUTPUT.format(error=f'`{RESULT}` is not JSON: {exception}')
        if result['status'] != 'ok':
            self.logger.error(result['traceback'])
            label = _EXIT_CODES.get(result['kind'], 'ERROR_RUNNER_FAILED')
            return self._scheduler_exit_code() or self.exit_codes[label].format(error=result['error'], pk=self.node.pk)
        try:
            return self.parse_result(result)
        except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as exception:
            error = f'{type(exception).__name__}: {exception}'
            return self.exit_codes.ERROR_INVALID_OUTPUT.format(error=error)

    @abstractmethod
    def parse_result(self, result: dict[str, Any]) -> ExitCode | None:
        """Attach the outputs with ``self.out``; ``result`` is the content of ``result.json``."""

    def path(self, name: str) -> Path:
        """Return the path of a file of ``_RETRIEVE_TEMPORARY``."""
        return self._folder / name

    def _scheduler_exit_code(self) -> ExitCode | None:
        """Return the exit code that the scheduler's own parser set, if it found something."""
        if self.node.exit_status:
            return ExitCode(self.node.exit_status, self.node.exit_message)
        return None
