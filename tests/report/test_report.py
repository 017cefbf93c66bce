"""The report of a finished and of a running campaign."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_mlipal.provenance.control import arms_of
from aiida_mlipal.provenance.labels import LabelCost
from aiida_mlipal.report import write_report
from aiida_mlipal.report.collect import collect
from aiida_mlipal.report.figures import label_costs
from aiida_mlipal.report.pool_figures import drift as draw_drift
from tests.report.campaign_graph import controlled_campaign, finished_campaign, running_campaign


class Page(HTMLParser):
    """Collects identities and resources of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == 'id':
                self.ids.append(str(value))
            if name in ('src', 'href', 'xlink:href') and value and not value.startswith('#'):
                self.resources.append(value)


def test_finished(tmp_path: Path) -> None:
    node = finished_campaign()
    path = tmp_path / 'report.html'
    write_report(node, path)
    text = path.read_text()
    page = Page(text)
    assert page.resources == []  # self-contained
    assert len(page.ids) == len(set(page.ids))
    sections = {'learning', 'decisions', 'errors', 'calibration', 'eos', 'selection', 'drift', 'cost', 'labels'}
    sections |= {'theory', 'software'}
    assert sections <= set(page.ids)
    assert text.count('<svg') == 10
    for point in node.outputs.validation['learning_curve']:
        assert f'{1000 * point["force_rmse"]:.1f}' in text
    (row,) = re.findall(r'<tr>(?:(?!</tr>).)*?the SCF cycle did not converge.*?</tr>', text, flags=re.DOTALL)
    assert [re.sub('<.*?>', '', cell) for cell in re.findall(r'<td.*?</td>', row)][1:] == [
        'train', 'rattle', 'PwCalculation exited with 410: the SCF cycle did not converge', '3', '25.6 s',
    ]  # fmt: skip
    assert '1 rejected: PwCalculation exited with 410: the SCF cycle did not converge' in text
    assert 'electrons' in text[text.index('id="labels"') :]
    assert '<td><code>emt</code></td>' in text
    assert 'mace-torch' in text
    assert node.uuid in text
    assert 'iteration budget spent' in text
    without_figures = re.sub(r'<svg.*?</svg>', '', text, flags=re.DOTALL).replace('<p>None.</p>', '')
    assert re.search(r'\bnan\b', without_figures) is None


def test_record_of_finished() -> None:
    record = collect(finished_campaign())
    assert record.training_sizes == {'iteration_00': 9, 'iteration_01': 15, 'iteration_02': 15 + 6}
    assert record.predictions is not None
    assert record.predictions.model == 'iteration_02'
    assert set(record.predictions.frames.role) == {'calibration', 'test'}
    # The table of errors and the parity plot stand on the same frames.
    errors = record.predictions.evaluation.forces - record.predictions.frames.forces
    last = record.validation['learning_curve'][-1]['force_rmse']
    assert (errors**2).mean() ** 0.5 == pytest.approx(last)
    for selection in record.selections:
        assert len(selection.descriptors) == len(selection.columns['frame_id']) == selection.attributes['n_candidates']
    costs = {cost.stage: cost for cost in record.costs}
    assert costs['labels'].n_jobs == 3
    assert costs['labels'].job_s == pytest.approx(3 * 12.5)
    assert costs['labels'].core_s == pytest.approx(2 * 3 * 12.5)
    assert costs['training'].job_s == pytest.approx(3 * 60)
    assert costs['validation'].n_jobs == 5


def test_calibration_is_shown(tmp_path: Path) -> None:
    """The table of the prospective check holds what the node does, and the figures on test frames are those of it."""
    node = finished_campaign()
    write_report(node, tmp_path / 'report.html')
    text = (tmp_path / 'report.html').read_text()
    section = text[text.index('<section id="calibration">') :]
    section = re.sub(r'<svg.*?</svg>', '', section[: section.index('</section>')], flags=re.DOTALL)
    rows = [
        [re.sub('<.*?>', '', cell) for cell in re.findall(r'<td.*?</td>', row)]
        for row in re.findall(r'<tr>.*?</tr>', section, flags=re.DOTALL)
    ]
    levels = node.outputs.coverage.iteration_01['levels']
    checked = [row for row in rows if row and row[0] == '2']
    assert [row[1] for row in checked] == ['50 %', '68 %', '90 %', '95 %']
    assert checked[0][2] == f'{levels[0]["covered_frames"]} of {levels[0]["n_frames"]}'
    assert checked[3][2] == 'no bound yet'
    assert not any(row and row[0] == '1' for row in rows)  # nothing to test in the first iteration
    (test,) = (row for row in rows if row and row[0] == 'test')
    predictions = collect(node).predictions
    assert predictions is not None
    assert predictions.calibration is not None
    _, expected, errors = predictions.on_test_atoms()
    assert len(expected) == 4 * 4
    share = (abs(errors) <= 0.6744898 * expected[:, None]).mean()
    assert test[7] == f'{100 * share:.0f} %'


