"""Data node for many atomic frames in columns: seeds, candidate pools and labelled datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from aiida.orm.pydantic import OrmMetadataField

from aiida_mlipal.data.base import ColumnsData, plain
from aiida_mlipal.science import level_of_theory as levels
from aiida_mlipal.science.configurations import STATUSES, Configurations

__all__ = ('MAX_LISTED_FRAMES', 'ConfigurationsData')

#: Nodes with at most so many frames (label chunks) list identities and statuses as queryable attributes.
MAX_LISTED_FRAMES: Final = 64


class ConfigurationsData(ColumnsData):
    """Many frames in one node, with the level of theory of their labels. Equal content gives an equal hash.

    :param configurations: the frames.
    :param level_of_theory: what the labels were computed with, ``None`` for frames without labels.
    """

    COLUMNS = tuple(Configurations.schema())

    class AttributesModel(ColumnsData.AttributesModel):
        """Queryable attributes."""

        n_frames: int = OrmMetadataField(description='Number of frames')
        n_total_atoms: int = OrmMetadataField(description='Number of atoms in all frames')
        elements: list[str] = OrmMetadataField(description='Chemical symbols present, by atomic number')
        n_labelled: int = OrmMetadataField(description='Number of frames with an accepted label')
        n_rejected: int = OrmMetadataField(description='Number of frames whose label was rejected')
        n_unlabelled: int = OrmMetadataField(description='Number of frames without a label')
        roles: dict[str, int] = OrmMetadataField(description='Number of frames per role')
        level_of_theory: dict[str, Any] | None = OrmMetadataField(None, description='Level of theory of the labels')
        level_of_theory_hash: str = OrmMetadataField('', description='Hash of the level of theory, empty for none')
        frame_ids: list[str] | None = OrmMetadataField(
            None, description=f'Identities of the frames, if there are at most {MAX_LISTED_FRAMES}'
        )
        statuses: list[str] | None = OrmMetadataField(
            None, description=f'Statuses of the frames, if there are at most {MAX_LISTED_FRAMES}'
        )

    def __init__(
        self, configurations: Configurations, level_of_theory: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(configurations, Configurations):
            raise TypeError(
                f'expected Configurations, got {type(configurations).__name__}; '
                'for ASE frames type `ConfigurationsData(Configurations.from_atoms(frames))`.'
            )
        self._set_columns(configurations.columns())
        theory = None if level_of_theory is None else plain(levels.canonical(level_of_theory))
        listed = len(configurations) <= MAX_LISTED_FRAMES
        status = configurations.status.tolist()
        self.base.attributes.set_many(
            {
                'n_frames': len(configurations),
                'n_total_atoms': len(configurations.numbers),
                'elements': configurations.elements,
                **{f'n_{name}': status.count(name) for name in STATUSES},
                'roles': dict(Counter(configurations.role.tolist())),
                'level_of_theory': theory,
                'level_of_theory_hash': '' if theory is None else levels.digest(theory),
                'frame_ids': configurations.frame_id.tolist() if listed else None,
                'statuses': status if listed else None,
            }
        )

    @property
    def configurations(self) -> Configurations:
        """The frames, bit for bit as they were given (read once from a stored node).

        :raises ValueError: if a newer version of the plugin wrote this node.
        """
        if self._content is None or not self.is_stored:
            self._content = Configurations.from_columns(self._get_columns())
        content: Configurations = self._content
        return content

    @property
    def n_frames(self) -> int:
        """Number of frames."""
        return int(self.base.attributes.get('n_frames'))

    @property
    def level_of_theory(self) -> dict[str, Any] | None:
        """What the labels were computed with."""
        theory: dict[str, Any] | None = self.base.attributes.get('level_of_theory')
        return theory

    @property
    def level_of_theory_hash(self) -> str:
        """Hash of the level of theory, empty if there is none."""
        return str(self.base.attributes.get('level_of_theory_hash'))

    def get_description(self) -> str:
        """Return a short description, shown by ``verdi``."""
        attributes = self.base.attributes
        return (
            f'{self.n_frames} frames of {"-".join(attributes.get("elements"))}, {attributes.get("n_labelled")} labelled'
        )

    def _validate(self) -> bool:
        super()._validate()
        get, shape = self.base.attributes.get, self.get_shape
        n_frames, n_total, theory = get('n_frames'), get('n_total_atoms'), get('level_of_theory')
        expected_hash = '' if theory is None else levels.digest(theory)
        listed = n_frames if n_frames <= MAX_LISTED_FRAMES else None
        self._expect(
            [
                (shape('frame_id') == (n_frames,), f'n_frames is {n_frames}, column frame_id is {shape("frame_id")}.'),
                (shape('numbers') == (n_total,), f'n_total_atoms is {n_total}, column numbers is {shape("numbers")}.'),
                (sum(get(f'n_{name}') for name in STATUSES) == n_frames, 'the counts of statuses do not add up.'),
                (sum(get('roles').values()) == n_frames, 'the counts of roles do not add up.'),
                (get('level_of_theory_hash') == expected_hash, 'the hash of the level of theory is not its own.'),
                *(
                    ((None if get(key) is None else len(get(key))) == listed, f'`{key}` does not list {listed} frames.')
                    for key in ('frame_ids', 'statuses')
                ),
            ]
        )
        return True
