"""``aiida-mlipal doctor``: one small job per code, before a campaign finds out what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from aiida.orm import AbstractCode, CalcJobNode

__all__ = ('Finding', 'command')


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one check found. ``mend`` says what to do about it, empty if all is well."""

    what: str
    found: str
    mend: str = ''


@click.command('doctor')
@click.argument('path', metavar='[CAMPAIGN.YAML]', type=click.Path(path_type=Path, exists=True), required=False)
@click.option('-C', '--code', 'names', multiple=True, help='A code to check, as label@computer (repeat).')
@click.option('--pseudo-family', default=None, help='Family for pw.x.  [default: that of the file, else any]')
def command(path: Path | None, names: tuple[str, ...], pseudo_family: str | None) -> None:
    """Check daemon and broker, then run one small job per code: versions, device, one energy.

    The codes are those of CAMPAIGN.YAML, each with the queue, account and GPU of its stage, and of the options -C;
    without any, all codes called pw or python.
    """
    from aiida_mlipal.cli.common import require_profile

    require_profile()
    jobs: dict[str, dict[str, Any]] = {}
    if path is not None:
        jobs, pseudo_family = _codes_of(path, pseudo_family)
    jobs |= {name: {} for name in names if name not in jobs}
    findings = [_check_daemon()]
    for name, options in (jobs or {name: {} for name in _usual_codes()}).items():
        click.echo(f'checking {name} ...', err=True)
        findings.append(_check_code(name, options, pseudo_family))
    for finding in findings:
        mark = click.style('failed', fg='red') if finding.mend else click.style('ok    ', fg='green')
        click.echo(f'{mark}  {finding.what}: {finding.found}')
        if finding.mend:
            click.echo(f'        mend: {finding.mend}')
    failed = sum(bool(finding.mend) for finding in findings)
    click.echo(f'{len(findings) - failed} of {len(findings)} checks are ok')
    if failed:
        raise SystemExit(1)


def _codes_of(path: Path, family: str | None) -> tuple[dict[str, dict[str, Any]], str | None]:
    """Return the codes of a campaign file with the job options of their stages, and its pseudopotential family.

    A code of several stages is tried with the options of the first one that asks for GPUs.
    """
    from aiida_mlipal.workflows.campaign_file import load_campaign

    try:
        campaign = load_campaign(path)
    except ValueError as exception:
        raise click.ClickException(str(exception)) from exception
    jobs: dict[str, dict[str, Any]] = {}
    for stage in (campaign.label, campaign.prescreen, campaign.train, campaign.explore, campaign.evaluate):
        if stage is None:
            continue
        name, options = stage.code or campaign.train.code, stage.options.as_metadata()
        if name not in jobs or ('gpus' in options and 'gpus' not in jobs[name]):
            jobs[name] = options
    return jobs, family or campaign.label.pseudo_family


def _usual_codes() -> list[str]:
    from aiida.orm import Computer, InstalledCode, QueryBuilder

    query = QueryBuilder().append(
        InstalledCode, filters={'label': {'in': ['pw', 'python']}}, tag='code', project='label'
    )
    query.append(Computer, with_node='code', project='label')
    return sorted({f'{label}@{computer}' for label, computer in query.all()})


def _check_daemon() -> Finding:
    from aiida_mlipal.cli.services import probe

    services = probe()
    found = f'{services.workers} workers, {services.active} of {services.slots} slots used'
    return Finding(what='daemon and broker', found=found, mend=' '.join(services.problems))


def _check_code(name: str, options: Mapping[str, Any], family: str | None) -> Finding:
    """Run one small job with a code, with the options of its stage."""
    from aiida_mlipal.workflows.checks import find_code

    is_python = name.partition('@')[0].startswith('python')
    try:
        code = find_code(name, 'mlipal.mace.train' if is_python else 'quantumespresso.pw')
    except ValueError as exception:
        return Finding(what=name, found='missing', mend=str(exception))
    checks: dict[str, Callable[[AbstractCode, Mapping[str, Any], str | None], Finding]]
    checks = {'quantumespresso.pw': _check_pw, 'cp2k': _check_cp2k}
    check = checks.get(code.default_calc_job_plugin or '', _check_python)
    try:
        return check(code, options, family)
    except Exception as exception:  # whatever a broken set-up raises is what the user came to see
        return Finding(
            what=name,
            found=f'{type(exception).__name__}: {exception}',
            mend=f'check the computer with `verdi computer test {code.computer.label}`.',
        )


def _run(process: Any, code: AbstractCode, given: Mapping[str, Any], **inputs: Any) -> CalcJobNode:
    """Run one job here (not in the daemon, which has a check of its own)."""
    from aiida.engine import run_get_node
    from aiida.manage.caching import disable_caching

    from aiida_mlipal.workflows.builder import job_options

    options = job_options(code, {**given, 'max_wallclock_seconds': 600})
    with disable_caching():
        _, node = run_get_node(process, code=code, metadata={'options': options}, **inputs)
    return node


def _failure(node: CalcJobNode, what: str, advice: str) -> Finding:
    """Return a failed job as a finding, with the last line that it wrote to its error stream."""
    last = (node.get_scheduler_stderr() or '').strip().splitlines()[-1:]
    text = node.exit_message or (node.process_state.value if node.process_state else 'no state')
    return Finding(
        what=what,
        found=' | '.join([text, *last]),
        mend=f'{advice} Look at `verdi process report {node.pk}` and `verdi calcjob gotocomputer {node.pk}`.',
    )


