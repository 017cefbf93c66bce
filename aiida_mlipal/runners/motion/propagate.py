"""Move replicas to their ends: batches that are filled up as replicas leave, bounds, doubt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.runners.bounds import NOT_FINITE, can_be_labelled, hopeless_start, out_of_bounds
from aiida_mlipal.runners.keeper import Keeper, pack, unpack
from aiida_mlipal.runners.motion.moving import Moving
from aiida_mlipal.runners.motion.packing import paying_atoms
from aiida_mlipal.runners.trajectory import Frame, Replica, Trajectory
from aiida_mlipal.science.exploration_settings import ExplorationSettings

__all__ = ('propagate',)

#: Forces so many times the allowed maximum end a replica at once, not only at the next saved frame: its coordinates
#: would soon be meaningless, and one system's overflow must not reach its neighbours.
_HARD_FORCE: Final = 20.0


class _Steps(Protocol):
    """What a plan says of its length."""

    @property
    def n_steps(self) -> int: ...
    @property
    def stride(self) -> int: ...


class _Run:
    """The replicas of one call of :func:`propagate`."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        plan: _Steps,
        settings: ExplorationSettings,
        doubt: Callable[[Moving], Any] | None,
        group: Callable[[Replica], int],
    ) -> None:
        self.plan, self.settings, self.doubt, self.group = plan, settings, doubt, group
        self.max_atoms = 0.0
        self.trajectories = {replica.index: Trajectory(replica=replica) for replica in replicas}
        for replica in replicas:
            self.trajectories[replica.index].reason = hopeless_start(replica, settings)
        self.waiting = deque(replica for replica in replicas if not self.trajectories[replica.index].reason)

    def state(self, batch: Moving) -> dict[str, NDArray[Any]]:
        """Return all that it takes to go on."""
        return {
            **pack(list(self.trajectories.values())),
            'waiting': np.array([replica.index for replica in self.waiting], dtype=np.int64),
            'moving': np.array([replica.index for replica in batch.replicas], dtype=np.int64),
            'max_atoms': np.array(self.max_atoms),
            **({f'batch_{name}': value for name, value in batch.state().items()} if batch.replicas else {}),
        }

    def restore(
        self, state: dict[str, NDArray[Any]], move: Callable[[Sequence[Replica]], Moving], max_atoms: float
    ) -> Moving | None:
        """Take up a :meth:`state`; return the batch that was under way.

        One that needs more room than there is begins anew, a part of it at a time.
        """
        self.trajectories = {trajectory.replica.index: trajectory for trajectory in unpack(state)}
        moving = [self.trajectories[index].replica for index in state['moving'].tolist()]
        self.waiting = deque(self.trajectories[index].replica for index in state['waiting'].tolist())
        self.max_atoms = max_atoms or float(state['max_atoms'])
        if sum(len(replica.numbers) for replica in moving) > self.max_atoms:
            self.waiting.extendleft(reversed(moving))
            for replica in moving:
                self.trajectories[replica.index] = Trajectory(replica=replica)
            return None
        if not moving:
            return None
        batch = move(moving)
        batch.restore(
            {name.removeprefix('batch_'): value for name, value in state.items() if name.startswith('batch_')}
        )
        return batch

    def next_ones(self, n_atoms: int) -> list[Replica]:
        """Return the replicas that find room beside ``n_atoms`` atoms; one group is let in wherever there are none."""
        chosen: list[Replica] = []
        while self.waiting:
            first = self.group(self.waiting[0])
            some = list(takewhile(lambda replica: self.group(replica) == first, self.waiting))  # noqa: B023 (used here)
            size = sum(len(replica.numbers) for replica in some)
            if n_atoms and n_atoms + size > self.max_atoms:
                break
            chosen += some
            n_atoms += size
            for _ in some:
                self.waiting.popleft()
        return chosen

    def stop(self, replica: Replica, frame: Frame, reason: str) -> None:
        """End a trajectory; keep the frame that broke it if it can be labelled."""
        trajectory = self.trajectories[replica.index]
        trajectory.reason, trajectory.n_steps = reason, frame.step
        if can_be_labelled(replica, frame, self.settings):
            trajectory.unsafe = frame

    def stop_hard(self, batch: Moving) -> None:
        """End the replicas whose forces, or cells, are hopeless."""
        forces = batch.max_forces()
        limit = _HARD_FORCE * self.settings.max_force
        bad = ~(forces <= limit)
        reasons = batch.runaways()
        if not bool(bad.any()) and not reasons:
            return
        for system in bad.nonzero().flatten().tolist():
            force = float(forces[system])
            far = f'a force of {force:.0f} eV/Å is far above `max_force`'
            reasons[system] = far if np.isfinite(force) else NOT_FINITE
        for system, reason in reasons.items():
            trajectory = self.trajectories[batch.replicas[system].index]
            trajectory.n_steps, trajectory.reason = int(batch.steps[system]), reason
        batch.keep([system for system in range(len(batch.replicas)) if system not in reasons])

    def check(self, batch: Moving) -> None:
        """Save the frames of the replicas that are within bounds; end the others, which leave the batch."""
        max_forces, temperatures = batch.max_forces().tolist(), batch.temperatures().tolist()
        steps, targets = batch.steps.tolist(), batch.targets.tolist()
        positions, cells = batch.split(batch.positions), batch.cells.cpu().numpy().copy()
        doubts = [np.nan] * len(steps) if self.doubt is None else self.doubt(batch).tolist()
        remaining = []
        for system, replica in enumerate(batch.replicas):
            frame = Frame(
                step=steps[system], positions=positions[system], cell=cells[system], temperature=targets[system]
            )
            reason = out_of_bounds(
                replica, frame, max_forces[system], temperatures[system], self.settings, uncertainty=doubts[system]
            )
            if reason:
                self.stop(replica, frame, reason)
                continue
            trajectory = self.trajectories[replica.index]
            trajectory.frames.append(frame)
            trajectory.n_steps = frame.step
            remaining.append(system)
        if len(remaining) < len(batch.replicas):
            batch.keep(remaining)

    def part_with_finished(self, batch: Moving) -> None:
        """Let the replicas leave that have done all their steps."""
        last = self.plan.n_steps - self.plan.n_steps % self.plan.stride
        going = [system for system, step in enumerate(batch.steps.tolist()) if step < last]
        if len(going) < len(batch.replicas):
            batch.keep(going)


