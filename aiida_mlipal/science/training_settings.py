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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from aiida_mlipal.science.mace_options import check_raw_options
from aiida_mlipal.science.settings import check_integer, check_number, unknown_name

__all__ = ('TrainingSettings',)

_CHOICES: Final = {
    'device': ('cpu', 'cuda'),
    'distance_transform': ('None', 'Agnesi', 'Soft'),
    'dtype': ('float32', 'float64'),
    'freeze': ('nothing', 'embedding', 'interactions', 'products'),
    'loss': ('universal', 'stress', 'huber', 'weighted'),
    'model': ('MACE', 'ScaleShiftMACE'),
    'optimizer': ('adam', 'adamw'),
    'scheduler': ('ReduceLROnPlateau', 'ExponentialLR'),
    'uncertainty': ('ensemble', 'heads', 'llpr', 'none'),
}
_COUNT, _COUNT_OR_ZERO = partial(check_integer, at_least=1), partial(check_integer, at_least=0)
_SEVERAL = partial(check_integer, at_least=2)
_POSITIVE, _SHARE = partial(check_number, above=0.0), partial(check_number, within=(0.0, 1.0))


def _not_negative(name: str, value: object) -> None:
    check_number(name, value)
    if float(value) < 0:  # type: ignore[arg-type]
        raise ValueError(f'`{name}` must not be negative, got {value!r}.')


