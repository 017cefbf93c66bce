"""What the finished potential is worth: errors on frames it never saw, and an equation of state against the teacher."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.calculations.functions.dataset import common_level
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.science import eos
from aiida_mlipal.science.metrics import frame_errors, summary
from aiida_mlipal.science.seeds import generate

__all__ = ('equation_of_state_frames', 'validation_summary')


@calcfunction
def equation_of_state_frames(parents: ConfigurationsData, settings: orm.Dict) -> ConfigurationsData:
    """Return each parent isotropically strained around its volume, for a Birch-Murnaghan fit."""
    strain = settings['max_strain']
    recipe = [{'generator': 'isotropic_strain', 'n_frames': settings['n_volumes'], 'min': -strain, 'max': strain}]
    frames = generate(parents.configurations, recipe, seed=0)
    return ConfigurationsData(frames.with_columns(role=['validation'] * len(frames)))


@calcfunction
def validation_summary(
    dataset: ConfigurationsData,
    labels: ConfigurationsData | None = None,
    properties: orm.Dict | None = None,
    **evaluations: EvaluationData,
) -> orm.Dict:
    """Return the learning curve on one common test set, and the equations of state of teacher and final model.

    ``evaluations`` are those of every iteration's model on the union of all random frames, by the model's name;
    ``labels`` the teacher's energies of the strained cells, ``properties`` the final model's fits of the same cells.

    :raises ValueError: if dataset and labels differ in their level of theory, with the difference line by line.
    """
    if labels is not None:
        common_level({'dataset': dataset, 'labels': labels})
    frames = dataset.configurations
    curve = []
    for name in sorted(evaluations):
        errors = frame_errors(frames, evaluations[name].evaluation, ('calibration', 'test'))
        curve.append({'model': name, **summary(errors)})
    stream = frames.take(frames.has_role('calibration', 'test'))
    return orm.Dict(
        {
            'learning_curve': curve,
            'n_test_frames': int(stream.has_role('test').sum()),
            'n_calibration_frames': int(stream.has_role('calibration').sum()),
            'n_trajectories': len(set(stream.trajectory.tolist())),
            'eos': [] if labels is None or properties is None else _compare(labels, properties.get_dict()),
        }
    )


def _compare(labels: ConfigurationsData, properties: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one entry per parent with both fits and the deviation of the lattice constant, in per cent."""
    frames = labels.configurations
    volumes = np.abs(np.linalg.det(frames.cell))
    entries = []
    for parent, model in sorted(properties['eos'].items()):
        rows = np.flatnonzero((frames.parent == parent) & frames.is_labelled)
        teacher: dict[str, Any] = {'volumes': volumes[rows].tolist(), 'energies': frames.energy[rows].tolist()}
        try:
            teacher |= eos.fit(volumes[rows], frames.energy[rows])
        except ValueError as exception:
            teacher['problem'] = str(exception)
        else:
            cell = frames.reference_cell[rows[0]]
            teacher['a0'] = float(np.linalg.norm(cell[0]) * (teacher['v0'] / abs(np.linalg.det(cell))) ** (1 / 3))
        both = 'a0' in teacher and 'a0' in model
        deviation = 100 * (model['a0'] / teacher['a0'] - 1) if both else None
        entries.append(
            {
                'parent': parent,
                'formula': model['formula'],
                'teacher': teacher,
                'model': model,
                'deviation_percent': deviation,
            }
        )
    return entries
