"""Data node for what one model or committee says of many frames."""

from __future__ import annotations

from typing import Any

from aiida.orm.pydantic import OrmMetadataField

from aiida_mlipal.data.base import ColumnsData, plain
from aiida_mlipal.science.evaluation import Evaluation

__all__ = ('EvaluationData',)


class EvaluationData(ColumnsData):
    """Predictions for the frames of one :class:`ConfigurationsData`, row by row, keyed by ``frame_id``.

    :param evaluation: the predictions.
    :param model_sha256: digest of the model they come from (:attr:`MlipModelData.digest`).
    """

    COLUMNS = tuple(Evaluation.schema())

    class AttributesModel(ColumnsData.AttributesModel):
        """Queryable attributes."""

        n_frames: int = OrmMetadataField(description='Number of frames')
        n_members: int = OrmMetadataField(description='Number of committee members')
        descriptor_size: int = OrmMetadataField(description='Number of descriptor components per frame')
        model_sha256: str = OrmMetadataField(description='Digest of the model or committee')
        max_uncertainty: float | None = OrmMetadataField(
            None, description='Largest force uncertainty of all frames in eV/Å; none for a single model'
        )

    def __init__(self, evaluation: Evaluation, model_sha256: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(evaluation, Evaluation):
            raise TypeError(f'expected an Evaluation, got {type(evaluation).__name__}.')
        self._set_columns(evaluation.columns())
        self.base.attributes.set_many(
            {
                'n_frames': len(evaluation),
                'n_members': evaluation.member_energy.shape[1],
                'descriptor_size': evaluation.descriptors.shape[1],
                'model_sha256': model_sha256,
                'max_uncertainty': plain(evaluation.max_forces_std.max()) if len(evaluation) else None,
            }
        )

    @property
    def evaluation(self) -> Evaluation:
        """The predictions, bit for bit as they were given (read once from a stored node).

        :raises ValueError: if a newer version of the plugin wrote this node.
        """
        if self._content is None or not self.is_stored:
            self._content = Evaluation.from_columns(self._get_columns())
        content: Evaluation = self._content
        return content

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.base.attributes.get('n_frames'))

    @property
    def n_members(self) -> int:
        """Number of committee members."""
        return int(self.base.attributes.get('n_members'))

    @property
    def model_sha256(self) -> str:
        """Digest of the model or committee."""
        return str(self.base.attributes.get('model_sha256'))

    def get_description(self) -> str:
        """Return a short description, shown by ``verdi``."""
        return f'{self.n_frames} frames by {self.n_members} member(s)'

    def _validate(self) -> bool:
        super()._validate()
        get, shape = self.base.attributes.get, self.get_shape
        n_frames, n_members, size = get('n_frames'), get('n_members'), get('descriptor_size')
        digest = get('model_sha256')
        self._expect(
            [
                (shape('frame_id') == (n_frames,), f'n_frames is {n_frames}, column frame_id is {shape("frame_id")}.'),
                (
                    shape('member_energy') == (n_frames, n_members),
                    f'member_energy must have shape {(n_frames, n_members)}, got {shape("member_energy")}.',
                ),
                (
                    shape('descriptors') == (n_frames, size),
                    f'descriptors must have shape {(n_frames, size)}, got {shape("descriptors")}.',
                ),
                (n_members > 0, 'an evaluation needs at least one member.'),
                (
                    isinstance(digest, str) and digest != '',
                    f'model_sha256 must be the `digest` of a MlipModelData, got {digest!r}.',
                ),
            ]
        )
        return True
