"""What a decision said of a frame, and all that became of it, as values and in sentences."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aiida_mlipal.science.plain import to_plain

__all__ = ('FrameStory', 'Label', 'Origin', 'SelectionSummary', 'Verdict', 'Window')


@dataclass(frozen=True, kw_only=True)
class Window:
    """A trust window, and where it comes from. Energies and forces in eV and Å."""

    thresholds: dict[str, float]
    calibration: int | None  #: PK
    n_frames: int  #: it was fitted on
    frame_ids: list[str]  #: of those

    def sentence(self) -> str:
        """Return the window in words."""
        if not self.thresholds:
            return 'There was no trust window: no calibration frames were labelled yet.'
        given = self.thresholds.get('lower_calibrated')
        fallen = '' if given is None else f' (lowered from {given:.3f})'
        return (
            f'The trust window reached from {self.thresholds["lower"]:.3f}{fallen} to {self.thresholds["upper"]:.3f} '
            f'eV/Å, by the calibration {self.calibration} on {self.n_frames} random frames.'
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one decision said of a frame."""

    selection: int  #: PK
    campaign: int | None  #: PK
    iteration: int
    method: str
    klass: str
    reason: str
    rank: int | None  #: order of labelling, from 0
    uncertainty: float | None
    calibrated: float | None  #: eV/Å
    distance: float | None
    gain: float | None
    place: int | None  #: among the candidates that were not taken, by their gain at the end, from 1
    n_candidates: int  #: of those
    n_taken: int
    window: Window

    def sentences(self) -> list[str]:
        """Return the verdict in words."""
        where = f'Iteration {self.iteration} (decision {self.selection}, method `{self.method}`)'
        lines = [f'{where}: {self.klass}. {self.reason}']
        if self.rank is not None:
            lines.append(f'It was number {self.rank + 1} of {self.n_taken} labels.')
        elif self.place is not None:
            lines.append(f'By its score it was number {self.place} of the {self.n_candidates} that were left over.')
        scores = {
            'expected force error': (self.calibrated, ' eV/Å'), 'distance to the training set': (self.distance, ''),
            'gain': (self.gain, ''),
        }  # fmt: skip
        found = [f'{name} {value:.4g}{unit}' for name, (value, unit) in scores.items() if value is not None]
        if found:
            lines.append(f'Its scores: {", ".join(found)}.')
        return [*lines, self.window.sentence()]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a frame comes from."""

    node: int  #: PK of the first node that holds it
    maker: str  #: process that created that node, with its PK
    plan: str
    trajectory: str
    step: int
    temperature: float | None  #: K
    parent: str
    formula: str

    def sentence(self) -> str:
        """Return the origin in words."""
        words = [f'It is {self.formula}, made by {self.maker or "nobody: it was imported"}']
        if self.plan:
            words.append(f'plan or generator `{self.plan}`')
        if self.trajectory:
            words.append(f'trajectory `{self.trajectory}`')
        if self.step >= 0:
            words.append(f'step {self.step}')
        if self.temperature is not None:
            words.append(f'at {self.temperature:g} K')
        if self.parent:
            words.append(f'from the frame {self.parent}')
        return ', '.join(words) + '.'


@dataclass(frozen=True, kw_only=True)
class Label:
    """What became of the label of a frame."""

    node: int  #: PK of the first node that holds it
    calculation: str  #: process that computed it, with its PK
    status: str
    reason: str
    core_s: float | None
    n_attempts: int | None

    def sentence(self) -> str:
        """Return the label in words."""
        text = f'Its label was {"accepted" if self.status == "labelled" else self.status}'
        text += f' ({self.reason})' if self.reason else ''
        text += f', computed by {self.calculation}'
        if self.core_s is not None:
            attempts = '' if self.n_attempts in (None, 1) else f' in {self.n_attempts} attempts'
            text += f', for {self.core_s:.3g} core seconds{attempts}'
        return f'{text}.'


@dataclass(frozen=True, kw_only=True)
class FrameStory:
    """Everything that the graph knows of one frame."""

    frame_id: str
    origin: Origin | None
    decisions: list[Verdict]
    label: Label | None
    datasets: dict[int, str]  #: PK -> role of the frame there
    models: list[int]  #: PKs of the models that were trained on it

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON-safe values."""
        story: dict[str, Any] = to_plain(asdict(self))
        return story

    def to_text(self) -> str:
        """Return everything in sentences."""
        lines = [f'frame {self.frame_id}']
        if self.origin is not None:
            lines.append(self.origin.sentence())
        if not self.decisions:
            lines.append('No decision ever saw it.')
        for verdict in self.decisions:
            lines += ['', *verdict.sentences()]
        lines.append('')
        lines.append('It has no label.' if self.label is None else self.label.sentence())
        held = ', '.join(f'{pk} ({role})' for pk, role in self.datasets.items())
        lines.append(f'Datasets that hold it: {held}.' if held else 'No dataset holds it.')
        models = ', '.join(str(pk) for pk in self.models)
        lines.append(f'Models that were trained on it: {models}.' if models else 'No model was trained on it.')
        return '\n'.join(lines)


@dataclass(frozen=True, kw_only=True)
class SelectionSummary:
    """One decision as a whole."""

    selection: int
    iteration: int
    method: str
    seed: int
    n_candidates: int
    counts: dict[str, int]
    reasons: dict[str, list[tuple[str, int]]]  #: by class, the most frequent first; numbers that differ are `…`
    notes: list[str]
    settings: dict[str, Any]
    window: Window

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON-safe values."""
        summary: dict[str, Any] = to_plain(asdict(self))
        return summary

    def to_text(self) -> str:
        """Return everything in sentences."""
        taken = self.counts['selected']
        lines = [
            f'decision {self.selection}, iteration {self.iteration}: of {self.n_candidates} frames {taken} were '
            f'selected by `{self.method}` with seed {self.seed}.',
            self.window.sentence(),
            *self.notes,
        ]
        for klass, count in self.counts.items():
            if count:
                lines.append(f'{klass:<11}{count}')
                lines += [f'{"":<11}{number} x {reason}' for reason, number in self.reasons[klass]]
        return '\n'.join(lines)