def propagate(
    replicas: Sequence[Replica],
    move: Callable[[Sequence[Replica]], Moving],
    plan: _Steps,
    settings: ExplorationSettings,
    *,
    max_atoms: float = 0,
    keeper: Keeper | None = None,
    doubt: Callable[[Moving], Any] | None = None,
    after_stride: Callable[[Moving], None] | None = None,
    group: Callable[[Replica], int] = lambda replica: replica.index,
) -> list[Trajectory]:
    """Run all replicas for ``plan.n_steps`` steps (whole strides only).

    Every ``stride`` steps a replica's frame is saved if it is within bounds; if not, the replica ends there, with its
    reason. The start itself is not saved. Whoever ends leaves its place to the next one.

    :param move: makes a moving batch of replicas.
    :param max_atoms: atoms that move together, at most; 0: as many as are fastest, which is tried.
    :param keeper: has what an earlier call has done, and is given what this one does.
    :param doubt: uncertainty of each system of a batch in eV/Å, ``(S,)``; above ``settings.max_uncertainty`` the
        replica ends.
    :param after_stride: called with what is left of the batch after its frames were saved, for what a plan does then
        (exchange of replicas, hills of a bias, a ramp of the temperature).
    :param group: replicas that follow each other and are of one group begin together.
    :raises ValueError: for a replica of one atom, which has no degree of freedom.
    """
    for replica in replicas:
        if len(replica.numbers) < 2:
            raise ValueError(f'replica {replica.index} has a single atom, which cannot move: start from a supercell.')
    keeper = keeper or Keeper()
    run = _Run(replicas, plan, settings, doubt, group)
    saved = keeper.load()
    batch = None if saved is None else run.restore(saved, move, max_atoms)
    if saved is None:
        run.max_atoms = max_atoms or paying_atoms(list(run.waiting), move)
    keeper.notes['batch_atoms'] = int(min(run.max_atoms, sum(len(replica.numbers) for replica in replicas)))
    while True:
        new = run.next_ones(0 if batch is None else len(batch.numbers))
        if new and batch is not None and batch.replicas:
            batch.add(new)
        elif new:
            batch = move(new)
        if batch is None or not batch.replicas:
            break
        if new:
            run.stop_hard(batch)
        batch.start_block(plan.stride)
        for _ in range(plan.stride):
            if not batch.replicas:
                break
            batch.step()
            batch.steps = batch.steps + 1
            run.stop_hard(batch)
        if batch.replicas:
            run.check(batch)
        if batch.replicas and after_stride is not None:
            after_stride(batch)
        if batch.replicas:
            run.part_with_finished(batch)
        if keeper.is_due:
            keeper.save(run.state(batch))
    return [run.trajectories[replica.index] for replica in replicas]
