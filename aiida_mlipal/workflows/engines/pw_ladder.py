"""What to change when a pw.x calculation failed and the handlers of ``PwBaseWorkChain`` have given up.

Each rung is one function. Rungs turn numerical knobs only, so that the level of theory stays what it is; the one
exception, :func:`smear_slightly`, is accepted only where it turned out to change nothing. Errors that would repeat
have no rung.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.workflows.engines.base import Inputs, Retry
from aiida_mlipal.workflows.engines.outputs import OUT_OF_MEMORY, OUT_OF_TIME
from aiida_mlipal.workflows.engines.pw_outputs import was_interrupted
from aiida_mlipal.workflows.engines.restart import jobs_of, more_memory, more_time

__all__ = ('diagonalise_by_cg', 'double_time', 'mix_gently', 'next_attempt', 'save_memory', 'smear_slightly')

_OUT_OF_TIME: Final = (OUT_OF_TIME, 340, 400)
_NOT_CONVERGED: Final = (410,)
#: Cholesky, bands not converged, S matrix, ZHEGVD, QR, eigenvectors, Broyden.
_DIAGONALISATION: Final = (462, 463, 464, 465, 466, 467, 468)


def _changed(parameters: orm.Dict, namelist: str, **values: Any) -> orm.Dict:
    result = parameters.get_dict()
    result[namelist] = {**result.get(namelist, {}), **values}
    return orm.Dict(result)


@calcfunction
def mix_gently(parameters: orm.Dict) -> orm.Dict:
    """Damp charge sloshing: half the mixing, with a local screening that knows vacuum from metal, and more steps."""
    electrons = parameters.get_dict().get('ELECTRONS', {})
    return _changed(
        parameters,
        'ELECTRONS',
        mixing_beta=electrons.get('mixing_beta', 0.7) / 2,
        mixing_mode='local-TF',
        electron_maxstep=max(200, 2 * electrons.get('electron_maxstep', 100)),
    )


@calcfunction
def smear_slightly(parameters: orm.Dict) -> orm.Dict:
    """Let levels cross while an insulator converges: 0.002 Ry (27 meV), nothing where there is a gap."""
    return _changed(parameters, 'SYSTEM', occupations='smearing', smearing='gaussian', degauss=0.002)


@calcfunction
def diagonalise_by_cg(parameters: orm.Dict) -> orm.Dict:
    """Diagonalise band by band with conjugate gradients: slower than Davidson's subspaces, never ill-conditioned."""
    return _changed(parameters, 'ELECTRONS', diagonalization='cg')


@calcfunction
def double_time(parameters: orm.Dict) -> orm.Dict:
    """Let pw.x itself run twice as long, where ``max_seconds`` holds it."""
    return _changed(parameters, 'CONTROL', max_seconds=2 * parameters['CONTROL']['max_seconds'])


@calcfunction
def save_memory(parameters: orm.Dict) -> orm.Dict:
    """Keep a smaller subspace of Davidson and fewer charge densities for the mixing."""
    return _changed(parameters, 'ELECTRONS', diago_david_ndim=2, mixing_ndim=4)


def next_attempt(process: orm.ProcessNode, task_inputs: Inputs, options: Mapping[str, Any]) -> Retry | None:
    """Return what to change after ``process`` failed, or ``None`` if the failure would only repeat."""
    jobs = jobs_of(process)
    if not jobs or jobs[-1].exit_status is None:  # killed by somebody, or an error of the plugin itself
        return None
    status, parameters = jobs[-1].exit_status, task_inputs['parameters']
    if status in _NOT_CONVERGED:
        return _converge(parameters)
    if any(job.exit_status in _DIAGONALISATION for job in jobs):
        return _diagonalise(parameters)
    if status in _OUT_OF_TIME:
        held = 'max_seconds' in parameters.get_dict().get('CONTROL', {})
        return more_time(options, **_with(double_time, parameters) if held else {})
    if status == OUT_OF_MEMORY:
        return more_memory(options, **_with(save_memory, parameters))
    if was_interrupted(jobs[-1]):
        return Retry('pw.x was interrupted: the same again')
    return None


def _with(rung: Any, parameters: orm.Dict) -> dict[str, Any]:
    return {'parameters': rung(parameters)}


def _converge(parameters: orm.Dict) -> Retry | None:
    values = parameters.get_dict()
    if values.get('ELECTRONS', {}).get('mixing_mode') != 'local-TF':
        return Retry('the SCF did not converge: gentler mixing', _with(mix_gently, parameters))
    if values['SYSTEM'].get('occupations', 'fixed') == 'fixed':
        return Retry('the SCF did not converge: a little smearing', _with(smear_slightly, parameters))
    return _diagonalise(parameters)


def _diagonalise(parameters: orm.Dict) -> Retry | None:
    if parameters.get_dict().get('ELECTRONS', {}).get('diagonalization') == 'cg':
        return None
    return Retry('another diagonalisation: conjugate gradients', _with(diagonalise_by_cg, parameters))