def test_costs_of_labels_are_drawn_by_size_or_as_a_distribution() -> None:
    def drawn(sizes: list[float | None]) -> str:
        return label_costs(
            [LabelCost(core_s=2.0 * (size or 1), n_attempts=1, n_electrons=size, n_kpoints=4) for size in sizes]
        )

    assert '4 k-points' in drawn([8.0, 8.0, 16.0, None])
    for alike in ([8.0, 8.0], [None, None]):
        assert 'core time of a label' in drawn(alike)
        assert 'k-points' not in drawn(alike)


def test_running(tmp_path: Path) -> None:
    write_report(running_campaign(), tmp_path / 'report.html')
    text = (tmp_path / 'report.html').read_text()
    assert 'This campaign is still running (labelling)' in text
    assert 'id="eos"' not in text
    assert 'id="errors"' in text
    record = collect(running_campaign())
    assert record.predictions is not None
    assert record.predictions.model == 'iteration_00'
    assert len(record.predictions.frames) == 4


def test_drift_of_each_iteration_is_told(tmp_path: Path) -> None:
    node = finished_campaign()
    record = collect(node)
    assert len(record.drifts) == 2
    for drift in record.drifts:
        assert drift['pool']['n_frames'] == 30
        assert drift['stream']['n_frames'] == 4
        assert sum(drift['pool']['grades'].values()) == 30
        assert 0 <= drift['stream']['outside_share'] <= 1
    path = tmp_path / 'report.html'
    write_report(node, path)
    section = path.read_text().partition('id="drift"')[2].partition('</section>')[0]
    assert section.count('<svg') == 1
    rows = re.findall(r'<tr>(<td.*?)</tr>', section)
    assert len(rows) == 2
    assert f'{100 * record.drifts[0]["pool"]["outside_share"]:.0f} %' in rows[0]
    assert ', '.join(str(count) for count in record.drifts[1]['pool']['grades'].values()) in rows[1]


def test_drift_is_drawn_by_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shares outside of pool and stream as they are, grades stacked to the whole pool; gaps where nothing is known."""
    unknown = {'pool': {'n_frames': 0, 'n_training': 9}, 'stream': {'n_frames': 0, 'n_training': 9}}
    known = [entry for entry in collect(finished_campaign()).drifts if entry['stream']['n_frames']]
    monkeypatch.setattr('aiida_mlipal.report.figures.to_svg', lambda figure, _: figure)
    figure: Any = draw_drift([unknown, *known])
    shares, bars = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in shares.lines}
    for name, label in (('pool', 'pool'), ('stream', 'random stream')):
        outside = [np.nan, *(100 * entry[name]['outside_share'] for entry in known)]
        expected = list(enumerate(outside, start=1))
        np.testing.assert_allclose(lines[label], expected)
    heights = np.array([[bar.get_height() for bar in container] for container in bars.containers])
    counts = np.array([list(entry['pool']['grades'].values()) for entry in known])
    np.testing.assert_allclose(heights[:, 1:].T, 100 * counts / 30)
    np.testing.assert_array_equal(heights[:, 0], 0)
    tops = [max(bar.get_y() + bar.get_height() for bar in column) for column in zip(*bars.containers, strict=True)]
    np.testing.assert_allclose(tops, [0, *[100] * len(known)])


def test_with_a_control_arm(tmp_path: Path) -> None:
    """The pair and either arm have a section with the finding; a campaign without a control arm has none."""
    node = controlled_campaign()
    comparison = node.outputs.comparison.get_dict()
    arms = arms_of(node)
    for number, found in enumerate((node, *arms.values())):
        path = tmp_path / f'{number}.html'
        write_report(found, path)
        text = path.read_text()
        assert 'control' in Page(text).ids
        assert comparison['sentence'] in text
        for points in comparison['arms'].values():
            assert all(f'{1000 * point["force_rmse"]:.1f}' in text for point in points)
    assert collect(node).uuid == arms['campaign'].uuid
    write_report(finished_campaign(), tmp_path / 'plain.html')
    assert 'control' not in Page((tmp_path / 'plain.html').read_text()).ids
