"""Parser of a look into a model file."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.science.level_of_theory import digest

__all__ = ('MaceInspectParser',)


class MaceInspectParser(RunnerParser):
    """Attach the model."""

    def parse_result(self, result: dict[str, Any]) -> None:
        """Attach the output. Seeds, errors, settings and versions of the training are not known."""
        inputs = self.node.inputs
        level = digest(inputs.level_of_theory.get_dict())
        others = {head: 'unknown' for head in result['heads'] if head != result['head']}
        metadata = {
            **{key: result[key] for key in ('elements', 'r_max', 'dtype', 'architecture', 'atomic_energies')},
            **({'heads': {**others, result['head']: level}} if others else {}),
            'level_of_theory_hash': level,
            'origin': 'imported',
            'seeds': [],
            'software': {},
            'errors': {},
            'settings_hash': '',
        }
        self.out('model', MlipModelData([BytesIO(inputs.file.get_content('rb'))], metadata=metadata))
