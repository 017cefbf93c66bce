"""Data node for one decision: what happened to every candidate, and why."""

from __future__ import annotations

from typing import Any, Final

from aiida.orm.pydantic import OrmMetadataField

from aiida_mlipal.data.base import ColumnsData, plain
from aiida_mlipal.science.decision import Decision

__all__ = ('SelectionData',)

#: Attributes that make up a decision together with its columns; the others are derived from the columns.
_GIVEN: Final = ('method', 'seed', 'iteration', 'thresholds', 'settings', 'notes')
_DERIVED: Final = ('n_selected', 'n_stream', 'counts', 'quantiles')


class SelectionData(ColumnsData):
    """One decision, with a row for EVERY candidate, so that "why not this one?" has an answer.

    :param decision: what :func:`aiida_mlipal.science.selection.decide` returned.
    :param uncertain_share: share of the visited (not only the kept) frames that were uncertain, 0 to 1; ``None`` if
        no thresholds were known yet.
    """

    COLUMNS = ('frame_id', 'uncertainty', 'calibrated', 'distance', 'gain', 'klass', 'rank', 'reason')

    class AttributesModel(ColumnsData.AttributesModel):
        """Queryable attributes."""

        method: str = OrmMetadataField(description='Selection method')
        seed: int = OrmMetadataField(description='Seed of every random choice of this decision')
        iteration: int = OrmMetadataField(description='Iteration of the campaign, from 0')
        n_candidates: int = OrmMetadataField(description='Number of candidates, selected or not')
        n_selected: int = OrmMetadataField(description='Number of candidates selected for labelling')
        n_stream: int = OrmMetadataField(
            description='Number of frames of the random stream that are labelled with them'
        )
        thresholds: dict[str, Any] = OrmMetadataField(description='Thresholds that were applied')
        settings: dict[str, Any] | None = OrmMetadataField(None, description='All settings, defaults included')
        notes: list[str] | None = OrmMetadataField(None, description='What was out of the ordinary')
        counts: dict[str, int] = OrmMetadataField(description='Number of candidates per class')
        quantiles: dict[str, Any] = OrmMetadataField(description='Quantiles of the scores')
        uncertain_share: float | None = OrmMetadataField(
            None, description='Share of visited frames that were uncertain'
        )

    def __init__(self, decision: Decision, uncertain_share: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(decision, Decision):
            raise TypeError(f'expected a Decision, got {type(decision).__name__}.')
        self._set_columns(decision.columns())
        self.base.attributes.set_many(
            {
                **{name: plain(getattr(decision, name)) for name in (*_GIVEN, *_DERIVED)},
                'n_candidates': len(decision),
                'uncertain_share': plain(uncertain_share),
            }
        )

    @property
    def decision(self) -> Decision:
        """The decision; its columns are bit for bit as they were given (read once from a stored node).

        :raises ValueError: if a newer version of the plugin wrote this node.
        """
        if self._content is None or not self.is_stored:
            # A node of an earlier version lacks the attributes that came later.
            attributes = self.base.attributes.all
            given = {name: attributes[name] for name in _GIVEN if name in attributes}
            self._content = Decision(**self._get_columns(), **given)
        content: Decision = self._content
        return content

    def get_description(self) -> str:
        """Return a short description, shown by ``verdi``."""
        get = self.base.attributes.get
        return f'iteration {get("iteration")}: {get("n_selected")} of {get("n_candidates")} by {get("method")}'

    def _validate(self) -> bool:
        super()._validate()
        get = self.base.attributes.get
        rows = get('n_candidates')
        share = get('uncertain_share')
        wrong = {name: self.get_shape(name) for name in self.COLUMNS if self.get_shape(name) != (rows,)}
        self._expect(
            [
                (not wrong, f'every column must have {rows} rows, got {wrong}.'),
                (
                    sum(get('counts').values()) == rows,
                    f'the counts {get("counts")} do not add up to {rows} candidates.',
                ),
                (0 <= get('n_selected') <= rows, f'n_selected is {get("n_selected")}, of {rows} candidates.'),
                (share is None or 0 <= share <= 1, f'uncertain_share must be between 0 and 1, got {share}.'),
            ]
        )
        return True
