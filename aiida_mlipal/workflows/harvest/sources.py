"""What a finished calculation offers to a harvest, and which calculations are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.kpoint_rules import Interval

__all__ = ('Reader', 'Source', 'batches', 'calculations_of', 'find_calculations')

#: Databases bound the number of parameters of one query.
_BATCH: Final = 500


@dataclass(frozen=True, kw_only=True)
class Source:
    """One finished calculation, as far as it matters before its arrays are read.

    ``rest`` is its level of theory without what depends on the elements (``by_element``: for example
    ``{'pseudopotentials': {'Si': md5}}``) and without the rule for k-points. ``interval`` and ``offset`` describe the
    rules that give its mesh; ``None`` where any rule does (a molecule, an isolated atom).
    """

    calculation: int  #: PK
    result: int  #: PK of the output that is read
    n_frames: int
    n_atoms: int
    rest: Mapping[str, Any]
    by_element: Mapping[str, Mapping[str, str]]
    interval: Interval | None
    offset: tuple[float, ...] | None
    isolated: bool


class Reader(Protocol):
    """What a harvest needs to know of one code."""

    #: Entry point of its CalcJob.
    plugin: str

    def sources(self, pks: Collection[int]) -> tuple[list[Source], Counter[str]]:
        """Return what these calculations offer, and for those that offer nothing the reasons, counted."""

    def frames(self, results: Sequence[orm.Data], level_of_theory: Mapping[str, Any]) -> Configurations:
        """Return every ionic step of these outputs, labelled, or rejected with a reason."""

    def collect(self) -> Callable[..., ConfigurationsData]:
        """Return the calcfunction that does this, with inputs ``level_of_theory`` and one per output."""


def batches(pks: Collection[int]) -> Iterator[list[int]]:
    """Return ``pks`` in order, in portions that fit into one query."""
    ordered = sorted(pks)
    for start in range(0, len(ordered), _BATCH):
        yield ordered[start : start + _BATCH]


def calculations_of(node: orm.Node) -> set[int]:
    """Return the PKs of the jobs that a process is or has called."""
    jobs = [node, *node.called_descendants] if isinstance(node, orm.WorkflowNode) else [node]
    return {job.pk for job in jobs if isinstance(job, orm.CalcJobNode)}


def find_calculations(plugin: str, group: orm.Group | None, since: datetime | None) -> tuple[set[int], int]:
    """Return the PKs of finished jobs of ``plugin``, and the number left out because they are labels already.

    What a campaign labelled has its place in a dataset, some of it as a test frame that must never be trained on.

    :param group: jobs in this group, or called by a workflow in it.
    :param since: jobs created then or later.
    """
    filters: dict[str, Any] = {
        'process_type': f'aiida.calculations:{plugin}',
        'attributes.process_state': {'in': ['finished', 'excepted', 'killed']},
    }
    if since is not None:
        filters['ctime'] = {'>=': since}
    found = set(orm.QueryBuilder().append(orm.CalcJobNode, filters=filters, project='id').all(flat=True))
    if group is not None:
        found &= {pk for node in group.nodes for pk in calculations_of(node)}
    labels = found & _labels()
    return found - labels, len(labels)


def _labels() -> set[int]:
    """Return the PKs of all jobs below the lanes of this package."""
    pks: set[int] = set()
    for between in (False, True):
        query = orm.QueryBuilder().append(
            orm.WorkChainNode, filters={'attributes.process_label': 'LabelLaneWorkChain'}, tag='lane'
        )
        if between:
            query.append(orm.WorkChainNode, with_incoming='lane', tag='base')
        query.append(orm.CalcJobNode, with_incoming='base' if between else 'lane', project='id')
        pks |= set(query.all(flat=True))
    return pks