def _check_python(code: AbstractCode, options: Mapping[str, Any], _: str | None) -> Finding:
    """Versions, device and one energy from the compute Python."""
    from aiida.orm import Dict
    from aiida.plugins import CalculationFactory

    one = {**options, 'gpus': 1} if options.get('gpus') else options
    settings = Dict({'device': 'cuda'} if options.get('gpus') else {})
    node = _run(CalculationFactory('mlipal.doctor'), code, one, settings=settings)
    if not node.is_finished_ok:
        advice = f'Install what is missing: `{code.filepath_executable} -m pip install mace-torch`.'
        return _failure(node, code.full_label, advice)
    results = node.outputs.results.get_dict()
    versions = ', '.join(f'{name} {version}' for name, version in sorted(results.get('software', {}).items()))
    energy = results.get('energy')
    found = f'{versions}; device {results.get("device", "?")}'
    return Finding(what=code.full_label, found=found + (f'; energy {energy:.6f} eV' if energy is not None else ''))


def _check_pw(code: AbstractCode, options: Mapping[str, Any], family: str | None) -> Finding:
    """Version and one energy from pw.x: a lone atom of the family's lightest element at Γ."""
    from aiida.orm import Dict, KpointsData, StructureData
    from aiida.plugins import CalculationFactory
    from ase import Atoms
    from ase.data import atomic_numbers

    from aiida_mlipal.workflows.checks import find_pseudo_family

    try:
        pseudos = find_pseudo_family(family or _any_family(), [])
    except ValueError as exception:
        return Finding(what=code.full_label, found='no pseudopotential to run with', mend=str(exception))
    element = min(pseudos.elements, key=lambda symbol: atomic_numbers[symbol])
    kpoints = KpointsData()
    kpoints.set_kpoints_mesh([1, 1, 1])
    system = {'ecutwfc': 15.0, 'ecutrho': 120.0, 'occupations': 'smearing', 'degauss': 0.02}
    parameters = {'CONTROL': {'calculation': 'scf'}, 'SYSTEM': system, 'ELECTRONS': {'conv_thr': 1e-5}}
    node = _run(
        CalculationFactory('quantumespresso.pw'),
        code,
        _serial(options),
        structure=StructureData(ase=Atoms(element, cell=[4.0, 4.0, 4.0], pbc=True)),
        pseudos={element: pseudos.get_pseudo(element)},
        kpoints=kpoints,
        parameters=Dict(parameters),
    )
    if not node.is_finished_ok:
        advice = (
            f'Try `{code.filepath_executable}` by hand on {code.computer.label}; '
            'as root a parallel pw.x needs `withmpi: false`.'
        )
        return _failure(node, code.full_label, advice)
    results = node.outputs.output_parameters.get_dict()
    version = results.get('creator_version', '?')
    return Finding(what=code.full_label, found=f'pw.x {version}; energy of a test cell {results["energy"]:.6f} eV')


def _serial(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a stage without its resources: a test cell has too few bands for many ranks."""
    return {name: value for name, value in options.items() if name != 'resources'}


def _check_cp2k(code: AbstractCode, options: Mapping[str, Any], _: str | None) -> Finding:
    """Version and one energy from CP2K: a hydrogen molecule with xTB, which needs no basis set."""
    import re

    from aiida.common.exceptions import EntryPointError
    from aiida.orm import Dict, StructureData
    from aiida.plugins import CalculationFactory
    from ase import Atoms

    try:
        calculation = CalculationFactory('cp2k')
    except EntryPointError:
        mend = "Install the plugin with `pip install 'aiida-mlipal[cp2k]'`, then `verdi daemon restart`."
        return Finding(what=code.full_label, found='aiida-cp2k is missing', mend=mend)
    atoms = Atoms('H2', positions=[[3.0, 3.0, 2.6], [3.0, 3.0, 3.4]], cell=[6.0, 6.0, 6.0], pbc=True)
    dft = {'QS': {'METHOD': 'XTB', 'XTB': {'DO_EWALD': True}}, 'SCF': {'OT': {'PRECONDITIONER': 'FULL_SINGLE_INVERSE'}}}
    parameters = {'GLOBAL': {'RUN_TYPE': 'ENERGY'}, 'FORCE_EVAL': {'METHOD': 'QUICKSTEP', 'DFT': dft}}
    node = _run(calculation, code, _serial(options), structure=StructureData(ase=atoms), parameters=Dict(parameters))
    if not node.is_finished_ok:
        advice = (
            f'Try `{code.filepath_executable}` by hand on {code.computer.label}; '
            'as root a parallel CP2K needs `withmpi: false`.'
        )
        return _failure(node, code.full_label, advice)
    version = re.search(r'CP2K version\s+(\S+)', node.outputs.retrieved.base.repository.get_object_content('aiida.out'))
    energy = node.outputs.output_parameters['energy']
    found = f'CP2K {version[1] if version else "?"}; energy of a test molecule {energy:.6f} hartree'
    return Finding(what=code.full_label, found=found)


def _any_family() -> str | None:
    from aiida.orm import QueryBuilder
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    found: str | None = QueryBuilder().append(PseudoPotentialFamily, project='label').first(flat=True)
    return found
