"""How the labels of one iteration are spent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from aiida_mlipal.science.settings import check_integer, check_number, unknown_name
from aiida_mlipal.science.strategies.pick import NEED_COST, NEED_UNCERTAINTY, STRATEGIES
from aiida_mlipal.science.strategies.quotas import check_quotas
from aiida_mlipal.science.uncertainty import parts_of

__all__ = ('SelectionSettings',)


@dataclass(frozen=True)
class SelectionSettings:
    """How the labels of one iteration are spent."""

    method: str = 'max_det'
    #: The method as long as no frame is labelled that the uncertainty could be calibrated on: before that, no trust
    #: window keeps away what a first model broke, and that differs most from all others.
    first_method: str = 'random'
    n_labels: int = 20  #: labels of one iteration, the random stream included
    random_share: float = 0.2  #: part of them that goes to the random stream, two at least
    random_picks: float = 0.1  #: part of them that is drawn at random among the candidates, and trained on
    #: The largest share of the picks for one `trajectory`, `plan` or `composition`: a number for any of a kind, or a
    #: mapping with numbers for some, which leave the rest to all others.
    quotas: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)
    #: Frames closer than this are one, as a fraction of the median distance of a frame to its nearest neighbour.
    duplicate_distance: float = 0.01
    min_distance_factor: float = 0.5  #: of the sum of covalent radii, below which a frame is unphysical
    max_force: float = 100.0  #: eV/Å, predicted, above which a frame is unphysical
    density_factor: float = 1.5  #: times denser or thinner than all training frames, beyond which it is, too
    lower_factor: float = 1.5  #: the trust window begins at this multiple of the force RMSE
    upper_factor: float = 10.0  #: and ends at this multiple of its beginning
    lower_floor: float = 0.5  #: its beginning falls to this part where it leaves too few candidates; 1 keeps it
    #: What uncertainty is measured by, or several joined by `+`, see :mod:`aiida_mlipal.science.uncertainty`.
    uncertainty: str = 'forces_max'
    calibration_decay: float = 0.9  #: weight of a calibration frame against one that is an iteration younger

    def __post_init__(self) -> None:
        for method in (self.method, self.first_method):
            if method not in STRATEGIES:
                raise ValueError(unknown_name('selection method', method, STRATEGIES))
        check_integer('n_labels', self.n_labels)
        check_number('random_share', self.random_share, within=(0, 0.9))
        check_number('random_picks', self.random_picks, within=(0, 1))
        if self.random_share + self.random_picks > 1:
            raise ValueError(
                f'`random_share` ({self.random_share:g}) and `random_picks` ({self.random_picks:g}) are parts of the '
                'same labels and add up to more than 1: lower one of them.'
            )
        check_quotas(self.quotas)
        check_number('duplicate_distance', self.duplicate_distance, within=(0, 1))
        check_number('min_distance_factor', self.min_distance_factor, within=(0, 1))
        check_number('max_force', self.max_force, above=0)
        check_number('density_factor', self.density_factor, above=1)
        check_number('lower_factor', self.lower_factor, above=0)
        check_number('upper_factor', self.upper_factor, above=1)
        check_number('lower_floor', self.lower_floor, within=(0, 1))
        parts_of(self.uncertainty)
        check_number('calibration_decay', self.calibration_decay, within=(0.01, 1))
        if self.n_labels <= self.n_stream:
            raise ValueError(
                f'`n_labels` is {self.n_labels} and {self.n_stream} of them go to the random stream, so that nothing '
                f'is left to train on: set `n_labels` to {self.n_stream + 1} or more, or lower `random_share`.'
            )

    @property
    def n_stream(self) -> int:
        """Frames of the random stream in one iteration: one for calibration and one for testing at least."""
        return max(2, round(self.random_share * self.n_labels))

    @property
    def n_random_picks(self) -> int:
        """Frames drawn at random among the candidates in one iteration."""
        return round(self.random_picks * self.n_labels)

    @property
    def committee_method(self) -> str:
        """The method that ranks by the spread of a committee; empty if none does."""
        return self._first_of(NEED_UNCERTAINTY)

    @property
    def cost_method(self) -> str:
        """The method that ranks by what a label will cost; empty if none does."""
        return self._first_of(NEED_COST)

    def _first_of(self, methods: Collection[str]) -> str:
        return next((method for method in (self.method, self.first_method) if method in methods), '')
