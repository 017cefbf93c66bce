"""The commands that read a graph, and what they say when they cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ase.build import bulk
from click.testing import CliRunner, Result

from aiida_mlipal.cli import COMMANDS, main
from tests.report.campaign_graph import controlled_campaign, finished_campaign, running_campaign


def run(*arguments: object) -> Result:
    """Run `aiida-mlipal` with these arguments."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_lists_all_commands() -> None:
    text = run('--help').output
    assert [
        line.split()[0] for line in text.splitlines() if line.startswith('  ') and line.split()[0] in COMMANDS
    ] == list(COMMANDS)


@pytest.mark.parametrize('name', COMMANDS)
def test_help_of_every_command(name: str) -> None:
    result = run(name, '--help')
    assert result.exit_code == 0
    assert '--help' in result.output


def test_misspelt_command() -> None:
    result = run('statsu')
    assert result.exit_code == 2
    assert 'status' in result.output


def test_status_of_running() -> None:
    node = running_campaign()
    result = run('status', node.pk)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith(f'campaign {node.pk}: waiting')
    assert 'iteration  2 of at most 2' in lines
    assert 'stage      labelling' in lines
    assert '3/6 of this round' in result.output
    assert '26/60 labels, 34 left' in result.output
    assert 'rejected   1: PwBaseWorkChain failed' in lines
    assert 'attempts   2 beyond the first, at 1 label' in lines
    assert re.search(
        r'cost       .* of core time for 21 new labels, 9 s each; about 27 s to come in this round', result.output
    )
    assert 'WARNING    the daemon is not running: run `verdi daemon start`.' in lines


def test_status_watch_ends_with_the_campaign() -> None:
    node = finished_campaign()
    result = run('status', node.uuid, '--watch')
    assert result.exit_code == 0
    assert 'finished, budget_iterations' in result.output
    assert 'daemon' not in result.output  # it does not matter any more


@pytest.mark.parametrize('command', ['status', 'report'])
def test_not_a_campaign(command: str) -> None:
    campaign = finished_campaign()
    result = run(command, campaign.outputs.model.pk)
    assert result.exit_code == 1
    assert 'is a MlipModelData, not a campaign' in result.output
    assert str(campaign.pk) in result.output
    assert 'there is no campaign `987654`' in run(command, 987654).output


def test_report(tmp_path: Path) -> None:
    result = run('report', finished_campaign().pk, '-o', tmp_path / 'report.html')
    assert result.exit_code == 0, result.output
    assert result.output.strip() == f'report {tmp_path / "report.html"}'
    assert (tmp_path / 'report.html').read_text().startswith('<!DOCTYPE html>')


def test_report_into_nowhere(tmp_path: Path) -> None:
    result = run('report', finished_campaign().pk, '-o', tmp_path / 'nowhere' / 'report.html')
    assert result.exit_code == 1
    assert 'there is no folder' in result.output


def test_lineage_counts_gaps() -> None:
    """A dataset that a user supplied has no gap; a model whose maker has no inputs recorded has."""
    from aiida.orm import Int

    result = run('lineage', Int(1).store().pk)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == 'lineage: 0 gaps'
    result = run('lineage', finished_campaign().pk)
    assert result.exit_code == (0 if result.output.splitlines()[-1] == 'lineage: 0 gaps' else 1)


def test_status_of_a_campaign_with_a_control_arm() -> None:
    """The finding first, then each arm as any campaign."""
    node = controlled_campaign()
    result = run('status', node.pk)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == f'campaign {node.pk} with a control arm by `random`: finished'
    assert lines[1] == f'finding    {node.outputs.comparison["sentence"]}'
    assert [line for line in lines if line.endswith(':')] == ['campaign:', 'control:']
    assert sum('finished, budget_iterations' in line for line in lines) == 2
    assert str(node.pk) in run('status', node.outputs.comparison.pk).output  # among the campaigns that there are


def test_launch_with_a_control_arm(python_code, tmp_path: Path) -> None:
    """A dry run names the control arm; a method that is none is refused with those that are."""
    bulk('Cu', cubic=True).write(tmp_path / 'cu.cif')
    (tmp_path / 'campaign.yaml').write_text(
        f'structures: [cu.cif]\nlabel: {{engine: ase, code: {python_code.full_label}, calculator: emt}}\n'
        f'train: {{code: {python_code.full_label}}}\n'
    )
    result = run('launch', tmp_path / 'campaign.yaml', '--dry-run', '--control', 'random')
    assert result.exit_code == 0, result.output
    assert 'control    all of it again with selection by `random`; labels are shared' in result.output
    assert 'control' not in run('launch', tmp_path / 'campaign.yaml', '--dry-run').output
    result = run('launch', tmp_path / 'campaign.yaml', '--control', 'randm')
    assert result.exit_code == 1
    assert 'nothing was submitted' in result.output
    assert 'Did you mean `random`?' in result.output


def test_closing_table() -> None:
    from aiida_mlipal.cli.display import closing_table

    node = finished_campaign()
    text = closing_table(node)
    rows = [line.split() for line in text.splitlines() if line.startswith('iteration_')]
    curve = node.outputs.validation['learning_curve']
    frames = node.outputs.dataset.configurations
    n_trained = [int((frames.is_labelled & frames.has_role('train', 'validation')).sum())]
    for name in ('iteration_01', 'iteration_00'):  # none of the labels was rejected
        n_trained.insert(0, n_trained[0] - node.outputs.selections[name].decision.n_selected)
    assert [(row[0], int(row[1])) for row in rows] == [(f'iteration_{i:02d}', n) for i, n in enumerate(n_trained)]
    assert [float(row[2]) for row in rows] == [pytest.approx(1000 * point['force_rmse'], abs=0.06) for point in curve]
    assert 'lattice constant of Cu4: reference 3.5' in text
    assert 'evidence: 4 test and 4 calibration frames' in text
    assert 'decision: budget_iterations' in text


def test_schema() -> None:
    result = run('launch', '--schema')
    assert result.exit_code == 0
    assert json.loads(result.output)['title'] == 'Campaign'


def test_launch_without_file() -> None:
    result = run('launch')
    assert result.exit_code == 2
    assert '`aiida-mlipal quickstart` writes an example' in result.output


def test_launch_refuses_before_submission(tmp_path: Path) -> None:
    (tmp_path / 'campaign.yaml').write_text('structures: [a.cif]\nlabell: {}\n')
    result = run('launch', tmp_path / 'campaign.yaml')
    assert result.exit_code == 1
    assert 'nothing was submitted' in result.output
    assert 'Did you mean `label`?' in result.output
