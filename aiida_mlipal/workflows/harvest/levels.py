"""Sort finished calculations by level of theory, with the k-point rule that their meshes have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiida import orm

from aiida_mlipal.data.base import plain
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.kpoint_rules import Interval, common_distances
from aiida_mlipal.science.level_of_theory import canonical, difference, digest
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.harvest.sources import Rule, Source

__all__ = ('Level', 'level_of', 'matching', 'sort_by_level')

#: What an isolated atom, with its own smearing and spin at Γ, need not share with the frames.
_FREE_FOR_ATOMS: Final = (
    'occupations', 'smearing', 'degauss', 'nspin', 'tot_magnetization', 'assume_isolated', 'nbnd', 'vdw_corr',
    'VDW_POTENTIAL',
)  # fmt: skip


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


def _describe(rest: Mapping[str, Any], by_element: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    """Put a level of theory together, as the engine would write it."""
    stated = {
        name: {element: value for element, value in values.items() if value} for name, values in by_element.items()
    }
    found = {name: values for name, values in stated.items() if values}
    description: dict[str, Any] = plain(canonical({**rest, **found, 'k_points': rule}))
    return description


def _for_atoms(value: Any) -> Any:
    """Return a level of theory without what isolated atoms need not share."""
    if not isinstance(value, Mapping):
        return value
    return {key: _for_atoms(item) for key, item in value.items() if key not in _FREE_FOR_ATOMS}


def _ours(source: Source, description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a level of theory as a calculation without some of its elements would have it."""
    rest = {name: value for name, value in description.items() if name not in source.by_element}
    by_element = {
        name: {element: value for element, value in description.get(name, {}).items() if element in values}
        for name, values in source.by_element.items()
    }
    return _describe(rest, by_element, description['k_points'])


def matching(sources: Sequence[Source], description: Mapping[str, Any]) -> tuple[Level, Counter[str]]:
    """Return those of ``sources`` that have this level of theory, and why the others do not, counted."""
    left_out: Counter[str] = Counter()
    taken = []
    for source in sources:
        if 'k_points' not in description:
            left_out['the level of theory asked for has no rule for k-points'] += 1
            continue
        rule = description['k_points']
        theirs = _describe(source.rest, source.by_element, rule)
        ours = _ours(source, description)
        if source.isolated:
            theirs, ours = _for_atoms(theirs), _for_atoms(ours)
        lines = difference(ours, theirs)
        if lines:
            left_out[f'another level of theory: {"; ".join(lines)}'] += 1
        elif not source.k_points.given_by(rule):
            given = 'Γ alone' if isinstance(rule, str) else f'the distance of {rule["distance"]:g} 1/Å gives'
            left_out[f'another mesh of k-points than {given}'] += 1
        else:
            taken.append(source)
    return Level(dict(description), taken), left_out


def sort_by_level(sources: Sequence[Source], usual_rule: Rule) -> tuple[list[Level], Counter[str]]:
    """Return the levels of theory of ``sources``, the one with most calculations first, and what fits none, counted.

    :param usual_rule: the rule of calculations that any rule gives, if there are no others.
    """
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
        for rule in _rules(group) or [usual_rule]:
            description = _describe(group.rest, group.by_element, rule)
            levels.append(Level(description, [item for item in group.members if item.k_points.given_by(rule)]))
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


def _rules(group: _Group) -> list[Rule]:
    """Return the rules for k-points of calculations that are equal in all else; none if any rule gives all of them.

    Rules that labels of this profile follow already come first, so that a harvest has the level of theory of the
    campaigns it resembles, and the same one tomorrow when there are more calculations. What was computed at Γ follows
    a distance only if others that are equal in all else do.
    """
    known = _known_rules(group.rest, group.by_element)
    waiting = [source.k_points for source in group.members if source.k_points.rest is not None]
    rules: list[Rule] = []

    def take(rule: Rule) -> None:
        nonlocal waiting
        if any(k_points.given_by(rule) for k_points in waiting):
            rules.append(rule)
            waiting = [k_points for k_points in waiting if not k_points.given_by(rule)]

    for rule in known:
        take(rule)
    intervals: dict[str, tuple[Mapping[str, Any], list[Interval]]] = {}
    for k_points in waiting:
        if k_points.interval is not None and k_points.rest is not None and not k_points.gamma:
            rest = k_points.rest
            intervals.setdefault(digest(rest), (rest, []))[1].append(k_points.interval)
    for rest, theirs in sorted(intervals.values(), key=lambda item: list(item[0].values())):
        for distance in common_distances(theirs):
            take({'distance': distance, **rest})
    take('gamma')
    return rules or known[:1]


def _known_rules(rest: Mapping[str, Any], by_element: Mapping[str, Any]) -> list[Rule]:
    """Return the rules of the labels of this profile that are of the same level of theory in all else, oldest first."""
    query = orm.QueryBuilder().append(
        ConfigurationsData,
        filters={'attributes.level_of_theory_hash': {'!==': ''}, 'attributes.level_of_theory.code': rest['code']},
        project=['id', 'attributes.level_of_theory_hash', 'attributes.level_of_theory'],
    )
    rules: dict[str, Rule] = {}
    for _, level_hash, description in sorted(query.all(), key=lambda row: row[0]):
        if level_hash not in rules and 'k_points' in description:
            restricted = {
                name: {element: description.get(name, {}).get(element, value) for element, value in values.items()}
                for name, values in by_element.items()
            }
            others = {name: value for name, value in description.items() if name not in by_element}
            rule = description['k_points']
            if not difference(_describe(others, restricted, rule), _describe(rest, by_element, rule)):
                rules[level_hash] = rule
    return list({digest({'rule': rule}): rule for rule in rules.values()}.values())
