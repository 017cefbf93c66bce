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
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.foundation import fine_tuning
from aiida_mlipal.workflows import checks
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.gpu import check_gpus, with_device

__all__ = ('CampaignBuilderMixin', 'CampaignProtocols', 'job_options')

#: Stage -> plugin of its code.
STAGES = {'label': None, 'train': 'mlipal.mace.train', 'explore': 'mlipal.mace.train', 'evaluate': 'mlipal.mace.train'}
#: Settings of the exploration that hold for the evaluation, too.
_SHARED = ('device', 'enable_cueq', 'threads')


class CampaignProtocols(ProtocolMixin):
    """The protocols of a campaign, which have a section for each of its stages."""

    @classmethod
    def get_protocol_filepath(cls) -> Path:
        """Return the file that defines the protocols."""
        return cast(Path, files('aiida_mlipal.workflows') / 'protocols' / 'active_learning.yaml')


class CampaignBuilderMixin(CampaignProtocols):
    """Adds :meth:`get_builder_from_protocol` to the campaign."""

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
        other_datasets: Mapping[str, ConfigurationsData] | None = None,
        foundation_model: MlipModelData | None = None,
        replay: ConfigurationsData | None = None,
        overrides: Mapping[str, Any] | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> ProcessBuilder:
        """Return a builder with all inputs of a campaign.

        :param structures: one or more parent structures.
        :param codes: a code for each of `label`, `train`, `explore` and `evaluate`; the last two default to `train`.
            A campaign on two levels of theory needs one for `prescreen`, too.
        :param protocol: fast, balanced or stringent.
        :param engine: name of the label engine.
        :param seed: every random choice of the campaign follows from it.
        :param dataset: labelled frames to start from.
        :param other_datasets: labelled frames of other levels of theory, by the names of the heads that learn them.
        :param foundation_model: a model that each training starts from; it decides the architecture, and ``lr`` is
            0.001 if not given.
        :param replay: labelled frames of the level of theory of that model, so that it does not forget them.
        :param overrides: values over those of the protocol, by section: `seeds`, `label`, `training`, `warm_start`,
            `exploration`, `selection`, `convergence`, `budget`, `validation`. `label` has `pseudo_family` for the
            engine `quantumespresso`, and `parameters` as the engine takes them. `prescreen` names a cheap `engine` and
            a `threshold`, and may hold what `label` holds; without it there is no prescreen.
        :param options: `metadata.options` of each stage's jobs; with `gpus` a stage runs on the device `cuda`.
        :raises ValueError: for anything that would fail later, with what to type instead.
        """
        parents = [structures] if isinstance(structures, orm.StructureData) else list(structures)
        if not parents:
            raise ValueError('`structures` is empty: give at least one StructureData.')
        given = {key: dict(value) for key, value in (overrides or {}).items()}
        prescreen = given.pop('prescreen', None)
        unknown = sorted(set(given) - set(cls._load_protocol_file()['default_inputs']))
        if unknown:
            valid = sorted([*cls._load_protocol_file()['default_inputs'], 'prescreen'])
            raise ValueError(f'unknown overrides {unknown}; expected some of {valid}.')
        inputs = cls.get_protocol_inputs(protocol)
        if foundation_model is not None:
            inputs['training'] = fine_tuning(inputs['training'])
        protocol_label = dict(inputs['label'])
        inputs['label'] = _label_section(protocol_label, engine, given.pop('label', {}))
        for section, values in given.items():
            inputs[section] = recursive_merge(inputs[section], values)
        own_codes = {stage: code for stage, code in codes.items() if prescreen is None or stage != 'prescreen'}
        loaded = _load_codes(own_codes, engine)
        stage_options = {stage: job_options(loaded[stage], (options or {}).get(stage, {})) for stage in STAGES}

        builder: ProcessBuilder = cls.get_builder()
        builder.seed = orm.Int(seed)
        if dataset is not None:
            builder.dataset = dataset
        builder.seeds.structures = {f'structure_{index:03d}': parent for index, parent in enumerate(parents)}
        builder.seeds.settings = orm.Dict(inputs['seeds'])
        label = {**inputs['label'], 'spin_polarised': bool(inputs['seeds'].get('initial_moments'))}
        builder.label = _label_inputs('label', engine, loaded['label'], parents, label, stage_options['label'])
        if prescreen is not None:
            cheap, code, settings = _read_prescreen(prescreen, codes)
            # Forces are all that is compared, so a calculator without a stress will do.
            base = {**protocol_label, 'checks': {**protocol_label['checks'], 'require_stress': False}}
            label = {**_label_section(base, cheap, prescreen), 'spin_polarised': label['spin_polarised']}
            cheap_options = job_options(code, (options or {}).get('prescreen', {}))
            labelling = _label_inputs('prescreen', cheap, code, parents, label, cheap_options)
            builder.prescreen = {**labelling, 'settings': settings}
        shared = {key: inputs['exploration'][key] for key in _SHARED if key in inputs['exploration']}
        evaluation = with_device(shared, stage_options['evaluate'])
        inputs['training'] = with_device(inputs['training'], stage_options['train'])
        inputs['exploration'] = with_device(inputs['exploration'], stage_options['explore'])
        training = {**inputs['training'], 'seeds': list(range(inputs['training']['n_members']))}
        training.pop('n_members')
        own = {'train': training, 'explore': {**inputs['exploration'], 'seed': seed}, 'evaluate': evaluation}
        for stage, stage_settings in own.items():
            check_gpus(stage, loaded[stage], f'mlipal.mace.{stage}', stage_settings, stage_options[stage])
        for section in ('training', 'warm_start', 'exploration', 'selection', 'convergence', 'budget', 'validation'):
            builder[section] = orm.Dict(inputs[section])
        if other_datasets:
            builder.train.other_datasets = dict(other_datasets)
        if foundation_model is not None:
            builder.train.foundation_model = foundation_model
        if replay is not None:
            builder.train.replay = replay
        builder.train.mace = {'code': loaded['train'], 'metadata': {'options': stage_options['train']}}
        builder.explore.mace = {'code': loaded['explore'], 'metadata': {'options': stage_options['explore']}}
        evaluation_settings = orm.Dict(evaluation)
        for stage in ('evaluate', 'properties'):
            builder[stage] = {
                'code': loaded['evaluate'],
                'settings': evaluation_settings,
                'metadata': {'options': stage_options['evaluate']},
            }
        return builder


