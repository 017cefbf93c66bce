"""CalcJob that explores configuration space with a committee."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiida.common.datastructures import CalcInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJobProcessSpec
from aiida.orm import Dict, RemoteData

from aiida_mlipal.calculations.inference import InferenceCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.runners.keeper import FOLDER
from aiida_mlipal.science.exploration_checks import unfit_starts
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('MaceExploreCalculation',)


class MaceExploreCalculation(InferenceCalculation):
    """Search configuration space by the plans of the settings; the committee's opinion on the frames visited.

    With ``previous``, the working directory of a job that did not come to its end, it goes on where that one was.
    """

    _RUNNER = 'explore'
    _ENTRY_POINT = 'mlipal.mace.explore'
    _SETTINGS = ExplorationSettings
    _FRAMES = 'starts'
    _RETRIEVE_TEMPORARY = ('pool.npz', 'evaluation.npz', 'uncut.npz')
    CACHE_VERSION = 10

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs and outputs."""
        super().define(spec)
        spec.input(
            'previous',
            valid_type=RemoteData,
            required=False,
            help='Working directory of an earlier exploration with the same inputs, which goes on where it ended.',
        )
        spec.output(
            'pool',
            valid_type=ConfigurationsData,
            help='The random stream (roles `calibration` and `test`) and at most `max_candidates` candidates.',
        )
        spec.output('evaluation', valid_type=EvaluationData, help='Predictions for the pool, row by row.')
        spec.output(
            'uncut',
            valid_type=ConfigurationsData,
            required=False,
            help='Candidates of more than `max_label_atoms` atoms as they were visited; cut-outs stand in the pool.',
        )
        spec.output(
            'results',
            valid_type=Dict,
            help='What was visited: number of steps and frames, the uncertainty of every frame that unbiased plans '
            'visited, how many they did not reach, how many frames were thrown away and how, '
            'which replicas stopped and why, speed.',
        )

    @classmethod
    def _validate_inputs(cls, inputs: Any) -> str | None:
        """Refuse what the model, or a plan, cannot begin from."""
        problem = super()._validate_inputs(inputs)
        if problem is not None or not {'model', 'starts', 'settings'} <= set(inputs):
            return problem
        model, starts = inputs['model'], inputs['starts'].configurations
        try:
            settings = from_dict(ExplorationSettings, inputs['settings'].get_dict())
            plans = settings.read_plans()
            for plan in plans:
                plan.check_starts(starts)
        except ValueError as exception:
            return f'`settings`: {exception}'
        unfit = unfit_starts(starts, settings)
        if unfit is not None:
            return f'`starts`: {unfit}'
        unsure = [plan.label for plan in plans if plan.NEEDS_UNCERTAINTY]
        if unsure and model.base.attributes.get('uncertainty') == 'none':
            return (
                f'plan `{unsure[0]}` needs an uncertainty, but the model is a single one without: give a committee, or '
                'one trained with `uncertainty: llpr` or `heads`.'
            )
        return None

    @classmethod
    def check_frames(cls, model: MlipModelData, frames: ConfigurationsData) -> str | None:
        """Return what is wrong with the starts and what to do about it, or ``None``."""
        if not frames.n_frames:
            return '`starts` holds no frames: give at least one.'
        return super().check_frames(model, frames)

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Have the state of an earlier job copied: never linked, since this job writes it anew."""
        info = super().prepare_for_submission(folder)
        if 'previous' in self.inputs:
            previous = self.inputs.previous
            path = str(Path(previous.get_remote_path(), FOLDER))
            info.remote_copy_list = [(previous.computer.uuid, path, FOLDER)]
        return info
