"""What the commands print of a campaign: its state, and the table at its end. Plain text, aligned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiida.orm import WorkChainNode

    from aiida_mlipal.provenance.status import CampaignStatus
    from aiida_mlipal.provenance.training_progress import MemberProgress, TrainingProgress

__all__ = ('bar', 'closing_table', 'controlled_text', 'duration', 'status_text', 'table', 'training_lines')

WIDTH = 28
#: Reasons of rejected labels that are shown one by one.
MAX_REASONS = 4


def bar(done: int, total: int) -> str:
    """Return a progress bar such as ``[#######---] 7/10``."""
    share = min(1.0, done / total) if total else 0.0
    filled = round(share * WIDTH)
    return f'[{"#" * filled}{"-" * (WIDTH - filled)}] {done}/{total}'


def duration(seconds: float) -> str:
    """Return a duration as ``45 s``, ``12 min``, ``3 h 05 min`` or ``2 d 04 h``."""
    if seconds < 100:
        return f'{seconds:.0f} s'
    minutes = int(seconds // 60)
    if minutes < 60:
        return f'{minutes} min'
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02d} min' if hours < 48 else f'{hours // 24} d {hours % 24:02d} h'


def table(rows: Sequence[Sequence[object]]) -> str:
    """Return ``rows`` (the first is the header) in aligned columns, text to the left, numbers to the right."""
    texts = [['-' if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(texts[0]))]
    numeric = [all(isinstance(row[column], (int, float)) for row in rows[1:]) for column in range(len(rows[0]))]
    lines = [
        '  '.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in texts
    ]
    return '\n'.join([lines[0], '  '.join('-' * width for width in widths), *lines[1:]])


def milli(value: float | None, digits: int = 1) -> str:
    """Return an error in thousandths (meV, meV/Å), a dash where there is none."""
    return '-' if value is None else f'{1000 * value:.{digits}f}'


def status_text(status: CampaignStatus, training: Sequence[TrainingProgress] = (), problems: Sequence[str] = ()) -> str:
    """Return the state of a campaign, a few lines.

    :param training: the jobs that train now.
    :param problems: what is wrong with daemon or broker.
    """
    outcome = f', {status.last["outcome"]}' if status.last and not status.is_active else ''
    failed = '' if status.exit_status in (None, 0) else f' with exit status {status.exit_status}'
    lines = [f'campaign {status.pk}: {status.state}{failed}{outcome}, for {duration(status.elapsed_s)}']
    if status.exit_message:
        lines.append(f'           {status.exit_message}')
    limit = status.budget.get('max_iterations')
    iteration = 'before the first' if status.iteration < 0 else f'{status.iteration + 1}'
    lines.append(f'iteration  {iteration}' + (f' of at most {limit}' if limit else ''))
    if status.is_active:
        lines.append(f'stage      {", ".join(status.stages) or "between two stages"}')
    counts = status.labels
    lines.append(
        f'labels     {counts.done} done, {counts.failed} failed, {counts.running} running, {counts.waiting} waiting'
    )
    if status.stage_labels.total:
        now = status.stage_labels
        lines.append(f'           {bar(now.done + now.failed, now.total)} of this round')
    lines += _label_lines(status)
    lines += [line for job in training for line in training_lines(job)]
    if status.last:
        lines += _error_lines(status.last)
    lines += [f'ALARM      {alarm}' for alarm in status.alarms]
    lines += [f'budget     {line}' for line in _budget_lines(status)]
    lines += [f'failed     {line}' for line in status.failures]
    lines += [f'WARNING    {problem}' for problem in problems]
    return '\n'.join(lines)


def training_lines(job: TrainingProgress) -> list[str]:
    """Return how far a training job is: one line for the job, one for each member that can be seen."""
    words = [f'job {job.pk} on `{job.computer}`']
    if job.attempt > 1:
        words.append(f'attempt {job.attempt} (the one before: {job.restarted})')
    if job.state:
        words.append(job.state)
    return [f'training   {", ".join(words)}', *(f'{member.member}  {_member(member)}' for member in job.members)]


def _member(member: MemberProgress) -> str:
    if member.state == 'waiting':
        return 'waiting for its turn'
    if member.state == 'starting':
        return 'starting'
    words = [f'{bar(member.epoch, member.max_epochs)} epochs']
    if member.loss is not None and member.best_loss is not None:
        words.append(f'loss {member.loss:.3g} (best {member.best_loss:.3g})')
    words.append(f'force RMSE {milli(member.force_rmse)} meV/Å')
    if member.left_s is not None:
        words.append(f'about {duration(member.left_s)} left')
    elif member.state != 'training':
        words.append(member.state)
    return ', '.join(words)


def _label_lines(status: CampaignStatus) -> list[str]:
    """Return why labels were rejected, how many needed more than one attempt, and what they cost."""
    lines = []
    for reason, count in status.rejections[:MAX_REASONS]:
        lines.append(f'rejected   {count}: {shorten(reason, 100, placeholder=" ...")}')
    left = status.rejections[MAX_REASONS:]
    if left:
        lines.append(f'           and {sum(count for _, count in left)} for {len(left)} other reasons')
    again = [cost.n_attempts - 1 for cost in status.costs if cost.n_attempts > 1]
    if again:
        labels = 'label' if len(again) == 1 else 'labels'
        lines.append(f'attempts   {sum(again)} beyond the first, at {len(again)} {labels}')
    if status.costs:
        total = sum(cost.core_s for cost in status.costs)
        mean = total / len(status.costs)
        line = f'cost       {duration(total)} of core time for {len(status.costs)} new labels, {duration(mean)} each'
        left_over = status.stage_labels.running + status.stage_labels.waiting
        lines.append(line + (f'; about {duration(mean * left_over)} to come in this round' if left_over else ''))
    return lines


def _error_lines(decision: dict[str, Any]) -> list[str]:
    errors, targets = decision.get('errors') or {}, decision.get('targets') or {}
    share = decision.get('uncertain_share')
    lines = [
        f'errors     force RMSE {milli(errors.get("force_rmse"))} meV/Å '
        f'(at most {milli(errors.get("force_rmse_upper"))}, target {milli(targets.get("force_rmse"))}), '
        f'energy MAE {milli(errors.get("energy_mae"), 2)} meV/atom '
        f'(at most {milli(errors.get("energy_mae_upper"), 2)}, target {milli(targets.get("energy_mae_per_atom"), 2)})',
        f'           on {errors.get("n_frames", 0)} test frames after iteration {decision["iteration"] + 1}',
    ]
    if share is not None:
        lines.append(f'uncertain  {share:.0%} of visited frames, target {targets.get("uncertain_share", 0):.0%}')
    return lines


def _budget_lines(status: CampaignStatus) -> list[str]:
    """Return what is left of each budget that has a limit."""
    lines = []
    limit = status.budget.get('max_labels')
    if limit:
        lines.append(f'{bar(status.paid_labels, limit)} labels, {max(0, limit - status.paid_labels)} left')
    limit = status.budget.get('max_iterations')
    if limit:
        done = len(status.decisions)
        lines.append(f'{bar(done, limit)} iterations, {max(0, limit - done)} left')
    limit = status.budget.get('max_wall_time_s')
    if limit:
        lines.append(f'{duration(status.elapsed_s)} of {duration(limit)}')
    return lines


def controlled_text(node: WorkChainNode, arms: Mapping[str, WorkChainNode], comparison: Mapping[str, Any]) -> str:
    """Return the state of a campaign with a control arm, above that of its arms; once it has ended, its finding."""
    state = node.process_state.value if node.process_state else 'created'
    lines = [f'campaign {node.pk} with a control arm by `{node.inputs.control.value}`: {state}']
    if node.exit_message:
        lines.append(f'           {node.exit_message}')
    if comparison:
        lines.append(f'finding    {comparison["sentence"]}')
    elif not node.is_terminated:
        todo = {0: 'starting', 1: 'the campaign itself, then its control arm', 2: 'the control arm'}[len(arms)]
        done = len(arms) == 2 and all(arm.is_terminated for arm in arms.values())
        lines.append(f'stage      {"comparing both arms on the same frames" if done else todo}')
    return '\n'.join(lines)


def closing_table(node: WorkChainNode) -> str:
    """Return what a campaign ended with: learning curve, lattice constants, evidence, decision; of each arm."""
    from aiida_mlipal.provenance.control import CONTROLLED, arms_of, comparison_of

    if node.process_label != CONTROLLED:
        return _closing_table(node)
    arms = arms_of(node)
    texts = [f'{name}:\n{_closing_table(arm)}' for name, arm in arms.items()]
    return '\n\n'.join([*texts, controlled_text(node, arms, comparison_of(node))])


def _closing_table(node: WorkChainNode) -> str:
    from aiida_mlipal.provenance.processes import called_by
    from aiida_mlipal.provenance.status import committees_of, training_sizes

    if 'validation' not in node.outputs:
        return f'campaign {node.pk} has no validation: {node.exit_message or node.process_state}'
    validation = node.outputs.validation.get_dict()
    decision = node.outputs.decision.get_dict() if 'decision' in node.outputs else {}
    sizes = training_sizes(committees_of(called_by(node)))
    rows: list[list[object]] = [['model', 'labels', 'force RMSE (meV/Å)', 'energy RMSE (meV/atom)']]
    for point in validation['learning_curve']:
        rows.append(
            [
                point['model'],
                sizes.get(point['model']),
                float(f'{1000 * point["force_rmse"]:.1f}'),
                float(f'{1000 * point["energy_rmse_per_atom"]:.2f}'),
            ]
        )
    lines = [table(rows)]
    curve = [point['force_rmse'] for point in validation['learning_curve']]
    if len(curve) > 1:
        lines.append(f'last force RMSE: {curve[-1] / curve[0]:.0%} of the first')
    for entry in validation['eos']:
        model, teacher = entry['model'], entry.get('teacher')
        if teacher:
            lines.append(
                f'lattice constant of {entry["formula"]}: reference {teacher["a0"]:.4f} Å, model {model["a0"]:.4f} Å, '
                f'deviation {entry["deviation_percent"]:+.2f} %'
            )
    lines.append(
        f'evidence: {validation["n_test_frames"]} test and {validation["n_calibration_frames"]} calibration frames, '
        f'drawn at random from {validation["n_trajectories"]} trajectories'
    )
    if decision:
        lines.append(f'decision: {decision["outcome"]} ({" ".join(decision["reasons"])})')
    return '\n'.join(lines)
