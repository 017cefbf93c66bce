"""A search for training settings from a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ProcessBuilder

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.settings import from_dict
from aiida_mlipal.science.tuning import TuningSettings
from aiida_mlipal.workflows.gpu import with_device
from aiida_mlipal.workflows.train import TrainWorkChain

__all__ = ('TuneBuilderMixin',)


class TuneBuilderMixin:
    """Adds :meth:`get_builder_from_protocol` to the search."""

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode | str,
        dataset: ConfigurationsData,
        *,
        seed: int = 1,
        search: Mapping[str, Any] | None = None,
        max_concurrent: int = 2,
        **training: Any,
    ) -> ProcessBuilder:
        """Return a builder with all inputs of a search.

        :param code: a Python that has mace-torch.
        :param dataset: labelled frames.
        :param seed: of the first member; those of the others follow, one by one.
        :param search: what is tried, see :class:`~aiida_mlipal.science.tuning.TuningSettings`.
        :param max_concurrent: trainings at the same time.
        :param training: what ``get_builder_from_protocol`` of a training takes besides: ``protocol``, ``overrides``,
            ``options`` and so on.
        :raises ValueError: for unknown settings and bad values, with what to type instead.
        """
        tried = {'seed': seed, **(search or {})}
        from_dict(TuningSettings, tried)
        inputs = TrainWorkChain.get_builder_from_protocol(code, dataset, seed=seed, **training)._inputs(prune=True)
        builder: ProcessBuilder = cls.get_builder()  # type: ignore[attr-defined]
        builder.settings = inputs.pop('settings')
        builder.search = orm.Dict(tried)
        builder.max_concurrent = orm.Int(max_concurrent)
        builder.train = inputs
        job = inputs['mace']['metadata']['options']
        one_gpu = {**job, 'gpus': 1} if job.get('gpus') else job
        builder.evaluate = {
            'code': inputs['mace']['code'],
            'settings': orm.Dict(with_device({}, job)),
            'metadata': {'options': one_gpu},
        }
        return builder
