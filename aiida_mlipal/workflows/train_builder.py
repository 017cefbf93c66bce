"""A training from a protocol, without a campaign around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ProcessBuilder
from aiida_quantumespresso.workflows.protocols.utils import recursive_merge

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.foundation import fine_tuning
from aiida_mlipal.workflows import checks
from aiida_mlipal.workflows.builder import CampaignProtocols, job_options
from aiida_mlipal.workflows.gpu import check_gpus, with_device

__all__ = ('TrainBuilderMixin',)


class TrainBuilderMixin(CampaignProtocols):
    """Adds :meth:`get_builder_from_protocol` to the training."""

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode | str,
        dataset: ConfigurationsData,
        *,
        protocol: str | None = None,
        seed: int = 1,
        other_datasets: Mapping[str, ConfigurationsData] | None = None,
        foundation_model: MlipModelData | None = None,
        replay: ConfigurationsData | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with all inputs of a training.

        :param code: a Python that has mace-torch.
        :param dataset: labelled frames.
        :param protocol: fast, balanced or stringent.
        :param seed: of the first member; those of the others follow, one by one.
        :param other_datasets: labelled frames of other levels of theory, by the names of the heads that learn them.
        :param foundation_model: a model to start from; it decides the architecture, and ``lr`` is 0.001 if not given.
        :param replay: labelled frames of the level of theory of that model, so that it does not forget them.
        :param overrides: settings over those of the protocol, and ``n_members``.
        :param options: ``metadata.options`` of the job; with ``gpus`` it runs on the device ``cuda``.
        :raises ValueError: for unknown settings and bad values, with what to type instead.
        """
        defaults = cls.get_protocol_inputs(protocol)['training']
        settings = recursive_merge(fine_tuning(defaults) if foundation_model else defaults, dict(overrides or {}))
        settings = with_device(settings, options or {})
        n_members = settings.pop('n_members')
        checks.check_settings('train', settings)
        loaded = checks.find_code(code, 'mlipal.mace.train') if isinstance(code, str) else code
        builder: ProcessBuilder = cls.get_builder()
        builder.dataset = dataset
        settings |= {'seeds': list(range(seed, seed + n_members)), 'split_seed': seed}
        job = job_options(loaded, options or {})
        check_gpus('train', loaded, 'mlipal.mace.train', settings, job)
        builder.settings = orm.Dict(settings)
        if other_datasets:
            builder.other_datasets = dict(other_datasets)
        if foundation_model is not None:
            builder.foundation_model = foundation_model
        if replay is not None:
            builder.replay = replay
        builder.mace = {'code': loaded, 'metadata': {'options': job}}
        return builder
