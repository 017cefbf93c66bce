"""Sort finished calculations by level of theory, with the k-point rule that their meshes have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiida import orm

from aiida_mlipal.data.base import plain
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.kpoint_rules import Interval, common_distances
from aiida_mlipal.science.level_of_theory import canonical, difference, digest
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.harvest.sources import Source

__all__ = ('Level', 'level_of', 'matching', 'sort_by_level')

#: 1/Å. Where only molecules or atoms were computed, any rule gives their mesh; this is that of the default protocol.
_ANY_DISTANCE: Final = 0.15
#: What an isolated atom, with its own smearing and spin at Γ, need not share with the frames.
_FREE_FOR_ATOMS: Final = (
    'occupations', 'smearing', 'degauss', 'nspin', 'tot_magnetization', 'assume_isolated', 'nbnd', 'vdw_corr',
)  # fmt: skip


class _Rule(NamedTuple):
    """One rule for k-points."""

    distance: float
    offset: tuple[float, ...]

    def gives(self, source: Source) -> bool:
        """Return whether an engine with this rule would take the mesh of ``source``."""
        if source.interval is None or source.offset is None:
            return True
        shifted = [bool(value) for value in self.offset]
        return source.interval[0] <= self.distance < source.interval[1] and shifted == [bool(v) for v in source.offset]


@dataclass(frozen=True)
class Level:
    """A level of theory and the calculations that have it, oldest first."""

    description: dict[str, Any]
    sources: list[Source]

    @property
    def hash(self) -> str:
        """Digest of the description."""
        return digest(self.description)


def level_of(node: orm.Node) -> dict[str, Any] | None:
    """Return the level of theory of a dataset, a labelling or a campaign; ``None`` for a single calculation.

    :raises ValueError: for a node that has none.
    """
    if isinstance(node, ConfigurationsData) and node.level_of_theory is not None:
        return node.level_of_theory
    if isinstance(node, orm.WorkChainNode):
        inputs = node.inputs.label if 'label' in node.inputs else node.inputs
        if 'engine' in inputs and 'engine_inputs' in inputs:
            description: dict[str, Any] = plain(load_engine(inputs.engine.value).level_of_theory(inputs.engine_inputs))
            return description
    if isinstance(node, orm.CalcJobNode):
        return None
    kind = node.process_label if isinstance(node, orm.ProcessNode) else type(node).__name__
    raise ValueError(
        f'node {node.pk} ({kind}) has no level of theory; give a labelled dataset, a LabelWorkChain, a campaign, or '
        'one of the calculations to be harvested.'
    )


def _describe(rest: Mapping[str, Any], by_element: Mapping[str, Any], rule: _Rule) -> dict[str, Any]:
    """Put a level of theory together, as the engine would write it."""
    k_points = {'distance': rule.distance, 'offset': list(rule.offset), 'mesh_of': 'reference cell'}
    description: dict[str, Any] = plain(canonical({**rest, **by_element, 'k_points': k_points}))
    return description


def _rest_for_atoms(rest: Mapping[str, Any]) -> dict[str, Any]:
    system = {key: value for key, value in rest.get('system', {}).items() if key not in _FREE_FOR_ATOMS}
    return {**rest, 'system': system}


def _rule_of(description: Mapping[str, Any]) -> _Rule:
    k_points = description['k_points']
    return _Rule(float(k_points['distance']), tuple(map(float, k_points['offset'])))


def _ours(source: Source, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a level of theory as a calculation without some of its elements would have it."""
    ours = dict(description)
    for name, values in source.by_element.items():
        ours[name] = {element: value for element, value in ours.get(name, {}).items() if element in values}
    return ours


def matching(sources: Sequence[Source], description: Mapping[str, Any]) -> tuple[Level, Counter[str]]:
    """Return those of ``sources`` that have this level of theory, and why the others do not, counted."""
    left_out: Counter[str] = Counter()
    taken = []
    for source in sources:
        if description.get('code') != source.rest['code'] or 'k_points' not in description:
            left_out[f'the level of theory asked for is none of {source.rest["code"]}'] += 1
            continue
        rule = _rule_of(description)
        theirs = _describe(source.rest, source.by_element, rule)
        ours = _ours(source, description)
        if source.isolated:
            theirs, ours = _rest_for_atoms(theirs), _rest_for_atoms(ours)
        lines = difference(ours, theirs)
        if lines:
            left_out[f'another level of theory: {"; ".join(lines)}'] += 1
        elif not rule.gives(source):
            left_out[f'another mesh of k-points than the distance of {rule.distance:g} 1/Å gives'] += 1
        else:
            taken.append(source)
    return Level(dict(description), taken), left_out


