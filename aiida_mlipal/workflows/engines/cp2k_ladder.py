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

__all__ = ('minimise_by_cg', 'mix_gently', 'next_attempt')

_NOT_CONVERGED: Final = 'the SCF did not converge'
_NO_TIME: Final = 'the wall time ran out'
_NO_MEMORY: Final = 'the job ran out of memory'
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
    jobs = sorted((node for node in process.called if isinstance(node, orm.CalcJobNode)), key=lambda node: node.pk)
    if not jobs or jobs[-1].exit_status is None or 'retrieved' not in jobs[-1].outputs:
        return None
    reason, parameters = cp2k_failure_reason(jobs[-1].outputs.retrieved), task_inputs['parameters']
    if reason == _NOT_CONVERGED:
        return _converge(parameters)
    if reason == _NO_TIME:
        limit = options.get('max_wallclock_seconds')
        more = None if limit is None else {'max_wallclock_seconds': 2 * limit}
        return None if more is None else Retry('out of time: twice as much', options=more)
    if reason == _NO_MEMORY:
        memory = options.get('max_memory_kb')
        return None if memory is None else Retry('out of memory: twice as much', options={'max_memory_kb': 2 * memory})
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
