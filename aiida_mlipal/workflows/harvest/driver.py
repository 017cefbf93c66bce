"""Make the datasets of a harvest. What an earlier harvest has made is found by its inputs and used again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from aiida import orm

from aiida_mlipal.calculations.functions.harvest import HarvestSettings, assemble_harvest, judge_and_thin
from aiida_mlipal.calculations.functions.labels import CHUNK_SIZE, chunk_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.harvest.cp2k import Cp2kReader
from aiida_mlipal.workflows.harvest.levels import Level, level_of, matching, sort_by_level
from aiida_mlipal.workflows.harvest.pw import PwReader
from aiida_mlipal.workflows.harvest.sources import Reader, Source, find_calculations

__all__ = ('READERS', 'Harvest', 'HarvestedLevel', 'harvest')

#: One reader per code.
READERS: Final[tuple[Reader, ...]] = (PwReader(), Cp2kReader())
#: A chunk is closed when it holds so many atoms, so that neither a node nor the memory grows without bound.
_MAX_CHUNK_ATOMS: Final = 500_000


@dataclass(frozen=True, kw_only=True)
class HarvestedLevel:
    """What was found of one level of theory."""

    description: dict[str, Any]
    n_calculations: int
    n_frames: int  #: ionic steps in all
    frames: Configurations  #: those that stayed, labelled or rejected
    dataset: ConfigurationsData | None  #: ``None`` in a dry run
    is_new: bool  #: whether this call made the dataset

    @property
    def rejected(self) -> Counter[str]:
        """Reasons of rejected frames, counted."""
        return Counter(self.frames.reason[self.frames.status == 'rejected'].tolist())


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """The datasets, and the calculations that went into none, by reason."""

    levels: list[HarvestedLevel]
    left_out: Counter[str]


def harvest(
    *,
    level_of_theory_of: orm.Node | None = None,
    group: orm.Group | None = None,
    since: datetime | None = None,
    settings: HarvestSettings,
    dry_run: bool = False,
) -> Harvest:
    """Turn finished calculations into one labelled dataset per level of theory.

    :param level_of_theory_of: keep this level only: that of a dataset, a labelling, a campaign or a calculation.
    :param group: only calculations in this group, or called by workflows in it.
    :param since: only calculations created then or later.
    :param dry_run: compute everything, store nothing.
    :raises ValueError: if ``level_of_theory_of`` has no level of theory, or is a calculation that cannot be harvested.
    """
    levels: list[HarvestedLevel] = []
    left_out: Counter[str] = Counter()
    wanted = level_of(level_of_theory_of) if level_of_theory_of is not None else None
    example = level_of_theory_of if isinstance(level_of_theory_of, orm.CalcJobNode) else None
    code = _code_of(example) if example is not None else wanted.get('code') if wanted is not None else None
    for reader in READERS:
        pks, n_labels = find_calculations(reader.plugin, group, since)
        if code not in (None, reader.plugin):
            left_out[f'the level of theory asked for is none of {reader.plugin}'] += len(pks)
            continue
        sources, reasons = reader.sources(pks if example is None else pks | {example.pk})
        left_out += reasons
        if n_labels:
            left_out['a label of a campaign already'] += n_labels
        if wanted is not None:
            level, reasons = matching(sources, wanted)
            found = [level] if level.sources else []
        else:
            found, reasons = sort_by_level(sources, reader.usual_rule)
        left_out += reasons
        if example is not None:
            others = [level for level in found if example.pk not in {source.calculation for source in level.sources}]
            left_out['another level of theory'] += sum(len(level.sources) for level in others)
            found = [level for level in found if level not in others]
            if not found:
                raise ValueError(f'calculation {example.pk} has nothing to harvest: {"; ".join(left_out)}.')
        levels += [_harvest_level(reader, level, settings, dry_run) for level in found]
    return Harvest(levels=levels, left_out=+left_out)


def _code_of(calculation: orm.CalcJobNode) -> str:
    """Return the plugin of a calculation.

    :raises ValueError: if there is no reader for it.
    """
    plugin = str(calculation.process_type or '').removeprefix('aiida.calculations:')
    readable = [reader.plugin for reader in READERS]
    if plugin not in readable:
        raise ValueError(
            f'calculation {calculation.pk} is one of `{plugin}`, of which nothing is harvested; give one of {readable}.'
        )
    return plugin


def _harvest_level(reader: Reader, level: Level, settings: HarvestSettings, dry_run: bool) -> HarvestedLevel:
    """Make, or find, the dataset of one level of theory."""
    dataset, is_new = None, False
    if dry_run:
        parts = [
            reader.frames([orm.load_node(source.result) for source in portion], level.description)
            for portion in _portions(level.sources)
        ]
        frames = judge_and_thin(Configurations.concatenate(parts), settings)
    else:
        chunks = _chunks(reader, level)
        dataset = _known_dataset(chunks, settings)
        if dataset is None:
            is_new = True
            named = {chunk_key(index): chunk for index, chunk in enumerate(chunks)}
            dataset = assemble_harvest(orm.Dict(asdict(settings)), **named)
        frames = dataset.configurations
    return HarvestedLevel(
        description=level.description,
        n_calculations=len(level.sources),
        n_frames=sum(source.n_frames for source in level.sources),
        frames=frames,
        dataset=dataset,
        is_new=is_new,
    )


def _portions(sources: Sequence[Source]) -> list[list[Source]]:
    """Cut sources into portions of bounded size."""
    portions: list[list[Source]] = []
    n_atoms = 0
    for source in sources:
        size = source.n_frames * source.n_atoms
        if not portions or len(portions[-1]) == CHUNK_SIZE or n_atoms + size > _MAX_CHUNK_ATOMS:
            portions.append([])
            n_atoms = 0
        portions[-1].append(source)
        n_atoms += size
    return portions


def _chunks(reader: Reader, level: Level) -> list[ConfigurationsData]:
    """Return chunks that hold exactly these sources: those of earlier harvests where they fit, new ones for the rest.

    Earlier ones are taken in the order in which they were made, so that the same call finds the same ones.
    """
    waiting = {source.result: source for source in level.sources}
    chunks = []
    for pk, results in _known_chunks(reader, level).items():
        if results <= waiting.keys():
            chunks.append(orm.load_node(pk))
            for result in results:
                del waiting[result]
    if waiting:
        description = orm.Dict(level.description)
        for portion in _portions(list(waiting.values())):
            named = {f'source_{index:03d}': orm.load_node(source.result) for index, source in enumerate(portion)}
            chunks.append(reader.collect()(description, **named))
    return chunks


def _known_chunks(reader: Reader, level: Level) -> dict[int, set[int]]:
    """Return the chunks that harvests of this level have made, oldest first, with the results they were read from."""
    query = orm.QueryBuilder().append(
        ConfigurationsData, filters={'attributes.level_of_theory_hash': level.hash}, tag='chunk', project='id'
    )
    label = reader.collect().__name__
    query.append(orm.CalcFunctionNode, filters={'attributes.process_label': label}, with_outgoing='chunk', tag='read')
    query.append(orm.Data, edge_filters={'label': {'like': 'source_%'}}, with_outgoing='read', project='id')
    chunks: dict[int, set[int]] = {}
    for chunk, result in sorted(query.all()):
        chunks.setdefault(chunk, set()).add(result)
    return chunks


def _known_dataset(chunks: Sequence[ConfigurationsData], settings: HarvestSettings) -> ConfigurationsData | None:
    """Return the dataset that was put together from these chunks with these settings, if there is one."""
    query = orm.QueryBuilder().append(orm.Node, filters={'id': chunks[0].pk}, tag='chunk')
    filters = {'attributes.process_label': 'assemble_harvest'}
    query.append(orm.CalcFunctionNode, filters=filters, with_incoming='chunk', tag='assembled')
    query.append(ConfigurationsData, with_incoming='assembled', project='*')
    wanted = {chunk.pk for chunk in chunks}
    found: list[ConfigurationsData] = sorted(query.all(flat=True), key=lambda node: node.pk)
    for dataset in found:
        inputs: Mapping[str, Any] = dataset.creator.base.links.get_incoming().nested()
        theirs = {node.pk for name, node in inputs.items() if name.startswith('chunk_')}
        if theirs == wanted and inputs['settings'].get_dict() == asdict(settings):
            return dataset
    return None