def sort_by_level(sources: Sequence[Source]) -> tuple[list[Level], Counter[str]]:
    """Return the levels of theory of ``sources``, the one with most calculations first, and what fits none, counted."""
    groups: list[_Group] = []
    for source in sources:
        if not source.isolated:
            group = next((group for group in groups if group.takes(source)), None)
            if group is None:
                group = _Group(source.rest)
                groups.append(group)
            group.add(source)
    levels = []
    for group in groups:
        for rule in _rules(group):
            description = _describe(group.rest, group.by_element, rule)
            levels.append(Level(description, [source for source in group.members if rule.gives(source)]))
    left_out: Counter[str] = Counter()
    for atom in (source for source in sources if source.isolated):
        homes = [level for level in levels if matching([atom], level.description)[0].sources]
        for level in homes:
            level.sources.append(atom)
        if not homes:
            left_out['an isolated atom of a level of theory that no other calculation has'] += 1
    for level in levels:
        level.sources.sort(key=lambda source: source.calculation)
    return sorted(levels, key=lambda level: (-len(level.sources), level.hash)), left_out


class _Group:
    """Calculations that agree in all but the elements they have and the mesh of k-points."""

    def __init__(self, rest: Mapping[str, Any]) -> None:
        self.rest = rest
        self.by_element: dict[str, dict[str, str]] = {}
        self.members: list[Source] = []

    def takes(self, source: Source) -> bool:
        """Return whether ``source`` belongs here: it treats the elements that it shares with the others alike."""
        alike = all(
            self.by_element.get(name, {}).get(element, value) == value
            for name, values in source.by_element.items()
            for element, value in values.items()
        )
        return alike and digest(self.rest) == digest(source.rest)

    def add(self, source: Source) -> None:
        """Take ``source`` in."""
        for name, values in source.by_element.items():
            self.by_element.setdefault(name, {}).update(values)
        self.members.append(source)


def _rules(group: _Group) -> list[_Rule]:
    """Return the rules for k-points of calculations that are equal in all else.

    Rules that labels of this profile follow already come first, so that a harvest has the level of theory of the
    campaigns it resembles, and the same one tomorrow when there are more calculations.
    """
    known = _known_rules(group.rest, group.by_element)
    waiting = [source for source in group.members if source.interval is not None]
    rules: list[_Rule] = []
    for rule in known:
        if any(rule.gives(source) for source in waiting):
            rules.append(rule)
            waiting = [source for source in waiting if not rule.gives(source)]
    intervals: dict[tuple[float, ...], list[Interval]] = {}
    for source in waiting:
        if source.interval is not None and source.offset is not None:
            intervals.setdefault(source.offset, []).append(source.interval)
    for offset in sorted(intervals):
        rules += [_Rule(distance, offset) for distance in common_distances(intervals[offset])]
    return rules or [*known, _Rule(_ANY_DISTANCE, (0.0, 0.0, 0.0))][:1]


def _known_rules(rest: Mapping[str, Any], by_element: Mapping[str, Any]) -> list[_Rule]:
    """Return the rules of the labels of this profile that are of the same level of theory in all else, oldest first."""
    query = orm.QueryBuilder().append(
        ConfigurationsData,
        filters={'attributes.level_of_theory_hash': {'!==': ''}, 'attributes.level_of_theory.code': rest['code']},
        project=['id', 'attributes.level_of_theory_hash', 'attributes.level_of_theory'],
    )
    rules: dict[str, _Rule] = {}
    for _, level_hash, description in sorted(query.all(), key=lambda row: row[0]):
        if level_hash not in rules and 'k_points' in description:
            rule = _rule_of(description)
            restricted = dict(description)
            for name, values in by_element.items():
                common = description.get(name, {}).keys() & values.keys()
                restricted[name] = {**values, **{element: description[name][element] for element in common}}
            if not difference(restricted, _describe(rest, by_element, rule)):
                rules[level_hash] = rule
    return list(dict.fromkeys(rules.values()))
