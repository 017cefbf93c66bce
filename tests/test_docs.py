"""README and documentation: every command exists and runs, every block of code is valid, every page is built."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest
import yaml

from tests.documented import ROOT, Block, Command, blocks, campaign_commands, commands, groups

#: Parsed but not run by any test, and why.
ONLY_PARSED = {
    'verdi computer setup': 'asks questions',
    'aiida-mlipal import vasprun.xml': 'needs that file; tests/cli/test_import.py imports files',
    'aiida-mlipal import replay.extxyz': 'the same',
    'verdi data mlipal model import': 'needs a model file; tests/cli/test_model_import.py imports some',
    'verdi computer configure core.ssh cluster': 'needs a cluster',
    'verdi code create core.code.installed': 'needs that cluster',
    'verdi run examples/silicon.py': 'the integration tests launch the same builder',
    'verdi daemon start': 'the integration tests start the daemon through the API',
    'verdi daemon restart': 'the tests of a killed daemon do',
    'verdi config set daemon.worker_process_slots': 'changes the profile of the tests',
}
#: Words of the shell around our commands.
SHELL = ('source', 'export', 'pip')


def _identify(value: Command | Block) -> str:
    return f'{value.source} {value.text}' if isinstance(value, Command) else value.source


def _parse(words: list[str]) -> None:
    """Walk down the click groups and parse the rest with the last command's own parser. Nothing is run."""
    command, context = groups()[words[0]], None
    rest = words[1:]
    while True:
        context = click.Context(command, info_name=words[0], parent=context)
        values, rest, _ = command.make_parser(context).parse_args(list(rest))
        if not isinstance(command, click.Group):
            break
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, f'no command `{name}`'
        command = found
    assert rest == [], f'unexpected arguments {rest}'
    for argument in command.get_params(context):
        if isinstance(argument, click.Argument) and argument.required:
            assert values.get(argument.name), f'argument `{argument.name}` is missing'


def _make_targets() -> set[str]:
    return set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), re.MULTILINE))


@pytest.mark.parametrize('command', commands(), ids=_identify)
def test_command_is_valid(command):
    """Each documented command exists, with the options that are shown."""
    words = command.words
    if words[0] == 'make':
        assert set(words[1:]) <= _make_targets()
    elif words[0] in groups():
        _parse(words)
    else:
        assert words[0] in SHELL, f'{words[0]} is neither one of our commands nor a word of the shell'


def test_wrong_commands_are_found():
    """The check above can fail."""
    with pytest.raises(click.UsageError):
        _parse(['aiida-mlipal', 'status', 'PK', '--no-such-option'])
    with pytest.raises((click.UsageError, AssertionError)):
        _parse(['aiida-mlipal', 'no-such-command'])
    with pytest.raises((click.UsageError, AssertionError)):
        _parse(['verdi', 'data', 'mlipal', 'model', 'export'])


def test_every_command_is_run():
    """Each documented command is run: by the demo, by the integration test, below, or there is a reason."""
    demo = (ROOT / 'scripts' / 'demo.sh').read_text(encoding='utf-8')
    for command in commands():
        words = command.words
        if words[0] not in groups() or command.needs_campaign or command in COMMANDS_RUN_HERE:
            continue
        in_demo = words[0] == 'aiida-mlipal' and f'run aiida-mlipal {words[1]}' in demo
        assert in_demo or any(command.text.startswith(prefix) for prefix in ONLY_PARSED), command


def test_integration_runs_the_campaign_commands():
    """The commands about a finished campaign are run where there is one."""
    assert campaign_commands()
    sources = [path.read_text(encoding='utf-8') for path in (ROOT / 'tests' / 'integration').glob('test_*.py')]
    assert any('campaign_commands()' in source for source in sources)


#: These need a profile, but nothing in it.
COMMANDS_RUN_HERE = [
    c for c in commands() if re.match(r'verdi (data mlipal \w+ list|process list)|aiida-mlipal harvest --since', c.text)
]


@pytest.mark.parametrize('command', COMMANDS_RUN_HERE, ids=_identify)
def test_command_runs(command, aiida_profile):
    """Commands that list things run on an empty profile too."""
    result = command.invoke()
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize('block', blocks('python'), ids=_identify)
def test_python_is_valid(block):
    """Each block of Python compiles."""
    compile(block.text, block.source, 'exec')


@pytest.mark.parametrize('block', [block for block in blocks('python') if 'reference/' in block.source], ids=_identify)
def test_python_of_the_reference_runs(block, aiida_profile):
    """The examples of the reference need nothing but a profile: they run."""
    exec(compile(block.text, block.source, 'exec'), {})


@pytest.mark.parametrize('block', blocks('yaml'), ids=_identify)
def test_campaign_file_is_valid(block, tmp_path):
    """Each documented campaign file satisfies the schema."""
    from ase.build import bulk

    from aiida_mlipal.workflows.campaign_file import load_campaign

    bulk('Si', cubic=True).write(tmp_path / 'silicon.cif')
    (tmp_path / 'campaign.yaml').write_text(block.text, encoding='utf-8')
    assert isinstance(yaml.safe_load(block.text), dict)
    load_campaign(tmp_path / 'campaign.yaml')


def test_limits_of_a_cluster_are_those_of_the_page(aiida_profile, tmp_path):
    """What the how-to types to spare the login node is where AiiDA looks for it."""
    from aiida.orm import Computer, load_computer

    Computer(
        label='cluster', hostname='localhost', transport_type='core.ssh', scheduler_type='core.slurm',
        workdir=str(tmp_path),
    ).store()  # fmt: skip
    (block,) = [block for block in blocks('python') if 'howto/run_many_labels.md' in block.source]
    exec(compile(block.text, block.source, 'exec'), {})
    computer = load_computer('cluster')
    assert computer.get_minimum_job_poll_interval() == 60
    assert computer.get_transport().get_safe_open_interval() == 30


def test_every_science_module_is_documented():
    """A new module of science gets its place in the reference (or is private to another)."""
    page = (ROOT / 'docs' / 'reference' / 'api.md').read_text(encoding='utf-8')
    internal = {'__init__', 'plain', 'settings', 'training_data', 'training_log'}
    science = ROOT / 'aiida_mlipal' / 'science'
    paths = [path for path in science.rglob('*.py') if path.stem not in internal]
    modules = {'.'.join(path.relative_to(science).with_suffix('').parts) for path in paths}
    assert modules == set(re.findall(r'automodule:: aiida_mlipal\.science\.([\w.]+)', page))


def test_documentation_builds_without_warnings(tmp_path):
    """Sphinx builds all pages, a warning being an error."""
    result = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html', '-d', str(tmp_path / 'doctrees'),
         str(ROOT / 'docs'), str(tmp_path / 'html')],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    page = (tmp_path / 'html' / 'reference' / 'campaign_file.html').read_text(encoding='utf-8')
    assert 'pseudo_family' in page
    assert 'ecutwfc' in page
