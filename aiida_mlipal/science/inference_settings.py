"""How a model is evaluated; plain Python, because runners read it on the compute node too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from aiida_mlipal.science.settings import check_flag, check_integer, unknown_name

__all__ = ('InferenceSettings', 'PropertiesSettings', 'check_device')

_PROPERTIES: Final = ('eos',)


def check_device(device: str, dtype: str) -> None:
    """Refuse a device or a floating-point type that torch does not know.

    :raises ValueError: naming the setting, what was found and what was expected.
    """
    if not re.fullmatch(r'cpu|cuda(:\d+)?', str(device)):
        raise ValueError(f"`device` must be 'cpu', 'cuda' or 'cuda:0', 'cuda:1', ..., got {device!r}.")
    if dtype not in ('float32', 'float64'):
        raise ValueError(f"`dtype` must be 'float32' or 'float64', got {dtype!r}.")


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Settings of ``mlipal.mace.evaluate`` and ``mlipal.doctor``."""

    device: str = 'cpu'
    dtype: str = 'float64'
    threads: int = 1
    batch_atoms: int = 256  #: atoms per batch, at most (a single frame may have more)
    #: NVIDIA's cuEquivariance kernels, after the job has found that they agree with the plain ones on its own frames
    enable_cueq: bool = False

    def __post_init__(self) -> None:
        check_device(self.device, self.dtype)
        check_integer('threads', self.threads)
        check_integer('batch_atoms', self.batch_atoms)
        check_flag('enable_cueq', self.enable_cueq)


@dataclass(frozen=True, kw_only=True)
class PropertiesSettings(InferenceSettings):
    """Settings of ``mlipal.properties``."""

    property: str = 'eos'  #: equation of state

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.property not in _PROPERTIES:
            raise ValueError(unknown_name('property', self.property, _PROPERTIES))
