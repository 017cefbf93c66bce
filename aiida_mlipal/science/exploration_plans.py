"""The plans of an exploration: each a way to search configuration space, described by a small settings object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Final

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.settings import check_integer, check_number, unknown_name

__all__ = ('ENSEMBLES', 'STRAINS', 'DynamicsPlan', 'DynamicsSettings', 'Plan')

#: Ensembles of molecular dynamics, and how they are integrated.
ENSEMBLES: Final = {
    'nve': 'constant energy: velocity Verlet',
    'nvt': 'Langevin bath: BAOAB, one force call per step',
    'nvt_nose_hoover': 'chain of three Nosé-Hoover thermostats, with the relaxation time `1 / friction`',
    'npt': 'Langevin bath, and a cell of fixed shape whose volume follows the pressure',
    'npt_full_cell': 'Langevin bath, and a cell whose volume and shape follow the pressure',
}
#: Components of a strain, and their rows and columns.
STRAINS: Final = {'xx': (0, 0), 'yy': (1, 1), 'zz': (2, 2), 'yz': (1, 2), 'xz': (0, 2), 'xy': (0, 1)}


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """What all plans have in common. Where a key of the exploration has the same name, it is the default."""

    KIND: ClassVar[str] = ''
    NEEDS_UNCERTAINTY: ClassVar[bool] = False  #: of the model, at each step

    name: str = ''  #: by which frames refer to the plan; by default its kind

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f'`name` must be text, got {self.name!r}.')

    @property
    def label(self) -> str:
        """The name, or the kind."""
        return self.name or self.KIND

    @property
    def is_unbiased(self) -> bool:
        """Whether its frames are what a user of the potential will meet: the random stream is drawn from these."""
        return False

    @property
    @abstractmethod
    def n_replicas(self) -> int:
        """Number of replicas."""

    def check_starts(self, starts: Configurations) -> None:  # noqa: B027 - most plans begin anywhere
        """Refuse starts that the plan cannot begin from; any will do, unless a plan says otherwise.

        :raises ValueError: naming the plan and the start.
        """


@dataclass(frozen=True, kw_only=True)
class DynamicsSettings:
    """Molecular dynamics of ``n_replicas_per_temperature`` replicas at each temperature."""

    temperatures: Sequence[float] = (300.0, 600.0, 900.0)  #: K
    n_replicas_per_temperature: int = 4
    n_steps: int = 500
    stride: int = 10  #: steps between saved frames
    time_step: float = 1.0  #: fs
    friction: float = 0.01  #: 1/fs; how fast the bath acts

    def __post_init__(self) -> None:
        for name in ('n_replicas_per_temperature', 'n_steps', 'stride'):
            check_integer(name, getattr(self, name))
        check_number('time_step', self.time_step, above=0)
        check_number('friction', self.friction, above=0)
        if not isinstance(self.temperatures, (list, tuple)) or not self.temperatures:
            raise ValueError(f'`temperatures` must be a list of at least one number in K, got {self.temperatures!r}.')
        for value in self.temperatures:
            check_number('temperatures', value, above=0)
        if self.n_steps < self.stride:
            raise ValueError(
                f'`n_steps` ({self.n_steps}) is less than `stride` ({self.stride}), so no frame would be kept: '
                'lower `stride`.'
            )

    @property
    def replica_temperatures(self) -> list[float]:
        """Temperature of each replica in K: the first of the list for the first ones."""
        return [float(value) for value in self.temperatures for _ in range(self.n_replicas_per_temperature)]


@dataclass(frozen=True, kw_only=True)
class DynamicsPlan(DynamicsSettings, Plan):
    """Molecular dynamics on a grid of temperatures and pressures, or along a ramp, or of a cell that is deformed."""

    KIND: ClassVar[str] = 'dynamics'

    ensemble: str = 'nvt'  #: `nve`, `nvt`, `nvt_nose_hoover`, `npt` or `npt_full_cell`
    pressures: Sequence[float] = (0.0,)  #: GPa, positive when it compresses; each with each temperature
    barostat_time: float = 1000.0  #: fs within which a cell of this compressibility follows the pressure
    compressibility: float = 0.01  #: 1/GPa: silicon 0.01, water 0.5; a soft material follows a small one slowly
    #: Pairs of a step and a temperature in K, the first at step 0, in between linear: instead of ``temperatures``.
    ramp: Sequence[Sequence[float]] = ()
    #: Strain per ps by component (xx, yy, zz, yz, xz, xy), positive when it stretches.
    strain_rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Plan.__post_init__(self)
        DynamicsSettings.__post_init__(self)
        if self.ensemble not in ENSEMBLES:
            raise ValueError(unknown_name('ensemble', self.ensemble, ENSEMBLES))
        if not isinstance(self.pressures, (list, tuple)) or not self.pressures:
            raise ValueError(f'`pressures` must be a list of at least one number in GPa, got {self.pressures!r}.')
        for value in self.pressures:
            check_number('pressures', value)
        if any(self.pressures) and not self.has_barostat:
            raise ValueError(
                f'`pressures` are given, but the ensemble is `{self.ensemble}`, whose cell is fixed: set `ensemble: '
                'npt` or `npt_full_cell`, or take `pressures` out.'
            )
        check_number('barostat_time', self.barostat_time, above=0)
        check_number('compressibility', self.compressibility, above=0)
        self._check_ramp()
        self._check_strain_rates()

    def _check_ramp(self) -> None:
        if not self.ramp:
            return
        try:
            steps, kelvin = zip(*((float(step), float(value)) for step, value in self.ramp), strict=True)
        except (TypeError, ValueError):
            raise ValueError(
                f'`ramp` must be a list of pairs [step, temperature in K], got {self.ramp!r}: for example '
                '[[0, 300], [2000, 2500], [6000, 300]].'
            ) from None
        if steps[0] != 0 or any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f'the steps of `ramp` must begin at 0 and rise, got {list(steps)}.')
        for value in kelvin:
            check_number('ramp', value, above=0)
        if self.ensemble == 'nve':
            raise ValueError('`ramp` needs a bath, which the ensemble `nve` has not: set `ensemble: nvt` or `npt`.')

    def _check_strain_rates(self) -> None:
        if not isinstance(self.strain_rates, Mapping):
            raise ValueError(f'`strain_rates` must be a mapping as {{xx: 0.01}}, got {self.strain_rates!r}.')
        for name, value in self.strain_rates.items():
            if name not in STRAINS:
                raise ValueError(unknown_name('component of `strain_rates`', name, STRAINS))
            check_number('strain_rates', value)
        if self.strain_rates and self.has_barostat:
            raise ValueError(
                f'`strain_rates` and the ensemble `{self.ensemble}` would both move the cell: set `ensemble: nvt`.'
            )

    @property
    def has_barostat(self) -> bool:
        """Whether the cell follows a pressure."""
        return self.ensemble.startswith('npt')

    @property
    def needs_cell(self) -> bool:
        """Whether only a system that is periodic in all directions can be moved so."""
        return self.has_barostat or bool(self.strain_rates)

    @property
    def is_unbiased(self) -> bool:
        """Whether it samples the canonical or the isothermal-isobaric ensemble. A trajectory at constant energy keeps
        the energy that it happens to begin with, and ramps and deformations pass through without rest.
        """
        return self.ensemble != 'nve' and not self.ramp and not self.strain_rates

    @property
    def conditions(self) -> list[tuple[float, float]]:
        """Temperature in K and pressure in GPa (NaN without a barostat) of each replica."""
        pressures = [float(value) for value in self.pressures] if self.has_barostat else [float('nan')]
        temperatures = [float(self.ramp[0][1])] if self.ramp else [float(value) for value in self.temperatures]
        grid = [(temperature, pressure) for temperature in temperatures for pressure in pressures]
        return [condition for condition in grid for _ in range(self.n_replicas_per_temperature)]

    @property
    def n_replicas(self) -> int:
        """Number of replicas: ``n_replicas_per_temperature`` at each temperature and pressure."""
        return len(self.conditions)
