"""What a finished calculation offers to a harvest, and which calculations are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import inf
from typing import Any, ClassVar, Final, Protocol

from aiida import orm

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.kpoint_rules import Interval
from aiida_mlipal.science.level_of_theory import difference

__all__ = ('ANY_RULE', 'KPoints', 'Reader', 'Rule', 'Source', 'calculations_of', 'find_calculations')

#: The entry ``k_points`` of a level of theory.
Rule = str | Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class KPoints:
    """Which rules for k-points, as a level of theory states them, give the mesh of a calculation.

    A rule is ``'gamma'``, or a distance and what else the engine of the code says of it.
    """

    interval: Interval | None  #: 1/Å, distances that do; ``None`` if none does
    rest: Mapping[str, Any] | None  #: the rule without its distance; ``None`` if it does not matter
    gamma: bool = False  #: whether ``'gamma'`` does, too

    def given_by(self, rule: Rule) -> bool:
        """Return whether an engine with this rule would take the mesh."""
        if isinstance(rule, str):
            return self.gamma
        distance = float(rule['distance'])
        if self.interval is None or not self.interval[0] <= distance < self.interval[1]:
            return False
        return self.rest is None or not difference({**self.rest, 'distance': distance}, rule)


#: Where any rule does: an isolated atom is computed at Γ whatever the rule.
ANY_RULE: Final = KPoints(interval=(0.0, inf), rest=None, gamma=True)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One finished calculation, as far as it matters before its arrays are read.

    ``rest`` is its level of theory without what depends on the elements (``by_element``: for example
    ``{'pseudopotentials': {'Si': md5}}``; an empty value stands for an element about which the level says nothing) and
    without the rule for k-points.
    """

    calculation: int  #: PK
    result: int  #: PK of the output that is read
    n_frames: int
    n_atoms: int
    rest: Mapping[str, Any]
    by_element: Mapping[str, Mapping[str, Any]]
    k_points: KPoints
    isolated: bool


class Reader(Protocol):
    """What a harvest needs to know of one code."""

    #: Entry point of its CalcJob.
    plugin: str
    #: The rule for calculations that any rule gives.
    usual_rule: ClassVar[Rule]

    def sources(self, pks: Collection[int]) -> tuple[list[Source], Counter[str]]:
        """Return what these calculations offer, and for those that offer nothing the reasons, counted."""

    def frames(self, results: Sequence[orm.Data], level_of_theory: Mapping[str, Any]) -> Configurations:
        """Return every ionic step of these outputs, labelled, or rejected with a reason."""

    def collect(self) -> Callable[..., ConfigurationsData]:
        """Return the calcfunction that does this, with inputs ``level_of_theory`` and one per output."""


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
