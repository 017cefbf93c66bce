"""Parser of labels from an ASE calculator."""

from __future__ import annotations

from typing import Any

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.level_of_theory import canonical

__all__ = ('AseLabelParser',)


class AseLabelParser(RunnerParser):
    """Attach the labels, with their level of theory."""

    def parse_result(self, result: dict[str, Any]) -> None:
        """Attach the outputs."""
        labels = Configurations.load(self.path('labels.npz'))
        if 'level_of_theory' in self.node.inputs:
            theory = self.node.inputs.level_of_theory.get_dict()
        else:
            settings = self.node.inputs.settings.get_dict()
            theory = canonical(
                {'code': 'ase', 'calculator': settings['calculator'], 'parameters': settings.get('parameters', {})}
            )
        self.out('labels', ConfigurationsData(labels, level_of_theory=theory))
