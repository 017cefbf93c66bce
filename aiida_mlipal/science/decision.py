"""The record of one selection: for every frame of the pool its scores, class, rank and reason."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_mlipal.science.columns import canonical

__all__ = ('CLASSES', 'Decision')

#: In the order in which they are tried; every row of a pool gets exactly one.
CLASSES: Final = (
    'stream',  # the random stream: calibration and test frames, labelled whatever the model thinks of them
    'known',  # labelled before, or the same frame twice in the pool
    'unphysical',  # cannot be a structure, or should not become a training frame
    'accurate',  # below the trust window
    'failed',  # above it, or without finite predictions
    'agreed',  # a cheap level of theory agrees with the model, see :mod:`aiida_mlipal.science.prescreen`
    'duplicate',  # of anything labelled before, of the random stream or of another candidate
    'candidate',  # worth a label, not picked
    'selected',
)

_DTYPES: Final = {
    'frame_id': 'str',
    'uncertainty': '<f8',
    'calibrated': '<f8',
    'distance': '<f8',
    'gain': '<f8',
    'klass': 'str',
    'rank': '<i8',
    'reason': 'str',
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Decision:
    """One selection. Columns have one row per frame of the pool, in the order of the pool, shape ``(F,)``."""

    frame_id: NDArray[np.str_]
    uncertainty: NDArray[np.float64]  #: as measured, see `uncertainty` of SelectionSettings; NaN without one
    calibrated: NDArray[np.float64]  #: the expected force error, eV/Å; as measured without a calibration
    distance: NDArray[np.float64]  #: to the nearest training frame, scaled descriptors; inf without training frames
    gain: NDArray[np.float64]  #: score of the method when picked, or at the end; NaN where it was not scored
    klass: NDArray[np.str_]  #: one of :data:`CLASSES`
    rank: NDArray[np.int64]  #: order of labelling, -1 if not taken
    reason: NDArray[np.str_]
    method: str
    seed: int
    iteration: int
    #: lower and upper, eV/Å, and what the lower one was before it fell; empty without a window
    thresholds: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  #: all of SelectionSettings, defaults included
    notes: list[str] = field(default_factory=list)  #: what was out of the ordinary, in sentences

    def __post_init__(self) -> None:
        n_rows = len(self.frame_id)
        for name, dtype in _DTYPES.items():
            array = canonical(getattr(self, name), dtype)
            if array.shape != (n_rows,):
                raise ValueError(f'`{name}` must have shape {(n_rows,)}, got {array.shape}.')
            object.__setattr__(self, name, array)
        unknown = sorted(set(self.klass.tolist()) - set(CLASSES))
        if unknown:
            raise ValueError(f'`klass` holds {unknown}, expected values of {list(CLASSES)}.')

    def __len__(self) -> int:
        return len(self.frame_id)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return all per-row columns by name, in declaration order."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name in _DTYPES}

    @property
    def selected_ids(self) -> list[str]:
        """Identities of all frames to label, the random stream included, in rank order."""
        taken = np.flatnonzero(self.rank >= 0)
        return [str(frame) for frame in self.frame_id[taken[np.argsort(self.rank[taken], kind='stable')]]]

    @property
    def counts(self) -> dict[str, int]:
        """Number of rows of each class, zeros included; ``agreed`` only if there are any: few campaigns prescreen."""
        counts = {name: int((self.klass == name).sum()) for name in CLASSES}
        return {name: count for name, count in counts.items() if count or name != 'agreed'}

    @property
    def n_stream(self) -> int:
        """Number of frames taken for the random stream."""
        return int(((self.klass == 'stream') & (self.rank >= 0)).sum())

    @property
    def n_selected(self) -> int:
        """Number of frames taken for training."""
        return int((self.klass == 'selected').sum())

    @property
    def quantiles(self) -> dict[str, float | None]:
        """Quantiles of the calibrated uncertainty over the whole pool, eV/Å; None for a single model."""
        levels = {'min': 0.0, 'q05': 0.05, 'q25': 0.25, 'median': 0.5, 'q75': 0.75, 'q95': 0.95, 'max': 1.0}
        finite = self.calibrated[np.isfinite(self.calibrated)]
        return {name: float(np.quantile(finite, level)) if len(finite) else None for name, level in levels.items()}
