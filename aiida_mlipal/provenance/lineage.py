"""Does walking up from a result reach only what the user supplied?

A *gap* is a Data node in the ancestry that no calculation created and that the user did not supply. Who brought a
node without creator into the graph is told by its first contact with a process (its consumers and the workflows that
returned it, by age): if that is a process nobody called, the user supplied it; if it was called by a workflow, that
workflow made the node in one of its steps. Workflows of other plugins do so with plain settings: each restart of a
``PwBaseWorkChain`` writes its ``parameters`` anew. Such a node counts as *restated*, and the walk goes on through the
inputs of that workflow. Missing inputs of a process (a cut link) are gaps, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiida import orm
from aiida.common.links import LinkType

from aiida_mlipal.provenance.links import Link, NodeInfo, incoming, node_info, outgoing

__all__ = ('Gap', 'Lineage', 'Supplied', 'trace')

_CODE: Final = 'data.core.code.'
#: Plain settings; a structure or a mesh of k-points without creator is a gap, whoever made it.
_RESTATABLE: Final = tuple(cls.class_node_type for cls in (orm.Dict, orm.List, orm.Bool, orm.Int, orm.Float, orm.Str))
_CALL: Final = (LinkType.CALL_CALC, LinkType.CALL_WORK)
_INPUT: Final = (LinkType.INPUT_CALC, LinkType.INPUT_WORK)


class Supplied(NamedTuple):
    """A node that the user put in, and the process and link label by which it entered the graph."""

    node: int
    kind: str
    consumer: str
    link_label: str


class Gap(NamedTuple):
    """Something that is missing. ``node`` is 0 if a process lacks an input, ``consumer`` is 0 if nothing used it."""

    node: int
    consumer: int
    link_label: str
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What the walk found. ``restated`` counts the settings that workflows of other plugins wrote anew, by workflow."""

    start: str
    n_nodes: int
    n_processes: int
    supplied: list[Supplied]
    restated: dict[str, int]
    gaps: list[Gap]

    def to_text(self) -> str:
        """Return the findings for people; the last line is ``lineage: <n> gaps``."""
        lines = [f'{self.start}: {self.n_nodes} data nodes and {self.n_processes} processes in its ancestry']
        for kind, number in sorted(Counter(item.kind for item in self.supplied).items()):
            lines.append(f'  supplied by the user: {number} {kind}')
        for label, number in sorted(self.restated.items()):
            lines.append(f'  restated: {number} settings by {label}, from its own inputs')
        lines += [f'  gap: {gap.sentence}' for gap in self.gaps]
        return '\n'.join([*lines, f'lineage: {len(self.gaps)} {"gap" if len(self.gaps) == 1 else "gaps"}'])


def trace(node: orm.Node) -> Lineage:
    """Return the lineage of a Data node, or of all outputs and inputs of a process (a campaign)."""
    walk = _Walk()
    if isinstance(node, orm.ProcessNode):
        outputs = outgoing([node.pk], LinkType.CREATE, LinkType.RETURN)
        inputs = incoming([node.pk], *_INPUT)
        walk.processes.add(node.pk)
        walk.climb({link.target for link in outputs} | {link.source for link in inputs})
    else:
        walk.climb({node.pk})
    gaps = [*walk.gaps, *_missing_inputs(walk.processes)]
    info = node_info([node.pk])[node.pk]
    return Lineage(
        start=str(info),
        n_nodes=len(walk.data),
        n_processes=len(walk.processes),
        supplied=walk.supplied,
        restated=dict(walk.restated),
        gaps=sorted(gaps),
    )


