"""CalcJob that explores configuration space with a committee."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida.engine import CalcJobProcessSpec
from aiida.orm import Dict

from aiida_mlipal.calculations.inference import InferenceCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.settings import from_dict

__all__ = ('MaceExploreCalculation',)


class MaceExploreCalculation(InferenceCalculation):
    """Molecular dynamics of many replicas with the first member; the committee's opinion on the frames visited."""

    _RUNNER = 'explore'
    _ENTRY_POINT = 'mlipal.mace.explore'
    _SETTINGS = ExplorationSettings
    _FRAMES = 'starts'
    _RETRIEVE_TEMPORARY = ('pool.npz', 'evaluation.npz')
    CACHE_VERSION = 6

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define outputs."""
        super().define(spec)
        spec.output(
            'pool',
            valid_type=ConfigurationsData,
            help='The random stream (roles `calibration` and `test`) and at most `max_candidates` candidates.',
        )
        spec.output('evaluation', valid_type=EvaluationData, help='Predictions for the pool, row by row.')
        spec.output(
            'results',
            valid_type=Dict,
            help='What was visited: number of steps and frames, the uncertainty of every visited frame (also of those '
            'thrown away, with how they were), which replicas stopped and why, speed.',
        )

    @classmethod
    def _validate_inputs(cls, inputs: Any) -> str | None:
        """Refuse what the model, or a plan, cannot begin from."""
        problem = super()._validate_inputs(inputs)
        if problem is not None or not {'model', 'starts', 'settings'} <= set(inputs):
            return problem
        model, starts = inputs['model'], inputs['starts'].configurations
        try:
            plans = from_dict(ExplorationSettings, inputs['settings'].get_dict()).read_plans()
            for plan in plans:
                plan.check_starts(starts)
        except ValueError as exception:
            return f'`settings`: {exception}'
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
        single = np.flatnonzero(frames.configurations.n_atoms < 2)
        if len(single):
            return (
                f'`starts`: frame {frames.configurations.frame_id[single[0]]} has a single atom, which cannot move: '
                'give a conventional cell or a supercell.'
            )
        return super().check_frames(model, frames)
