"""Plan ``uncertainty_bias``: dynamics that are drawn to where the model is unsure.

A multiple of the model's uncertainty is taken off its energy. ``form: linear`` takes the standard deviation of the
energy as it is (hyperactive learning: van der Oord, Sachs, Kovács, Ortner and Csányi, npj Comput. Mater. 9, 168
(2023)); ``form: saturating`` takes 1 - exp(-σ² / (N scale²)) for N atoms, which no longer pulls where the model is very
unsure (uncertainty-driven dynamics: Kulichenko et al., Nat. Comput. Sci. 3, 230 (2023)).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from aiida_mlipal.science.exploration_plans import DynamicsSettings, Plan
from aiida_mlipal.science.settings import check_integer, check_number, unknown_name

__all__ = ('UncertaintyPlan',)

_FORMS: Final = ('linear', 'saturating')


@dataclass(frozen=True, kw_only=True)
class UncertaintyPlan(DynamicsSettings, Plan):
    """Dynamics biased along the gradient of the committee's, or the last layer's, uncertainty of the energy.

    The multiple adapts: every ``stride`` steps it is set so that the bias force is ``strength`` times the physical
    force, in running averages of the root mean squares over a replica's atoms.
    """

    KIND: ClassVar[str] = 'uncertainty_bias'
    NEEDS_UNCERTAINTY: ClassVar[bool] = True

    form: str = 'linear'  #: or `saturating`
    strength: float = 0.3  #: ratio of the forces that the multiple adapts to, in running averages
    max_strength: float = 0.6  #: ratio of the forces that is never passed
    memory: int = 20  #: strides that a running average goes back
    scale: float = 0.01  #: of the saturating form, eV: an uncertainty of scale times the root of N is much

    def __post_init__(self) -> None:
        Plan.__post_init__(self)
        DynamicsSettings.__post_init__(self)
        if self.form not in _FORMS:
            raise ValueError(unknown_name('form of the bias', self.form, _FORMS))
        check_number('strength', self.strength, above=0)
        check_number('max_strength', self.max_strength, within=(self.strength, 1))
        check_integer('memory', self.memory)
        check_number('scale', self.scale, above=0)

    @property
    def n_replicas(self) -> int:
        """Number of replicas."""
        return len(self.replica_temperatures)
