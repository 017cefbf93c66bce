"""Settings of a committee's training, with defaults for small sets of small cells.

Measured with pw.x silicon cells of 8 atoms (strained, rattled, some with a vacancy; force RMSE on MD frames at 300 to
900 K, eV/Å, two seeds; seeds differ by up to 30 %, so smaller differences say nothing), 16 labels, 60 epochs:

- ``model``: ``ScaleShiftMACE`` 0.095, 0.104; ``MACE`` 0.168, 0.190 (energies 6 and 12 against 19 and 35 meV per atom).
  The first starts from the mean cohesive energy instead of learning 5 eV per atom; the price is that a lone atom has
  its E0 plus that mean.
- ``loss`` with weights 1, 10, 10: 0.095, 0.104; with 1, 100, 100: 0.092, 0.108, with worse energies. ``stress`` in
  place of ``universal``: 0.141, 0.173 and energies off by 50 to 150 meV per atom (both with ``MACE``).
- Averaged weights (``ema_decay``) or not: 0.095, 0.104 and 0.096, 0.097. Kept for a smoother validation loss.
- ReduceLROnPlateau or an exponential decay (0.95 per epoch), batches of 2: 0.078, 0.103 and 0.098, 0.110.
- The defaults, four seeds: 16 labels 0.081 to 0.107 (18 s of one core per member), 48 labels 0.070 to 0.074 (46 s);
  48 labels with batches of 8: 0.081, 0.083 (30 s).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aiida_mlipal.science.settings import unknown_name

__all__ = ('TrainingSettings',)

_CHOICES: Final = {
    'device': ('cpu', 'cuda'),
    'dtype': ('float32', 'float64'),
    'e0s': ('isolated_atoms', 'least_squares'),
    'loss': ('universal', 'stress', 'huber', 'weighted'),
    'model': ('MACE', 'ScaleShiftMACE'),
}
_POSITIVE: Final = (
    'max_parallel', 'threads', 'r_max', 'num_channels', 'num_interactions', 'correlation', 'max_num_epochs',
    'batch_size', 'lr', 'lr_factor', 'forces_weight',
)  # fmt: skip
_NOT_NEGATIVE: Final = ('split_seed', 'max_L', 'max_ell', 'scheduler_patience', 'energy_weight', 'stress_weight')


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the members of a committee are trained. Read with :func:`aiida_mlipal.science.settings.from_dict`."""

    seeds: tuple[int, ...]  #: one member per seed
    split_seed: int = 0  #: draws the validation frames, the same for all members so that their errors compare
    #: share of frames for validation; at least four frames, or half of all. The best epoch is judged on these: with one
    #: frame of a small set it was an early epoch by chance, and the model far worse than at the end.
    valid_fraction: float = 0.2
    e0s: str = 'isolated_atoms'  #: energies of the atoms; or ``least_squares`` of the frames' energies
    device: str = 'cpu'
    dtype: str = 'float32'
    max_parallel: int = 2  #: members trained at the same time
    threads: int = 1  #: per member
    model: str = 'ScaleShiftMACE'  #: ``MACE`` for the exact limit of isolated atoms, see above
    r_max: float = 4.5  #: cutoff, Å
    num_channels: int = 16
    max_L: int = 0  # noqa: N815 - MACE's name
    max_ell: int = 2
    num_interactions: int = 2
    correlation: int = 2
    max_num_epochs: int = 60
    batch_size: int = 4  #: frames per step, clamped to the number of training frames
    lr: float = 0.01
    lr_factor: float = 0.5  #: on the rate, when the validation loss has not improved for ``scheduler_patience`` epochs
    scheduler_patience: int = 5
    ema_decay: float = 0.99  #: of the running average of the weights, which is what is validated and kept
    loss: str = 'universal'
    energy_weight: float = 1.0
    forces_weight: float = 10.0
    stress_weight: float = 10.0

    def __post_init__(self) -> None:
        object.__setattr__(self, 'seeds', tuple(self.seeds))
        problems = [
            unknown_name(name, getattr(self, name), valid)
            for name, valid in _CHOICES.items()
            if getattr(self, name) not in valid
        ]
        problems += [
            f'`{name}` must be above 0, got {getattr(self, name)}.' for name in _POSITIVE if not getattr(self, name) > 0
        ]
        problems += [
            f'`{name}` must not be negative, got {getattr(self, name)}.'
            for name in _NOT_NEGATIVE
            if not getattr(self, name) >= 0
        ]
        if not 0 < self.valid_fraction < 1:
            problems.append(f'`valid_fraction` must be between 0 and 1, got {self.valid_fraction}.')
        if not 0 <= self.ema_decay < 1:
            problems.append(f'`ema_decay` must be at least 0 and below 1, got {self.ema_decay}.')
        if not self.seeds:
            problems.append('`seeds` must name at least one member.')
        if len(set(self.seeds)) != len(self.seeds):
            problems.append(f'`seeds` must differ, or members would agree everywhere; got {list(self.seeds)}.')
        if problems:
            raise ValueError('TrainingSettings: ' + ' '.join(problems))
