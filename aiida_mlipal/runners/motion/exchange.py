"""Exchange of temperatures between replicas (see the plan for the source)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import units

from aiida_mlipal.runners.motion.moving import Moving

__all__ = ('Exchange', 'swaps')


def swaps(
    energies: Sequence[float], temperatures: Sequence[float], uniform: Sequence[float], odd: bool
) -> list[tuple[int, int, bool]]:
    """Return which pairs of neighbours on the ladder try, and whether they swap.

    The first with the second, the third with the fourth and so on, or, if ``odd``, the second with the third and so on.

    :param energies: eV, in the order of rising ``temperatures`` in K.
    :param uniform: a random number from 0 to 1 for each rung.
    """
    tried = []
    for lower in range(int(odd), len(energies) - 1, 2):
        colder, hotter = (1 / (units.kB * temperatures[rung]) for rung in (lower, lower + 1))
        exponent = (colder - hotter) * (energies[lower] - energies[lower + 1])
        tried.append((lower, lower + 1, bool(np.log(uniform[lower]) < exponent)))
    return tried


class Exchange:
    """The exchanges of the ladders of a plan.

    :param ladders: numbers of the replicas of each ladder.
    :param key: seed and iteration.
    """

    def __init__(self, ladders: Sequence[Sequence[int]], stride: int, key: Sequence[int]) -> None:
        self._ladders, self._stride, self._key = ladders, stride, list(key)

    def __call__(self, batch: Moving) -> None:
        """Let each ladder try once. What has ended is no longer on it."""
        system = {replica.index: number for number, replica in enumerate(batch.replicas)}
        targets, energies = batch.targets.tolist(), batch.energies.tolist()
        scales = [1.0] * len(targets)
        for ladder in self._ladders:
            rungs = sorted((system[index] for index in ladder if index in system), key=lambda number: targets[number])
            if not rungs:
                continue
            attempt = int(batch.steps[rungs[0]]) // self._stride
            # The 1 sets this stream apart from those of the noise, whose keys are shorter.
            uniform = np.random.default_rng([*self._key, ladder[0], attempt, 1]).random(len(ladder))
            pairs = swaps(
                [energies[rung] for rung in rungs],
                [targets[rung] for rung in rungs],
                uniform.tolist(),
                attempt % 2 == 0,
            )
            for lower, upper, accepted in pairs:
                a, b = rungs[lower], rungs[upper]
                if accepted:
                    scales[a], scales[b] = (targets[b] / targets[a]) ** 0.5, (targets[a] / targets[b]) ** 0.5
                    targets[a], targets[b] = targets[b], targets[a]
        batch.targets = batch.targets.new_tensor(targets)
        batch.velocities = batch.velocities * batch.velocities.new_tensor(scales)[batch.system, None]
