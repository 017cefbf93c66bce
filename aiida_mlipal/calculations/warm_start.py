"""What a training takes that goes on from an earlier committee."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from aiida.engine import CalcJobProcessSpec
from aiida.orm import ArrayData

from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.warm_start import COPIES, START, save_copies

__all__ = ('declare_start', 'start_problem', 'write_start')


def declare_start(spec: CalcJobProcessSpec) -> None:
    """Define the inputs of a training that goes on from an earlier committee."""
    spec.input(
        'start',
        valid_type=MlipModelData,
        required=False,
        help='Committee whose members go on, each with the seed that it was trained with. Weights, scale and shift are '
        'taken over, the optimiser begins anew. A member whose weights do not fit fails with the kind `start_refused`.',
    )
    spec.input(
        'copies',
        valid_type=ArrayData,
        required=False,
        help='How often a training frame occurs in each epoch: arrays `frame_id` and `copies`, 0 leaves it out. Frames '
        'that are not listed occur once.',
    )


def start_problem(inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> str | None:
    """Return why a training cannot go on from the model it is given, or with the copies of frames, and what to do."""
    if 'start' in inputs:
        foreign = sorted(set(settings['seeds']) - set(inputs['start'].seeds))
        if foreign:
            return (
                f'`start` (node {inputs["start"].pk}) has members of the seeds {inputs["start"].seeds}, none of '
                f'{foreign}: set `seeds` to those of members that are to go on.'
            )
    if 'copies' in inputs:
        names = sorted(inputs['copies'].get_arraynames())
        if names != ['copies', 'frame_id']:
            return f'`copies` has the arrays {names}: give `frame_id` and `copies`, one row per frame.'
        counts = inputs['copies'].get_array('copies')
        if counts.shape != inputs['copies'].get_array('frame_id').shape or (counts < 0).any():
            return '`copies` needs one number per `frame_id`, and none below 0.'
        if counts.dtype.kind != 'i':
            return f'`copies` must hold integers, got {counts.dtype}.'
    return None


def write_start(inputs: Mapping[str, Any], folder: Path) -> None:
    """Write the models that members start from, and how often each frame occurs."""
    if 'start' in inputs:
        start: MlipModelData = inputs['start']
        for seed, name in zip(start.seeds, start.member_names, strict=True):
            if seed in inputs['settings']['seeds']:
                (folder / f'{START}{seed}.model').write_bytes(start.read(name))
    if 'copies' in inputs:
        frame_id, copies = (np.asarray(inputs['copies'].get_array(name)) for name in ('frame_id', 'copies'))
        save_copies(frame_id, copies, folder / COPIES)
