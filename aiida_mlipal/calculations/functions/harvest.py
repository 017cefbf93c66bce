"""Put harvested frames together: each once, judged like all labels, and thinned out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.fingerprint import thin
from aiida_mlipal.science.label_checks import LabelChecks, check_labels
from aiida_mlipal.science.level_of_theory import require_equal
from aiida_mlipal.science.settings import check_number, from_dict

__all__ = ('THIN_DISTANCE', 'HarvestSettings', 'assemble_harvest', 'judge_and_thin')

#: Below it, two frames teach a model the same: in silicon a strain of 0.04 %, or random displacements of 0.005 Å.
THIN_DISTANCE: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class HarvestSettings:
    """How harvested frames are judged and thinned out."""

    thin: float = THIN_DISTANCE  #: distance of fingerprints up to which the earlier one of two frames stands for both
    checks: dict[str, Any] = field(default_factory=dict)  #: :class:`LabelChecks`

    def __post_init__(self) -> None:
        check_number('thin', self.thin, within=(0.0, 1e6))
        from_dict(LabelChecks, self.checks)


def judge_and_thin(frames: Configurations, settings: HarvestSettings) -> Configurations:
    """Return the frames that stay: each once, a computed label before a failed one, rejected ones with their reason."""
    first: dict[str, int] = {}
    for row, (frame, status) in enumerate(zip(frames.frame_id.tolist(), frames.status.tolist(), strict=True)):
        if frame not in first or (status == 'labelled' and frames.status[first[frame]] != 'labelled'):
            first[frame] = row
    judged = check_labels(frames.take(sorted(first.values())), from_dict(LabelChecks, settings.checks))
    return judged.take(thin(judged, settings.thin))


@calcfunction
def assemble_harvest(settings: orm.Dict, **chunks: ConfigurationsData) -> ConfigurationsData:
    """Return the frames of ``chunks`` in the order of their names as one dataset.

    :param settings: :class:`HarvestSettings`.
    :raises ValueError: if two chunks differ in their level of theory.
    """
    nodes = [chunks[key] for key in sorted(chunks)]
    for node in nodes[1:]:
        require_equal(nodes[0].level_of_theory or {}, node.level_of_theory or {}, 'harvested chunks')
    frames = Configurations.concatenate([node.configurations for node in nodes])
    kept = judge_and_thin(frames, from_dict(HarvestSettings, settings.get_dict()))
    return ConfigurationsData(kept, level_of_theory=nodes[0].level_of_theory)
