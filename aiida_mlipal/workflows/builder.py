"""A campaign from a protocol: ten lines of Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from aiida import orm
from aiida.engine import ProcessBuilder
from aiida_quantumespresso.workflows.protocols.utils import ProtocolMixin, recursive_merge

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.workflows import checks
from aiida_mlipal.workflows.engines import load_engine

__all__ = ('CampaignBuilderMixin',)

#: Stage -> plugin of its code.
STAGES = {'label': None, 'train': 'mlipal.mace.train', 'explore': 'mlipal.mace.train', 'evaluate': 'mlipal.mace.train'}


class CampaignBuilderMixin(ProtocolMixin):
    """Adds :meth:`get_builder_from_protocol` to the campaign."""

    @classmethod
    def get_protocol_filepath(cls) -> Path:
        """Return the file that defines the protocols."""
        return cast(Path, files('aiida_mlipal.workflows') / 'protocols' / 'active_learning.yaml')

    @classmethod
    def get_builder_from_protocol(
        cls,
        structures: orm.StructureData | Sequence[orm.StructureData],
        codes: Mapping[str, orm.AbstractCode | str],
        *,
        protocol: str | None = None,
        engine: str = 'quantumespresso',
        seed: int = 1,
        dataset: ConfigurationsData | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with all inputs of a campaign.

        :param structures: one or more parent structures.
        :param codes: a code for each of `label`, `train`, `explore` and `evaluate`; the last two default to `train`.
        :param protocol: fast, balanced or stringent.
        :param engine: name of the label engine.
        :param seed: every random choice of the campaign follows from it.
        :param dataset: labelled frames to start from.
        :param overrides: values over those of the protocol, by section: `seeds`, `label`, `training`, `exploration`,
            `selection`, `convergence`, `budget`, `validation`. `label` has `pseudo_family` for the engine
            `quantumespresso`, and `parameters` as the engine takes them.
        :param options: `metadata.options` of each stage's jobs.
        :raises ValueError: for anything that would fail later, with what to type instead.
        """
        parents = [structures] if isinstance(structures, orm.StructureData) else list(structures)
        if not parents:
            raise ValueError('`structures` is empty: give at least one StructureData.')
        given = {key: dict(value) for key, value in (overrides or {}).items()}
        own_parameters = given.get('label', {}).pop('parameters', {})
        unknown = sorted(set(given) - set(cls._load_protocol_file()['default_inputs']))
        if unknown:
            valid = sorted(cls._load_protocol_file()['default_inputs'])
            raise ValueError(f'unknown overrides {unknown}; expected some of {valid}.')
        inputs = cls.get_protocol_inputs(protocol)
        for section, values in given.items():
            inputs[section] = recursive_merge(inputs[section], values)
        loaded = _load_codes(codes, engine)
        stage_options = {stage: _options(loaded[stage], (options or {}).get(stage, {})) for stage in STAGES}

        builder: ProcessBuilder = cls.get_builder()
        builder.seed = orm.Int(seed)
        if dataset is not None:
            builder.dataset = dataset
        builder.seeds.structures = {f'structure_{index:03d}': parent for index, parent in enumerate(parents)}
        builder.seeds.settings = orm.Dict(inputs['seeds'])
        label = inputs['label']
        label['parameters'] = recursive_merge(label['parameters'].get(engine, {}), own_parameters)
        builder.label = {
            'engine': orm.Str(engine),
            'engine_inputs': load_engine(engine).build(loaded['label'], parents, label, stage_options['label']),
            'checks': orm.Dict(label['checks']),
            'max_concurrent': orm.Int(label['max_concurrent']),
            'max_attempts': orm.Int(label['max_attempts']),
            'reuse': orm.Bool(label['reuse']),
        }
        for section in ('training', 'exploration', 'selection', 'convergence', 'budget', 'validation'):
            builder[section] = orm.Dict(inputs[section])
        evaluation = orm.Dict(
            {key: value for key, value in inputs['exploration'].items() if key in ('device', 'threads')}
        )
        builder.train.mace = {'code': loaded['train'], 'metadata': {'options': stage_options['train']}}
        builder.explore.mace = {'code': loaded['explore'], 'metadata': {'options': stage_options['explore']}}
        for stage in ('evaluate', 'properties'):
            builder[stage] = {
                'code': loaded['evaluate'],
                'settings': evaluation,
                'metadata': {'options': stage_options['evaluate']},
            }
        return builder


def _load_codes(codes: Mapping[str, orm.AbstractCode | str], engine: str) -> dict[str, orm.AbstractCode]:
    """Return the code of every stage."""
    unknown = sorted(set(codes) - set(STAGES))
    missing = [stage for stage in ('label', 'train') if stage not in codes]
    if unknown or missing:
        raise ValueError(f'`codes`: missing {missing}, unknown {unknown}; expected codes for {list(STAGES)}.')
    label_plugin = load_engine(engine).plugin
    loaded = {}
    for stage, plugin in STAGES.items():
        code = codes.get(stage, codes['train'])
        loaded[stage] = checks.find_code(code, plugin or label_plugin) if isinstance(code, str) else code
    return loaded


def _options(code: orm.AbstractCode, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the job options of a stage: what was given over one process on one machine for a day."""
    defaults: dict[str, Any] = {'max_wallclock_seconds': 86400}
    if code.computer.scheduler_type == 'core.sge':
        defaults['resources'] = {'parallel_env': 'mpi', 'tot_num_mpiprocs': 1}
    else:
        defaults['resources'] = {'num_machines': 1, 'num_mpiprocs_per_machine': 1}
    if code.with_mpi is not None:
        defaults['withmpi'] = code.with_mpi
    merged: dict[str, Any] = recursive_merge(defaults, dict(given))
    return merged
