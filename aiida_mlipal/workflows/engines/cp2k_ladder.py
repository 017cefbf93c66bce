"""What to change when a CP2K calculation failed and the handler of ``Cp2kBaseWorkChain`` has given up.

Each rung is one function that turns numerical knobs only, so that the level of theory stays what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.workflows.engines.base import Inputs, Retry
from aiida_mlipal.workflows.engines.cp2k_inputs import uses_ot
from aiida_mlipal.workflows.engines.cp2k_outputs import cp2k_failure_reason
from aiida_mlipal.workflows.engines.outputs import JOB_CODES, OUT_OF_MEMORY, OUT_OF_TIME
from aiida_mlipal.workflows.engines.restart import jobs_of, more_memory, more_time

__all__ = ('minimise_by_cg', 'mix_gently', 'next_attempt')

_NOT_CONVERGED: Final = 'the SCF did not converge'
_INTERRUPTED: Final = 'CP2K stopped in the middle of its output'
#: Smallest share of the new density that is worth mixing in.
_LEAST_ALPHA: Final = 0.05


@calcfunction
def minimise_by_cg(parameters: orm.Dict) -> orm.Dict:
    """Minimise with conjugate gradients, which only ever go down, behind the strongest preconditioner, for longer."""
    result = parameters.get_dict()
    scf = result['FORCE_EVAL']['DFT']['SCF']
    scf['OT'] = {'MINIMIZER': 'CG', 'PRECONDITIONER': 'FULL_ALL', 'ENERGY_GAP': 0.01}
    scf['MAX_SCF'] = max(40, 2 * scf['MAX_SCF'])
    scf['OUTER_SCF'] = {**scf['OUTER_SCF'], 'MAX_SCF': max(20, 2 * scf['OUTER_SCF']['MAX_SCF'])}
    return orm.Dict(result)


@calcfunction
def mix_gently(parameters: orm.Dict) -> orm.Dict:
    """Damp charge sloshing: a quarter of the mixing, a longer history, and twice the steps."""
    result = parameters.get_dict()
    scf = result['FORCE_EVAL']['DFT']['SCF']
    mixing = scf['MIXING']
    scf['MIXING'] = {**mixing, 'ALPHA': mixing.get('ALPHA', 0.4) / 4, 'NBROYDEN': 16}
    scf['MAX_SCF'] = 2 * scf['MAX_SCF']
    return orm.Dict(result)


def next_attempt(
    process: orm.ProcessNode, attempt: int, task_inputs: Inputs, options: Mapping[str, Any]
) -> Retry | None:
    """Return what to change after ``process`` failed, or ``None`` if the failure would only repeat."""
    jobs = jobs_of(process)
    if not jobs or jobs[-1].exit_status is None or 'retrieved' not in jobs[-1].outputs:
        return None
    reason, parameters = cp2k_failure_reason(jobs[-1].outputs.retrieved), task_inputs['parameters']
    if reason == _NOT_CONVERGED:
        return _converge(parameters)
    if reason == JOB_CODES[OUT_OF_TIME]:
        return more_time(options)
    if reason == JOB_CODES[OUT_OF_MEMORY]:
        return more_memory(options)
    if reason.startswith(_INTERRUPTED) and attempt == 1:
        return Retry('CP2K was interrupted: the same again')
    return None


def _converge(parameters: orm.Dict) -> Retry | None:
    values = parameters.get_dict()
    scf = values['FORCE_EVAL']['DFT']['SCF']
    if uses_ot(values):
        if scf['OT'].get('MINIMIZER') == 'CG' and scf['OT'].get('PRECONDITIONER') == 'FULL_ALL':
            return None
        return Retry('the SCF did not converge: conjugate gradients', {'parameters': minimise_by_cg(parameters)})
    if scf['MIXING'].get('ALPHA', 0.4) <= _LEAST_ALPHA:
        return None
    return Retry('the SCF did not converge: gentler mixing', {'parameters': mix_gently(parameters)})
