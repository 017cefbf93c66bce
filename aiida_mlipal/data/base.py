"""What the Data nodes of this plugin share: a schema version, and numpy columns in one file of the repository."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final

from aiida import orm
from aiida.common.exceptions import ValidationError
from aiida.orm.implementation.utils import clean_value
from aiida.orm.pydantic import OrmMetadataField
from numpy.typing import NDArray

from aiida_mlipal.science.columns import column_names, pack, unpack
from aiida_mlipal.science.plain import to_plain

__all__ = ('SCHEMA_VERSION', 'ColumnsData', 'check_schema', 'plain')

#: Version of the layout of all nodes of this plugin. When it grows, :func:`check_schema` is where old nodes are read.
SCHEMA_VERSION: Final = 4
#: From this version on the columns are members of one file; before, each was a file of its own.
_ONE_FILE_SINCE: Final = 3


def check_schema(node: orm.Data) -> None:
    """Make sure that this version of the plugin can read ``node``.

    :raises ValueError: if a newer version of the plugin wrote it.
    """
    found = node.base.attributes.get('schema_version', None)
    if not isinstance(found, int) or found < 1:
        raise ValueError(
            f'{type(node).__name__}<{node.pk}> has schema version {found!r}, expected 1..{SCHEMA_VERSION}.'
        )
    if found > SCHEMA_VERSION:
        raise ValueError(
            f'{type(node).__name__}<{node.pk}> has schema version {found}, but this aiida-mlipal reads up to version '
            f'{SCHEMA_VERSION}: upgrade aiida-mlipal, `pip install --upgrade aiida-mlipal`.'
        )


def plain(value: Any) -> Any:
    """Return ``value`` as AiiDA stores it in an attribute: builtin types, floats with 14 significant digits.

    NaN and infinity, which no database takes, become ``None``. Applying it twice changes nothing, so that what is
    derived from an attribute (a hash) is the same before and after the node is stored.
    """
    return clean_value(to_plain(value))


class ColumnsData(orm.ArrayData):
    """Base of the nodes that hold one science object in columns, all in one uncompressed ``.npz`` file.

    Equal content gives equal bytes, and so an equal hash, whatever the memory layout of the arrays it came from.
    AiiDA's own layout, one file per array, costs several queries per file: for nodes of few frames nearly all the time.
    """

    #: Name of the file in the repository.
    FILE: Final = 'columns.npz'

    #: Names of all columns that a node of this class must have.
    COLUMNS: ClassVar[tuple[str, ...]] = ()

    class AttributesModel(orm.ArrayData.AttributesModel):
        """Queryable attributes."""

        schema_version: int = OrmMetadataField(description='Version of the layout of this node')

    def initialize(self) -> None:
        """Set up the cache of the science object; AiiDA calls this for new and for loaded nodes."""
        super().initialize()
        self._content: Any = None

    def _set_columns(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Write all columns (canonical ones: see :func:`aiida_mlipal.science.columns.canonical`)."""
        shapes = {f'{self.array_prefix}{name}': list(column.shape) for name, column in columns.items()}
        self.base.attributes.set_many({'schema_version': SCHEMA_VERSION, **shapes})
        self.base.repository.put_object_from_bytes(pack(columns), self.FILE)

    def _get_columns(self) -> dict[str, Any]:
        """Read all columns.

        :raises ValueError: if a newer version of the plugin wrote this node.
        """
        check_schema(self)
        if self.is_one_file:
            return unpack(self._content_of_file())
        stored = set(self.get_arraynames())  # a node of an earlier version lacks the columns that came later
        columns = {name: self.get_array(name) for name in self.COLUMNS if name in stored}
        self.clear_internal_cache()  # the science object is what is cached, not its arrays a second time
        return columns

    @property
    def is_one_file(self) -> bool:
        """Whether all columns are in :attr:`FILE`, as in every node but the oldest."""
        version: int = self.base.attributes.get('schema_version')
        return version >= _ONE_FILE_SINCE

    def _content_of_file(self) -> bytes:
        content: bytes = self.base.repository.get_object_content(self.FILE, mode='rb')
        return content

    def get_array(self, name: str | None = None) -> NDArray[Any]:
        """Return one column; the others are not unpacked.

        :raises KeyError: if there is no column ``name``.
        """
        if name is None or not self.is_one_file:
            column: NDArray[Any] = super().get_array(name)
            return column
        (column,) = unpack(self._content_of_file(), [name]).values()
        return column

    def _arraynames_from_files(self) -> list[str]:
        """Return the names of the columns in the file; AiiDA compares them with the attributes."""
        return column_names(self._content_of_file()) if self.is_one_file else super()._arraynames_from_files()

    def _expect(self, conditions: Iterable[tuple[bool, str]]) -> None:
        """Raise the message of the first condition that does not hold.

        :raises ValidationError: with that message.
        """
        for holds, message in conditions:
            if not holds:
                raise ValidationError(f'{type(self).__name__}: {message}')

    def _validate(self) -> bool:
        """Check the schema version and that the columns are the declared ones. Called by ``store``."""
        try:
            check_schema(self)
        except ValueError as exception:
            raise ValidationError(str(exception)) from exception
        super()._validate()
        found, expected = set(self.get_arraynames()), set(self.COLUMNS)
        self._expect(
            [
                (not expected - found, f'columns {sorted(expected - found)} are missing.'),
                (not found - expected, f'unknown columns {sorted(found - expected)}; expected {list(self.COLUMNS)}.'),
            ]
        )
        return True