def _label_section(section: Mapping[str, Any], engine: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``label`` section of a protocol for one engine, with what was given over it."""
    section = recursive_merge(dict(section), section.get('engines', {}).get(engine, {}))
    own = {key: value for key, value in given.items() if key != 'parameters'}
    parameters = recursive_merge(section['parameters'].get(engine, {}), given.get('parameters', {}))
    return {**recursive_merge(section, own), 'parameters': parameters}


def _label_inputs(
    stage: str,
    engine: str,
    code: orm.AbstractCode,
    parents: Sequence[orm.StructureData],
    section: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the inputs of a LabelWorkChain that the campaign passes on."""
    if section['parameters'].get('calculator') == 'mace':
        own = with_device(section['parameters'].get('parameters', {}), options)
        section = {**section, 'parameters': {**section['parameters'], 'parameters': own}}
    check_gpus(stage, code, load_engine(engine).plugin, section['parameters'], options)
    return {
        'engine': orm.Str(engine),
        'engine_inputs': load_engine(engine).build(code, parents, section, options),
        'checks': orm.Dict(section['checks']),
        'max_concurrent': orm.Int(section['max_concurrent']),
        'max_attempts': orm.Int(section['max_attempts']),
        'frames_per_job': orm.Int(section['frames_per_job']),
        'reuse': orm.Bool(section['reuse']),
    }


def _read_prescreen(
    given: dict[str, Any], codes: Mapping[str, orm.AbstractCode | str]
) -> tuple[str, orm.AbstractCode, orm.Dict]:
    """Take engine and threshold out of the prescreen's overrides; return the engine, its code and the settings."""
    missing = [name for name in ('engine', 'threshold') if name not in given]
    if missing or 'prescreen' not in codes:
        what = [f'`{name}`' for name in missing] + ([] if 'prescreen' in codes else ["`codes['prescreen']`"])
        raise ValueError(
            f'the prescreen lacks {", ".join(what)}; give for example '
            "{'engine': 'ase', 'threshold': 0.3, 'parameters': {'calculator': 'tblite'}} and the code of that engine."
        )
    engine, settings = given.pop('engine'), {'threshold': given.pop('threshold')}
    checks.check_settings('prescreen', settings)
    code = codes['prescreen']
    loaded = checks.find_code(code, load_engine(engine).plugin) if isinstance(code, str) else code
    return engine, loaded, orm.Dict(settings)


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


def job_options(code: orm.AbstractCode, given: Mapping[str, Any]) -> dict[str, Any]:
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
