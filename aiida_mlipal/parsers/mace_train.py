"""Parser of a committee's training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
from aiida.engine import ExitCode
from aiida.orm import ArrayData, Dict

from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.parsers.runner import RunnerParser
from aiida_mlipal.science.foundation import REPLAY_HEAD, decided
from aiida_mlipal.science.heads import MAIN_HEAD
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.training_log import read_history
from aiida_mlipal.science.training_settings import TrainingSettings

__all__ = ('MaceTrainParser',)


class MaceTrainParser(RunnerParser):
    """Attach one model per member that was trained, their errors, and the course of the training."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        """Attach the course of the training even if nothing else is there: it tells how far a killed job came."""
        history = self._history()
        if history is not None:
            self.out('history', history)
        return super().parse(**kwargs)

    def parse_result(self, result: dict[str, Any]) -> ExitCode | None:
        """Attach the other outputs. Exit codes say which members failed."""
        members = result['members']
        self.out('results', Dict({key: value for key, value in result.items() if key not in ('status', 'traceback')}))
        for name, member in members.items():
            if member['status'] == 'ok':
                self.out(f'models.{name}', self._model(name, member, result))

        failed = {name: member for name, member in members.items() if member['status'] != 'ok'}
        if not failed:
            return None
        reasons = '; '.join(f'{name} (seed {member["seed"]}): {member["reason"]}' for name, member in failed.items())
        if len(failed) < len(members):
            return self.exit_codes.ERROR_SOME_MEMBERS_FAILED.format(failed=', '.join(failed), reasons=reasons)
        if all(member['kind'] == 'out_of_memory' for member in failed.values()):
            return self.exit_codes.ERROR_OUT_OF_MEMORY.format(error=reasons)
        return self.exit_codes.ERROR_ALL_MEMBERS_FAILED.format(reasons=reasons)

    def _model(self, name: str, member: dict[str, Any], result: dict[str, Any]) -> MlipModelData:
        """Return the node of one member.

        :raises ValueError: if the file is not the one that the runner wrote.
        """
        path = self.path(f'{name}.model')
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        if sha256 != member['sha256']:
            raise ValueError(f'`{path.name}` has the SHA-256 {sha256}, the runner wrote {member["sha256"]}.')
        inputs = self.node.inputs
        others = inputs.other_datasets if 'other_datasets' in inputs else {}
        levels = {name: others[name].level_of_theory_hash for name in others}
        if 'replay' in inputs:
            levels[REPLAY_HEAD] = inputs.replay.level_of_theory_hash
        own_level = inputs.dataset.level_of_theory_hash
        options = from_dict(TrainingSettings, {**inputs.settings.get_dict(), 'seeds': [0]})
        start = {}
        if 'foundation_model' in inputs:
            options = decided(options, inputs.foundation_model.architecture)
            start = {'foundation_model': inputs.foundation_model.digest}
        settings = {**asdict(options), **start}
        return MlipModelData(
            [path],
            metadata={
                'elements': member['elements'],
                'r_max': member['r_max'],
                'dtype': member['dtype'],
                'architecture': member['architecture'],
                'seeds': [member['seed']],
                'level_of_theory_hash': own_level,
                'software': result['software'],
                'errors': member['errors'],
                'settings_hash': hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
                **({'heads': {**levels, MAIN_HEAD: own_level}} if levels else {}),
                **({'uncertainty': member['uncertainty']['kind']} if 'uncertainty' in member else {}),
            },
        )

    def _history(self) -> ArrayData | None:
        """Return the validation errors by epoch of all members that began, ``None`` if no member did."""
        arrays: dict[str, Any] = {}
        repository = self.retrieved.base.repository
        for name in sorted(repository.list_object_names()):
            folder = f'{name}/results'
            if not name.startswith('member_') or 'results' not in repository.list_object_names(name):
                continue
            for file in repository.list_object_names(folder):
                lines = repository.get_object_content(f'{folder}/{file}').splitlines()
                for head, columns in read_history(lines).items():
                    prefix = name if head == MAIN_HEAD else f'{name}_{head}'
                    arrays |= {f'{prefix}_{quantity}': np.array(values) for quantity, values in columns.items()}
        return ArrayData(arrays) if arrays else None
