"""Data node for a machine-learned interatomic potential: one model, or a committee of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

from aiida import orm
from aiida.common.exceptions import ValidationError
from aiida.orm.pydantic import OrmMetadataField

from aiida_mlipal.data.base import SCHEMA_VERSION, check_schema, plain
from aiida_mlipal.science.heads import MAIN_HEAD

__all__ = ('METADATA', 'OPTIONAL', 'MlipModelData')

#: What the metadata of a model must say: key -> (type, meaning).
METADATA: Final[dict[str, tuple[type | tuple[type, ...], str]]] = {
    'elements': (list, 'chemical symbols the model knows, by atomic number'),
    'r_max': ((float, int), 'cutoff radius in Å'),
    'dtype': (str, "'float32' or 'float64'"),
    'seeds': (list, 'random seed of each member'),
    'level_of_theory_hash': (str, 'hash of the level of theory of the training labels'),
    'software': (dict, 'versions of the programs that trained it'),
    'errors': (dict, 'training and validation errors'),
    'settings_hash': (str, 'hash of the training settings'),
}
#: What it may say besides: a model without it has one head.
OPTIONAL: Final[dict[str, tuple[type | tuple[type, ...], str]]] = {
    'architecture': (dict, 'settings that follow from the weights, for a training that starts from them'),
    'atomic_energies': (dict, 'energies of the atoms in eV by element, of each head'),
    'heads': (dict, 'hash of the level of theory of each head, by its name; the main head is `Default`'),
    'origin': (str, '`imported` for a file of elsewhere, of which nobody knows seeds, errors and settings'),
    'uncertainty': (str, '`llpr` or `heads` for one model whose file tells its uncertainty'),
}
#: Members of one committee must agree in these.
_SHARED: Final = ('elements', 'r_max', 'dtype', 'level_of_theory_hash', 'heads', 'architecture')


def _digest_of(hashes: Sequence[str]) -> str:
    """Return one SHA-256 for a list of SHA-256."""
    return hashlib.sha256(''.join(hashes).encode()).hexdigest()


def _check_metadata(metadata: Mapping[str, Any], n_files: int) -> None:
    """Say what is wrong with ``metadata``, if anything is.

    :raises ValueError: naming every key that is missing, unknown or of the wrong type.
    """
    problems = [f'`{key}` is missing ({METADATA[key][1]})' for key in METADATA if key not in metadata]
    known = METADATA | OPTIONAL
    problems += [f'`{key}` is unknown' for key in metadata if key not in known]
    for key, (kind, meaning) in known.items():
        if key in metadata and not isinstance(metadata[key], kind):
            problems.append(f'`{key}` must be the {meaning}, got {metadata[key]!r}')
    n_seeds = 0 if metadata.get('origin') == 'imported' else n_files
    if not problems and len(metadata['seeds']) != n_seeds:
        problems.append(f'`seeds` must have one entry per file ({n_seeds}), got {len(metadata["seeds"])}')
    if not problems and metadata['dtype'] not in ('float32', 'float64'):
        problems.append(f"`dtype` must be 'float32' or 'float64', got {metadata['dtype']!r}")
    allowed = ('committee',) if n_files > 1 else ('heads', 'llpr', 'none')
    if metadata.get('uncertainty', allowed[-1]) not in allowed:
        found = metadata['uncertainty']
        problems.append(f'`uncertainty` of {n_files} file(s) must be {" or ".join(allowed)}, got {found!r}')
    if problems:
        raise ValueError(f'metadata of the model: {"; ".join(problems)}. Expected keys: {", ".join(METADATA)}.')


class MlipModelData(orm.Data):
    """One model or a committee, with what it takes to trust it. The files are never unpickled here.

    :param files: the model files, one per member: paths, or file objects open for binary reading.
    :param metadata: the keys of :data:`METADATA`, all of them, and of :data:`OPTIONAL` where they apply.
    :raises ValueError: for no files, and for missing, unknown or wrong metadata.
    """

    class AttributesModel(orm.Data.AttributesModel):
        """Queryable attributes."""

        schema_version: int = OrmMetadataField(description='Version of the layout of this node')
        kind: str = OrmMetadataField(description='`member` or `committee`')
        n_members: int = OrmMetadataField(description='Number of members, each of them one file')
        elements: list[str] = OrmMetadataField(description='Chemical symbols the model knows, by atomic number')
        r_max: float = OrmMetadataField(description='Cutoff radius in Å')
        dtype: str = OrmMetadataField(description='Floating-point type: float32 or float64')
        seeds: list[int] = OrmMetadataField(description='Random seed of each member')
        uncertainty: str = OrmMetadataField(
            description='`committee` for the spread of members, `heads` for that of the readouts of one model, `llpr` '
            'for its last-layer prediction rigidity, or `none`'
        )
        level_of_theory_hash: str = OrmMetadataField(description='Hash of the level of theory of the labels')
        heads: dict[str, str] | None = OrmMetadataField(
            None,
            description='Hash of the level of theory of each head, if there are several; `Default` is the main one',
        )
        architecture: dict[str, Any] | None = OrmMetadataField(
            None, description='Settings that follow from the weights; a training that starts from them has these'
        )
        atomic_energies: dict[str, Any] | None = OrmMetadataField(
            None, description='Energies of the atoms in eV by element, of each head, of an imported model'
        )
        origin: str | None = OrmMetadataField(None, description='`imported` for a file of elsewhere')
        software: dict[str, Any] = OrmMetadataField(description='Versions of the programs that trained it')
        sha256: list[str] = OrmMetadataField(description='SHA-256 of each file')
        digest: str = OrmMetadataField(description='SHA-256 over those of the files: the identity of the model')
        errors: dict[str, Any] = OrmMetadataField(description='Training and validation errors')
        settings_hash: str = OrmMetadataField(description='Hash of the training settings')

    def __init__(self, files: Sequence[str | Path | BinaryIO], *, metadata: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(files, (str, Path)) or not files:
            raise ValueError(f'a model needs a list of at least one file, got {files!r}.')
        _check_metadata(metadata, len(files))
        hashes = [self._put_file(source, f'member_{index:02d}.model') for index, source in enumerate(files)]
        self.base.attributes.set_many(
            {
                'uncertainty': 'committee' if len(files) > 1 else 'none',
                **plain(metadata),
                'schema_version': SCHEMA_VERSION,
                'kind': 'member' if len(files) == 1 else 'committee',
                'n_members': len(files),
                'sha256': hashes,
                'digest': _digest_of(hashes),
            }
        )

    def _put_file(self, source: str | Path | BinaryIO, name: str) -> str:
        """Copy one file into the repository and return its SHA-256."""
        content = Path(source).read_bytes() if isinstance(source, (str, Path)) else source.read()
        self.base.repository.put_object_from_bytes(content, name)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def committee(cls, members: Sequence[MlipModelData]) -> Self:
        """Return one (unstored) committee node of several models; call it inside a calcfunction.

        :raises ValueError: for no members, members that disagree in elements, cutoff, dtype or level of theory, or
            two members with the same seed (they would agree everywhere, and the uncertainty would be zero).
        """
        if not members:
            raise ValueError('a committee needs at least one member, got none.')
        if any(member.n_members != 1 for member in members):
            raise ValueError('a committee is made of single models, got a committee among its members.')
        data = [member.base.attributes.all for member in members]
        for key in _SHARED:
            values = [item.get(key) for item in data]
            if any(value != values[0] for value in values):
                raise ValueError(f'members of one committee must agree in `{key}`, got {values}.')
        seeds = [seed for item in data for seed in item['seeds']]
        if len(set(seeds)) != len(seeds):
            raise ValueError(f'members of one committee must have different seeds, got {seeds}.')
        settings = [item['settings_hash'] for item in data]
        programs = sorted({name for item in data for name in item['software']})
        metadata = {
            **{key: data[0][key] for key in _SHARED if key in data[0]},
            **({'uncertainty': data[0]['uncertainty']} if len(data) == 1 else {}),
            'seeds': seeds,
            'software': {
                name: ' | '.join(sorted({str(item['software'].get(name, 'none')) for item in data}))
                for name in programs
            },
            'errors': {f'member_{index:02d}': item['errors'] for index, item in enumerate(data)},
            # A member that was retried with a smaller batch has settings of its own.
            'settings_hash': settings[0] if len(set(settings)) == 1 else _digest_of(settings),
        }
        files = [BytesIO(member.read(name)) for member in members for name in member.member_names]
        node = cls(files, metadata=metadata)
        node.base.attributes.set('kind', 'committee')
        return node

    # -- content -------------------------------------------------------------------------------------------------

    @property
    def member_names(self) -> list[str]:
        """Names of the model files in the repository: ``member_00.model`` and so on."""
        check_schema(self)
        return [f'member_{index:02d}.model' for index in range(self.n_members)]

    def read(self, name: str) -> bytes:
        """Return the content of one model file.

        :raises FileNotFoundError: if there is none of that name.
        """
        return cast(bytes, self.base.repository.get_object_content(name, mode='rb'))

    def open(self, name: str = 'member_00.model') -> AbstractContextManager[BinaryIO]:
        """Open one model file for binary reading, in a ``with`` statement."""
        return cast(AbstractContextManager[BinaryIO], self.base.repository.open(name, mode='rb'))

    def as_path(self) -> AbstractContextManager[Path]:
        """Provide a temporary folder with all model files, in a ``with`` statement."""
        return cast(AbstractContextManager[Path], self.base.repository.as_path())

    @property
    def kind(self) -> str:
        """``member`` or ``committee``."""
        return str(self.base.attributes.get('kind'))

    @property
    def n_members(self) -> int:
        """Number of members."""
        return int(self.base.attributes.get('n_members'))

    @property
    def elements(self) -> list[str]:
        """Chemical symbols the model knows."""
        return list(self.base.attributes.get('elements'))

    @property
    def seeds(self) -> list[int]:
        """Random seed of each member."""
        return list(self.base.attributes.get('seeds'))

    @property
    def sha256(self) -> list[str]:
        """SHA-256 of each model file."""
        return list(self.base.attributes.get('sha256'))

    @property
    def digest(self) -> str:
        """SHA-256 over those of the files: the identity of this model or committee."""
        return str(self.base.attributes.get('digest'))

    @property
    def level_of_theory_hash(self) -> str:
        """Hash of the level of theory of the training labels."""
        return str(self.base.attributes.get('level_of_theory_hash'))

    @property
    def heads(self) -> dict[str, str]:
        """Hash of the level of theory of each head, by its name; the main head is ``Default``."""
        return dict(self.base.attributes.get('heads', None) or {MAIN_HEAD: self.level_of_theory_hash})

    @property
    def architecture(self) -> dict[str, Any]:
        """Settings that follow from the weights; empty for models of earlier versions of this package."""
        return dict(self.base.attributes.get('architecture', None) or {})

    @property
    def main_head(self) -> str | None:
        """The head that the level of theory belongs to, ``None`` if there is only one."""
        heads = self.base.attributes.get('heads', None) or {}
        if len(heads) < 2 or MAIN_HEAD in heads:
            return MAIN_HEAD if len(heads) > 1 else None
        return next(str(name) for name, level in heads.items() if level == self.level_of_theory_hash)

    def get_description(self) -> str:
        """Return a short description, shown by ``verdi``."""
        return f'{self.kind} of {self.n_members} for {"-".join(self.elements)}, {self.digest[:8]}'

    def _validate(self) -> bool:
        """Check the version, the metadata and that the files are the ones whose SHA-256 is recorded."""
        super()._validate()
        attributes = self.base.attributes.all
        try:
            check_schema(self)
            metadata = {key: attributes[key] for key in METADATA | OPTIONAL if key in attributes}
            _check_metadata(metadata, attributes['n_members'])
        except ValueError as exception:
            raise ValidationError(str(exception)) from exception
        names = sorted(self.base.repository.list_object_names())
        if names != self.member_names:
            raise ValidationError(f'MlipModelData: expected the files {self.member_names}, got {names}.')
        hashes = [hashlib.sha256(self.read(name)).hexdigest() for name in names]
        if hashes != self.sha256 or _digest_of(hashes) != self.digest:
            raise ValidationError('MlipModelData: the files are not the ones whose SHA-256 is recorded.')
        if self.kind not in ('member', 'committee') or (self.kind == 'member' and self.n_members != 1):
            raise ValidationError(f'MlipModelData: kind `{self.kind}` with {self.n_members} members.')
        return True