class _Walk:
    """The state of one walk up the graph."""

    def __init__(self) -> None:
        self.data: set[int] = set()
        self.processes: set[int] = set()
        self.supplied: list[Supplied] = []
        self.restated: Counter[str] = Counter()
        self.gaps: list[Gap] = []

    def climb(self, pending: set[int]) -> None:
        """Visit all ancestors of the data nodes ``pending``, one generation at a time."""
        orphans: set[int] = set()
        while pending or orphans:
            if not pending:  # all ancestors by creation are known; the workflows behind restated settings may add more
                pending = self._explain(orphans) - self.data
                orphans = set()
                continue
            self.data |= pending
            created = incoming(pending, LinkType.CREATE)
            orphans |= pending - {link.target for link in created}
            creators = {link.source for link in created} - self.processes
            self.processes |= creators
            pending = {link.source for link in incoming(creators, LinkType.INPUT_CALC)} - self.data

    def _explain(self, orphans: set[int]) -> set[int]:
        """Say where the nodes without creator come from. Returns further data nodes to visit."""
        info = node_info(orphans)
        codes = {pk for pk in orphans if info[pk].node_type.startswith(_CODE)}
        self.supplied += [Supplied(pk, info[pk].kind, '', '') for pk in sorted(codes)]
        contacts, processes = _first_contacts(orphans - codes)
        callers = {link.target: link.source for link in incoming([link.target for link in contacts.values()], *_CALL)}
        workflows = node_info(set(callers.values()))
        restating: set[int] = set()
        for pk in sorted(orphans - codes):
            orphan, contact = info[pk], contacts.get(pk)
            if contact is None:  # nothing ever touched it: the user stored it and asks for its lineage
                self.supplied.append(Supplied(pk, orphan.kind, '', ''))
                continue
            consumer, caller = processes[contact.target], workflows.get(callers.get(contact.target, 0))
            if contact.type == LinkType.RETURN.value:
                sentence = (
                    f'{consumer} returned {orphan} as `{contact.label}`, but no calculation created it: it was made in '
                    f'a step of a workflow, or its CREATE link was cut.'
                )
                self.gaps.append(Gap(pk, consumer.pk, contact.label, sentence))
            elif caller is None:
                self.supplied.append(Supplied(pk, orphan.kind, str(consumer), contact.label))
            elif _is_foreign(caller) and orphan.node_type in _RESTATABLE:
                self.restated[caller.kind] += 1
                restating.add(caller.pk)
            else:
                sentence = (
                    f'{consumer} used {orphan} as `{contact.label}`, but no calculation created it and the user did '
                    f'not supply it: it was made in a step of {caller}, or its CREATE link was cut.'
                )
                self.gaps.append(Gap(pk, consumer.pk, contact.label, sentence))
        restating -= self.processes
        self.processes |= restating
        return {link.source for link in incoming(restating, LinkType.INPUT_WORK)}


def _first_contacts(orphans: Collection[int]) -> tuple[dict[int, Link], dict[int, NodeInfo]]:
    """Return for each node the link (node, process) of the oldest process that used or returned it."""
    links = outgoing(orphans, *_INPUT)
    links += [Link(link.target, link.source, *link[2:]) for link in incoming(orphans, LinkType.RETURN)]
    processes = node_info({link.target for link in links})

    def age(link: Link) -> tuple[Any, ...]:
        process = processes[link.target]
        return (process.ctime, process.pk, link.type == LinkType.RETURN.value, link.label)

    contacts: dict[int, Link] = {}
    for link in sorted(links, key=age):
        contacts.setdefault(link.source, link)
    return contacts, processes


#: Registered, but AiiDA records the module in which the class is written, since the entry point names another.
_BY_MODULE: Final = ('aiida_cp2k.workchains.base.Cp2kBaseWorkChain',)


def _is_foreign(process: NodeInfo) -> bool:
    """Whether a process is a registered workflow of another plugin."""
    if process.process_type in _BY_MODULE:
        return True
    group, _, name = process.process_type.partition(':')
    return group == 'aiida.workflows' and not name.startswith('mlipal.')


# -- cut input links -------------------------------------------------------------------------------------------------


#: aiida-cp2k declares this namespace as required, and runs with nothing in it.
_MAY_BE_EMPTY: Final = ('pseudos_upf',)


def _missing_inputs(processes: Collection[int]) -> list[Gap]:
    """Return a gap for each required input that a process lacks."""
    info = node_info(processes)
    present: dict[int, set[str]] = {pk: set() for pk in processes}
    for link in incoming(processes, *_INPUT):
        present[link.target].add(link.label)
    required: dict[str, list[str]] = {}
    gaps = []
    for pk in sorted(processes):
        process = info[pk]
        if process.process_type not in required:
            required[process.process_type] = _required_inputs(pk)
        for label in required[process.process_type]:
            if not any(found == label or found.startswith(f'{label}__') for found in present[pk]):
                sentence = f'{process} has no input `{label}`, which it requires: its input link was cut.'
                gaps.append(Gap(0, pk, label, sentence))
    return gaps


def _required_inputs(pk: int) -> list[str]:
    """Return the link labels of the inputs without which a process cannot have run; none if its plugin is gone."""
    try:
        spec = orm.load_node(pk).process_class.spec()
    except (ValueError, AttributeError):
        return []
    return list(_required_ports(spec.inputs.items()))


def _required_ports(ports: Iterable[tuple[str, Any]], prefix: str = '') -> Iterable[str]:
    from aiida.engine.processes.ports import PortNamespace

    for name, port in ports:
        if name == 'metadata' or not port.required or getattr(port, 'non_db', False):
            continue
        label = f'{prefix}{name}'
        if not isinstance(port, PortNamespace):
            if not port.has_default():
                yield label
        elif len(port):
            yield from _required_ports(port.items(), f'{label}__')
        elif port.dynamic and name not in _MAY_BE_EMPTY:
            yield label
