"""What an exploration needs to know; plain Python, because the runner reads it on the compute node too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aiida_mlipal.science.inference_settings import check_device
from aiida_mlipal.science.settings import check_flag, check_integer, check_number

__all__ = ('ExplorationSettings',)


@dataclass(frozen=True, kw_only=True)
class ExplorationSettings:
    """Settings of ``mlipal.mace.explore``: canonical Langevin dynamics of many replicas.

    There are ``len(temperatures) * n_replicas_per_temperature`` replicas, numbered with the temperature slowest;
    replica ``i`` begins at frame ``i % n_starts`` of the starts.
    """

    seed: int  #: of velocities, noise, random stream
    iteration: int = 0  #: goes into the names of trajectories and into the noise
    temperatures: Sequence[float] = (300.0, 600.0, 900.0)  #: K
    n_replicas_per_temperature: int = 4
    n_steps: int = 500
    time_step: float = 1.0  #: fs
    friction: float = 0.01  #: 1/fs; 0 conserves the energy
    stride: int = 10  #: steps between saved frames
    n_stream: int = 6  #: frames of the random stream, half of them for calibration and half for the test
    max_candidates: int = 500  #: more are thinned out by farthest-point sampling
    max_force: float = 50.0  #: eV/Å; a replica beyond it stops
    #: A replica hotter than so many times its target stops (more for cells of fewer than eight atoms, where the
    #: temperature fluctuates more).
    max_temperature_factor: float = 5.0
    min_distance_factor: float = 0.5  #: of the sum of covalent radii; a replica with closer atoms stops
    device: str = 'cpu'
    dtype: str = 'float32'  #: of the model; positions and velocities are always double precision
    threads: int = 1
    batch_atoms: int = 0  #: atoms that move together, at most; 0 means 128 on the CPU and 8192 on a GPU
    #: NVIDIA's cuEquivariance kernels, after the job has found that they agree with the plain ones on its own frames
    enable_cueq: bool = False

    def __post_init__(self) -> None:
        for name in ('n_replicas_per_temperature', 'n_steps', 'stride', 'max_candidates', 'threads'):
            check_integer(name, getattr(self, name))
        for name in ('seed', 'iteration', 'n_stream', 'batch_atoms'):
            check_integer(name, getattr(self, name), at_least=0)
        for name in ('time_step', 'max_force', 'min_distance_factor'):
            check_number(name, getattr(self, name), above=0)
        check_number('friction', self.friction, within=(0, 1e6))
        check_number('max_temperature_factor', self.max_temperature_factor, above=1)
        if not isinstance(self.temperatures, (list, tuple)) or not self.temperatures:
            raise ValueError(f'`temperatures` must be a list of at least one number in K, got {self.temperatures!r}.')
        for value in self.temperatures:
            check_number('temperatures', value, above=0)
        if self.n_steps < self.stride:
            raise ValueError(
                f'`n_steps` ({self.n_steps}) is less than `stride` ({self.stride}), so no frame would be kept: '
                'lower `stride`.'
            )
        check_device(self.device, self.dtype)
        check_flag('enable_cueq', self.enable_cueq)

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.temperatures) * self.n_replicas_per_temperature

    @property
    def atoms_per_batch(self) -> int:
        """Atoms that move together, at most."""
        return self.batch_atoms or (8192 if self.device.startswith('cuda') else 128)
