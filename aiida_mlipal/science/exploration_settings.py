"""Settings of an exploration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from aiida_mlipal.science.exploration_plans import DynamicsPlan, DynamicsSettings, Plan
from aiida_mlipal.science.inference_settings import check_device
from aiida_mlipal.science.plan_kinds import PLANS
from aiida_mlipal.science.settings import check_flag, check_integer, check_number, from_dict, unknown_name
from aiida_mlipal.science.starts import check_shares

__all__ = ('ExplorationSettings',)


@dataclass(frozen=True, kw_only=True)
class ExplorationSettings(DynamicsSettings):
    """Settings of ``mlipal.mace.explore``.

    Each item of ``plans`` has a ``kind`` (see :data:`aiida_mlipal.science.plan_kinds.PLANS`) and the keys of
    that plan; the keys of molecular dynamics given beside ``plans`` are their defaults. Without ``plans`` these keys
    are the one plan. Replicas are numbered through all plans; number ``i`` begins at frame ``i % n_starts`` of the
    starts.
    """

    seed: int  #: of velocities, noise, random stream
    iteration: int = 0  #: goes into the names of trajectories and into the noise
    plans: Sequence[Mapping[str, Any]] = ()
    #: in a campaign: the share of the starts that comes from each source (see :mod:`aiida_mlipal.science.starts`)
    starts: Mapping[str, float] = field(default_factory=lambda: {'training': 1.0})
    n_stream: int = 6  #: frames of the random stream, half of them for calibration and half for the test
    max_candidates: int = 500  #: more are thinned out by farthest-point sampling
    max_label_atoms: int = 0  #: candidates of more atoms give way to cut-outs; 0 for no limit
    cutout_radius: float = 5.0  #: Å; how far around its most uncertain atom a cut-out is as the frame was
    max_force: float = 50.0  #: eV/Å; a replica beyond it stops
    #: A replica hotter than so many times its target stops (more for cells of fewer than eight atoms, where the
    #: temperature fluctuates more).
    max_temperature_factor: float = 5.0
    min_distance_factor: float = 0.5  #: of the sum of covalent radii; a replica with closer atoms stops
    min_volume_factor: float = 0.5  #: of the volume of the start; a cell that shrinks further has collapsed
    max_volume_factor: float = 2.0  #: of the volume of the start; a cell that grows further has vaporised
    #: eV/Å; a replica with an atom whose force is more uncertain stops. None: no bound. In a campaign it follows from
    #: the last calibration.
    max_uncertainty: float | None = None
    device: str = 'cpu'
    dtype: str = 'float32'  #: of the model; positions and velocities are always double precision
    threads: int = 1
    batch_atoms: int = 0  #: atoms that move together, at most; 0 means 128 on the CPU and 8192 on a GPU
    #: NVIDIA's cuEquivariance kernels, after the job has found that they agree with the plain ones on its own frames
    enable_cueq: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ('max_candidates', 'threads'):
            check_integer(name, getattr(self, name))
        for name in ('max_label_atoms', 'seed', 'iteration', 'n_stream', 'batch_atoms'):
            check_integer(name, getattr(self, name), at_least=0)
        for name in ('cutout_radius', 'max_force', 'min_distance_factor'):
            check_number(name, getattr(self, name), above=0)
        check_number('max_temperature_factor', self.max_temperature_factor, above=1)
        check_number('min_volume_factor', self.min_volume_factor, within=(0, 1))
        if not self.min_volume_factor < 1 < self.max_volume_factor:
            raise ValueError(
                f'the start must lie between `min_volume_factor` ({self.min_volume_factor:g}) and `max_volume_factor` '
                f'({self.max_volume_factor:g}): give one below 1 and one above it.'
            )
        if self.max_uncertainty is not None:
            check_number('max_uncertainty', self.max_uncertainty, above=0)
        check_device(self.device, self.dtype)
        check_shares(self.starts)
        check_flag('enable_cueq', self.enable_cueq)
        self.read_plans()

    def read_plans(self) -> list[Plan]:
        """Return the plans, checked.

        :raises ValueError: naming the plan by its place in the list.
        """
        if not isinstance(self.plans, (list, tuple)):
            raise ValueError(f'`plans` must be a list of mappings with a `kind` each, got {self.plans!r}.')
        given = self.plans or ({'kind': DynamicsPlan.KIND},)
        plans = [self._read_plan(number, item) for number, item in enumerate(given)]
        labels = [plan.label for plan in plans]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f'two of `plans` are called `{label}`: give each a `name` of its own.')
        return plans

    def _read_plan(self, number: int, item: Mapping[str, Any]) -> Plan:
        kind = item.get('kind') if isinstance(item, Mapping) else item
        if kind not in PLANS:
            raise ValueError(f'`plans`, item {number}: {unknown_name("kind of plan", kind, PLANS)}')
        plan = PLANS[kind]
        shared = {one.name for one in fields(plan)} & {one.name for one in fields(DynamicsSettings)}
        defaults = {name: getattr(self, name) for name in shared}
        try:
            return from_dict(plan, {**defaults, **{key: value for key, value in item.items() if key != 'kind'}})
        except ValueError as exception:
            raise ValueError(f'`plans`, item {number} ({kind}): {exception}') from exception

    @property
    def n_replicas(self) -> int:
        """Number of replicas of all plans."""
        return sum(plan.n_replicas for plan in self.read_plans())

    @property
    def atoms_per_batch(self) -> int:
        """Atoms that move together, at most."""
        return self.batch_atoms or (8192 if self.device.startswith('cuda') else 128)
