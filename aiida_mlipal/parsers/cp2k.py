"""Parser of aiida-cp2k that also fails where CP2K only warns."""

from __future__ import annotations

from typing import Any

from aiida_cp2k.parsers import Cp2kBaseParser

__all__ = ('Cp2kLabelParser',)


class Cp2kLabelParser(Cp2kBaseParser):
    """Output of a CP2K single point; an SCF that did not converge is an error.

    Until version 2023 CP2K warns of it, goes on to forces that mean nothing, and ends well. Handlers and retries see a
    calculation only if it failed.
    """

    def _check_stdout_for_errors(self, output_string: str) -> Any:
        """Return the exit code for what is wrong with the output, or ``None``."""
        exit_code = super()._check_stdout_for_errors(output_string)
        if exit_code is None and 'SCF run NOT converged' in output_string:
            return self.exit_codes.ERROR_SCF_NOT_CONVERGED
        return exit_code
