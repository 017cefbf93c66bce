"""Go on, or stop: judged on random frames that the model has not seen, and on what has been spent."""

from __future__ import annotations

import numpy as np
from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.evaluation import EvaluationData
from aiida_mlipal.data.selection import SelectionData
from aiida_mlipal.science.convergence import BudgetSettings, ConvergenceSettings, judge
from aiida_mlipal.science.metrics import FrameErrors, frame_errors
from aiida_mlipal.science.settings import from_dict

__all__ = ('decide_iteration',)


@calcfunction
def decide_iteration(
    dataset: ConfigurationsData,
    dataset_evaluation: EvaluationData,
    pool_evaluation: EvaluationData,
    selection: SelectionData,
    previous: orm.Dict,
    convergence: orm.Dict,
    budget: orm.Dict,
    seed: orm.Int,
    started: orm.Float | None = None,
    now: orm.Float | None = None,
) -> orm.Dict:
    """Return the decision on an iteration.

    ``dataset`` includes the iteration's new labels. The model's errors on older random frames come from
    ``dataset_evaluation``, those on the new ones from ``pool_evaluation``: none of these frames was trained on.
    The clock counts only through whether the wall time is spent, so that a repeated campaign decides the same.
    """
    frames = dataset.configurations
    errors = FrameErrors.concatenate(
        [
            frame_errors(frames.take(np.isin(frames.frame_id, evaluation.frame_id)), evaluation, ('test',))
            for evaluation in (dataset_evaluation.evaluation, pool_evaluation.evaluation)
        ]
    )
    spent = frames.take(~frames.has_role('isolated_atom'))
    verdict = judge(
        errors,
        uncertain_share=selection.base.attributes.get('uncertain_share'),
        previous_below_target=previous['below_target'],
        iteration=previous['iteration'] + 1,
        n_labels=len(spent) - previous['n_initial'],
        n_selected=selection.decision.n_selected,
        n_candidates=selection.decision.counts.get('candidate', 0),
        elapsed_s=None if started is None or now is None else now.value - started.value,
        settings=from_dict(ConvergenceSettings, convergence.get_dict()),
        budget=from_dict(BudgetSettings, budget.get_dict()),
        seed=seed.value,
    )
    return orm.Dict({**verdict.to_dict(), 'n_initial': previous['n_initial']})