_RULES: Final[dict[str, Callable[[str, object], None]]] = {
    **dict.fromkeys(('max_parallel', 'threads', 'gpus_per_member', 'num_channels'), _COUNT),
    **dict.fromkeys(('num_interactions', 'correlation', 'num_radial_basis', 'num_cutoff_basis'), _COUNT),
    **dict.fromkeys(('max_num_epochs', 'batch_size'), _COUNT),
    'lora_rank': _COUNT,
    'lora_alpha': _POSITIVE,
    'n_readouts': _SEVERAL,
    **dict.fromkeys(('split_seed', 'max_L', 'max_ell', 'scheduler_patience'), _COUNT_OR_ZERO),
    **dict.fromkeys(('r_max', 'lr', 'lr_factor', 'lr_scheduler_gamma', 'clip_grad', 'huber_delta'), _POSITIVE),
    **dict.fromkeys(('forces_weight', 'stage_two_lr', 'stage_two_forces_weight'), _POSITIVE),
    **dict.fromkeys(('energy_weight', 'stress_weight', 'weight_decay'), _not_negative),
    **dict.fromkeys(('stage_two_energy_weight', 'stage_two_stress_weight'), _not_negative),
    **dict.fromkeys(('valid_fraction', 'ema_decay', 'stage_two_share'), _SHARE),
}
#: Losses of which the second stage has a form of its own; for the others MACE would drop the stress without a word.
_STAGE_TWO_LOSSES: Final = ('universal', 'stress', 'weighted')


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How the members of a committee are trained. Read with :func:`aiida_mlipal.science.settings.from_dict`.

    Names are those of MACE where it has one.
    """

    seeds: tuple[int, ...]  #: one member per seed
    #: ``ensemble``: the spread of the members. ``llpr``: last-layer prediction rigidity of one model, which costs a few
    #: passes through the training frames instead of further trainings (Bigi et al., arXiv 2403.02251). ``heads``: the
    #: spread of readouts that are fitted to samples of the training data afterwards, at the same cost. ``none``: one
    #: model without. The last three want exactly one seed.
    uncertainty: str = 'ensemble'
    #: of ``heads``; an evaluation costs a backward pass for each. Rank correlation of uncertainty and error per atom of
    #: silicon, means of nine samples: 0.79 with 4 (once 0.62), 0.82 with 8, 0.83 with 16 and with 32
    n_readouts: int = 16
    #: each member of an ``ensemble`` learns from a resample of the training frames, as many as there are, drawn with
    #: replacement by the member's seed (bagging; Breiman, Machine Learning 24, 123 (1996)); the validation frames stay
    bootstrap: bool = False
    #: draws the validation frames where the dataset does not record them, the same for all members so that their errors
    #: compare; a frame that is added moves no other
    split_seed: int = 0
    #: share of frames for validation; at least four frames, at most half of all. The best epoch is judged on these:
    #: with one frame of a small set it was an early epoch by chance, and the model far worse than at the end.
    valid_fraction: float = 0.2
    #: energies of the atoms: ``isolated_atoms`` of the dataset, ``least_squares`` of the frames' energies, or energies
    #: in eV by element, for example ``{Si: -105.6}``
    e0s: str | dict[str, float] = 'isolated_atoms'
    device: str = 'cpu'  #: ``cpu`` or ``cuda``
    dtype: str = 'float32'  #: ``float32`` or ``float64``, which costs twice the time
    max_parallel: int = 2  #: members trained at the same time
    threads: int = 1  #: per member, on several GPUs per GPU
    #: GPUs that share one training (``torchrun``): each takes ``batch_size`` frames of a step, so a step has that many
    #: times more
    gpus_per_member: int = 1
    #: NVIDIA's cuEquivariance kernels, after the job has found that they agree with the plain ones on its own frames
    enable_cueq: bool = False
    model: str = 'ScaleShiftMACE'  #: ``MACE`` for the exact limit of isolated atoms, see above
    #: cutoff, Å. Cells may be smaller: images of an atom are neighbours like any others. What is refused are more than
    #: a thousand neighbours per atom, which no memory holds.
    r_max: float = 4.5
    num_channels: int = 16  #: width of the messages; the time goes with it, the memory too
    #: order of the messages: 0 scalars, 1 vectors (several times the time, less data needed), 2 tensors
    max_L: int = 0  # noqa: N815 - MACE's name
    max_ell: int = 2  #: highest order of the spherical harmonics of a bond
    num_interactions: int = 2  #: layers; the model sees as far as their number times the cutoff
    correlation: int = 2  #: body order of a message less one
    num_radial_basis: int = 8  #: radial functions
    num_cutoff_basis: int = 5  #: power with which they vanish at the cutoff
    #: widths of the layers behind them
    radial_MLP: tuple[int, ...] = (64, 64, 64)  # noqa: N815 - MACE's name
    distance_transform: str = 'None'  #: ``Agnesi`` or ``Soft`` resolve short bonds better, for pairs of many elements
    pair_repulsion: bool = False  #: add the Ziegler-Biersack-Littmark repulsion, for close encounters without labels
    max_num_epochs: int = 60  #: passes through the training frames
    #: frames per step, clamped to the number of training frames, since MACE drops a batch that is not full
    batch_size: int = 4
    valid_batch_size: int | None = None  #: frames per step of a validation, by default ``batch_size``
    optimizer: str = 'adam'  #: ``adam`` or ``adamw``
    lr: float = 0.01  #: learning rate
    weight_decay: float = 5e-7  #: of the weights of messages and products
    clip_grad: float = 10.0  #: largest norm of a gradient
    #: ``ReduceLROnPlateau`` takes the rate times ``lr_factor`` when the validation loss has not improved for
    #: ``scheduler_patience`` epochs, ``ExponentialLR`` times ``lr_scheduler_gamma`` after each epoch
    scheduler: str = 'ReduceLROnPlateau'
    lr_factor: float = 0.5  #: see ``scheduler``
    scheduler_patience: int = 5  #: see ``scheduler``
    lr_scheduler_gamma: float = 0.9993  #: see ``scheduler``
    #: of the running average of the weights, which is what is validated and kept; 0 keeps the weights themselves
    ema_decay: float = 0.99
    #: ``universal`` (Huber, softer where forces are large), ``stress`` (squares), ``huber``, or ``weighted`` (squares
    #: of energies and forces; learns no stress)
    loss: str = 'universal'
    energy_weight: float = 1.0  #: of the squared error of the energy per atom
    forces_weight: float = 10.0  #: of the squared error of force components
    stress_weight: float = 10.0  #: of the squared error of the stress
    huber_delta: float = 0.01  #: error at which the losses ``universal`` and ``huber`` turn from square to linear
    #: share of the epochs, at the end, that are trained with the weights below: they bring the energies in order once
    #: the forces are learned. MACE calls it stage two or SWA, though nothing is averaged. 0 is none; the model that is
    #: handed over is then the best of the second stage.
    stage_two_share: float = 0.0
    stage_two_lr: float = 0.001  #: learning rate of the second stage
    stage_two_energy_weight: float = 100.0  #: of the second stage
    stage_two_forces_weight: float = 10.0  #: of the second stage
    stage_two_stress_weight: float = 10.0  #: of the second stage
    #: which layers keep the weights of the foundation model: ``nothing`` is frozen, the ``embedding`` of the elements,
    #: the ``interactions`` as well, or the ``products`` as well, so that the readouts alone learn
    freeze: str = 'nothing'
    #: low-rank adaptation: the weights of the foundation model stay, and matrices of a low rank, which are added to
    #: those of its linear layers, are all that learns (Hu et al., arXiv 2106.09685). The model that is handed over has
    #: the sums, and the same size as before.
    lora: bool = False
    lora_rank: int = 4  #: rank of those matrices
    lora_alpha: float = 1.0  #: their product is added times this number over the rank
    #: further options of ``mace_run_train`` by name, for example ``{gate: tanh}``; held against the MACE of the
    #: compute node before anything is trained
    mace_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ('seeds', 'radial_MLP'):
            if not isinstance(getattr(self, name), (list, tuple)):
                raise ValueError(f'TrainingSettings: `{name}` must be a list of integers, got {getattr(self, name)!r}.')
            object.__setattr__(self, name, tuple(getattr(self, name)))
        problems = [*self._problems()]
        if problems:
            raise ValueError('TrainingSettings: ' + ' '.join(problems))

    @property
    def stage_two_start(self) -> int | None:
        """The first epoch (from 0) of the second stage, ``None`` if there is none."""
        if not self.stage_two_share:
            return None
        n_epochs = max(1, round(self.stage_two_share * self.max_num_epochs))
        return max(1, self.max_num_epochs - n_epochs)

    def _problems(self) -> Iterator[str]:
        """Yield what is wrong, one sentence each."""
        for name, valid in _CHOICES.items():
            if getattr(self, name) not in valid:
                yield unknown_name(name, getattr(self, name), valid)
        values = [(name, getattr(self, name), rule) for name, rule in _RULES.items()]
        values += [('seeds', seed, _COUNT_OR_ZERO) for seed in self.seeds]
        values += [('radial_MLP', width, _COUNT) for width in self.radial_MLP]
        if self.valid_batch_size is not None:
            values.append(('valid_batch_size', self.valid_batch_size, _COUNT))
        for name, value, rule in values:
            try:
                rule(name, value)
            except ValueError as exception:
                yield str(exception)
        for name in ('bootstrap', 'enable_cueq', 'lora', 'pair_repulsion'):
            if not isinstance(getattr(self, name), bool):
                yield f'`{name}` must be true or false, got {getattr(self, name)!r}.'
        if not self.seeds:
            yield '`seeds` must name at least one member.'
        if len(set(self.seeds)) != len(self.seeds):
            yield f'`seeds` must differ, or members would agree everywhere; got {list(self.seeds)}.'
        if self.uncertainty != 'ensemble' and len(self.seeds) > 1:
            yield (
                f'`uncertainty` is `{self.uncertainty}`, which trains one model, but there are {len(self.seeds)} seeds:'
                ' set `n_members: 1` (or one entry in `seeds`), or `uncertainty: ensemble`.'
            )
        if self.bootstrap is True and self.uncertainty != 'ensemble':
            yield (
                f'`bootstrap` resamples the frames of each member of an ensemble, but `uncertainty` is '
                f'`{self.uncertainty}`: set `bootstrap: false`, or `uncertainty: ensemble`.'
            )
        if self.device != 'cuda' and isinstance(self.gpus_per_member, int) and self.gpus_per_member > 1:
            yield (
                f'`gpus_per_member` is {self.gpus_per_member}, but `device` is `{self.device}`: set `device: cuda`, or '
                '`gpus_per_member: 1`; on the CPU set `threads`.'
            )
        if not self.radial_MLP:
            yield '`radial_MLP` must name at least one layer.'
        for name in ('valid_fraction', 'ema_decay', 'stage_two_share'):
            if getattr(self, name) == 1:
                yield f'`{name}` must be below 1.'
        if self.valid_fraction == 0:
            yield (
                '`valid_fraction` must be above 0: without validation frames nobody knows which epoch is the best; the '
                'default is 0.2.'
            )
        yield from self._e0_problems()
        yield from self._stage_two_problems()
        yield from self._lora_problems()
        if isinstance(self.mace_options, Mapping):
            yield from check_raw_options(self.mace_options)
        else:
            yield f'`mace_options` must map names to values, for example {{gate: tanh}}, got {self.mace_options!r}.'

    def _e0_problems(self) -> Iterator[str]:
        """Yield what is wrong with the energies of the atoms."""
        from ase.data import chemical_symbols

        if not isinstance(self.e0s, Mapping):
            if self.e0s not in ('isolated_atoms', 'least_squares'):
                yield (
                    f'`e0s` must be `isolated_atoms`, `least_squares` or energies in eV by element, for example '
                    f'{{Si: -105.6}}, got {self.e0s!r}.'
                )
            return
        for symbol, energy in self.e0s.items():
            if symbol not in chemical_symbols[1:]:
                yield f'`e0s`: `{symbol}` is no chemical symbol.'
            try:
                check_number(f'e0s.{symbol}', energy)
            except ValueError as exception:
                yield str(exception)

    def _lora_problems(self) -> Iterator[str]:
        """Yield what low-rank adaptation does not go with."""
        if self.lora is True and self.freeze != 'nothing':
            yield '`lora` freezes all weights of the foundation model already: set `freeze: nothing`, or `lora: false`.'
        if self.lora is True and self.enable_cueq is True:
            yield (
                '`lora` and `enable_cueq` do not go together: MACE would hand over the model without what it has '
                'learned. Set one of them to false.'
            )

    def _stage_two_problems(self) -> Iterator[str]:
        """Yield why there cannot be a second stage."""
        if not self.stage_two_share:
            return
        if self.loss not in _STAGE_TWO_LOSSES:
            yield (
                f'`stage_two_share`: in its second stage MACE trains the loss `{self.loss}` without the stress; set '
                f'`loss` to {" or ".join(f"`{name}`" for name in _STAGE_TWO_LOSSES)}, or `stage_two_share` to 0.'
            )
        if self.max_num_epochs == 1:
            yield '`stage_two_share` needs `max_num_epochs` of at least 2: one epoch cannot be shared.'
