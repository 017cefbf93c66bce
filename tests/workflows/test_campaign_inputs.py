"""What a campaign refuses before anything is submitted, however its inputs were made."""

from __future__ import annotations

import io

import numpy as np
import pytest
from aiida import orm
from ase import Atoms
from ase.build import bulk, molecule

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain
from aiida_mlipal.workflows.campaign_inputs import validate_campaign
from aiida_mlipal.workflows.validate import ValidateWorkChain

pytestmark = pytest.mark.codes


@pytest.fixture
def build(silicon, pw_code, python_code, pseudo_family):
    """Return a function that builds a campaign with overrides."""

    def factory(structures=silicon, **sections):
        label = {
            'pseudo_family': pseudo_family,
            'parameters': {'SYSTEM': {'ecutwfc': 12.0}},
            **sections.pop('label', {}),
        }
        return ActiveLearningWorkChain.get_builder_from_protocol(
            structures,
            {'label': pw_code, 'train': python_code},
            protocol='fast',
            overrides={'label': label, **sections},
        )

    return factory


def _problem(builder) -> str | None:
    return validate_campaign(builder, None)


def test_protocols_are_valid(silicon, pw_code, python_code, pseudo_family):
    """Every protocol gives inputs that the campaign accepts."""
    assert sorted(ActiveLearningWorkChain.get_available_protocols()) == ['balanced', 'fast', 'stringent']
    for protocol in ActiveLearningWorkChain.get_available_protocols():
        builder = ActiveLearningWorkChain.get_builder_from_protocol(
            silicon,
            {'label': pw_code, 'train': python_code},
            protocol=protocol,
            overrides={'label': {'pseudo_family': pseudo_family, 'parameters': {'SYSTEM': {'ecutwfc': 12.0}}}},
        )
        assert _problem(builder) is None
        assert ActiveLearningWorkChain.spec().inputs.validate(builder._inputs(prune=True)) is None


@pytest.mark.parametrize(
    ('sections', 'message'),
    [
        ({'training': {'num_chanels': 8}}, 'Did you mean `num_channels`'),
        ({'exploration': {'temperature': [300.0]}}, 'Did you mean `temperatures`'),
        ({'exploration': {'plans': [{'kind': 'dynamics', 'n_step': 9}]}}, 'Did you mean `n_steps`'),
        ({'exploration': {'n_steps': 0}}, '`n_steps` must be an integer of at least 1, got 0'),
        ({'exploration': {'max_volume_factor': 0.9}}, 'give one below 1 and one above it'),
        ({'selection': {'upper_factor': 0.5}}, '`upper_factor` must be a number greater than 1, got 0.5'),
        ({'selection': {'method': 'maxdet'}}, 'max_det'),
        ({'budget': {'max_labels': -1}}, '`max_labels` must be an integer of at least 1'),
        ({'convergence': {'force_rmse': -0.1}}, '`force_rmse` must be a number greater than 0'),
        ({'seeds': {'recipe': [{'generator': 'ratle'}]}}, 'Did you mean `rattle`'),
        ({'seeds': {'recipe': [{'generator': 'isolated_atoms'}]}}, 'zero seeds'),
        ({'training': {'batch_size': 500}}, '`batch_size`|batch_size'),
        ({'training': {'n_members': 1}}, 'n_members'),
        ({'training': {'n_members': 4, 'uncertainty': 'llpr'}}, 'one model, but `n_members` is 4: set `n_members'),
        ({'selection': {'uncertainty': 'distance'}}, 'unknown measure of uncertainty `distance`'),
        (
            {'training': {'n_members': 1}, 'selection': {'uncertainty': 'stress'}},
            'the spread of the stress, which one model alone does not have: set `n_members`',
        ),
        ({'training': {'n_members': 1, 'uncertainty': 'none'}}, 'or `uncertainty: llpr`'),
        ({'training': {'mace_options': {'hidden_irreps': '8x0e'}}}, 'set `num_channels` and `max_L`'),
        ({'training': {'r_max': 18.0}}, '`training`: with `r_max` of 18 Å 1 of 1 frames'),
        ({'training': {'e0s': {'Ge': -1.0}}}, "`e0s` has no energy for ['Si'], which the training frames hold: add"),
        ({'seeds': {'recipe': [{'generator': 'rattle', 'n_frames': 4}]}}, "no labelled isolated atom for ['Si']"),
    ],
)
def test_bad_settings_are_named(build, sections, message):
    """Each message names the key, what was found, and what to type."""
    assert _problem(build()) is None
    problem = _problem(build(**sections))
    assert problem is not None
    assert any(part in problem for part in message.split('|'))


def test_one_model_may_be_unsure_by_distance(build):
    """No committee is needed where uncertainty is a distance from the training frames."""
    one = {'training': {'n_members': 1}}
    assert 'only a committee is uncertain' in _problem(build(**one))
    assert _problem(build(**one, selection={'uncertainty': 'latent_distance + mahalanobis'})) is None


def test_plans_that_cannot_move_the_structures_are_named(build):
    assert 'too long for Si' in _problem(build(exploration={'time_step': 10.0}))
    builder = build(exploration={'plans': [{'kind': 'dynamics', 'ensemble': 'npt'}]})
    assert _problem(builder) is None
    builder.seeds.structures = {'water': orm.StructureData(ase=molecule('H2O', vacuum=4, pbc=False))}
    assert 'the ensemble `npt` needs a cell that is periodic' in _problem(builder)


def test_frames_that_are_not_periodic_have_no_stress(build):
    builder = build(selection={'uncertainty': 'forces_max + stress'})
    assert _problem(builder) is None
    water = orm.StructureData(ase=molecule('H2O', vacuum=4, pbc=False))
    builder.seeds.structures = {'water': water}
    assert 'some of the structures are not periodic in all three' in _problem(builder)


@pytest.fixture
def build_two_levels(silicon, pw_code, python_code, pseudo_family):
    """Return a function that builds a campaign with a prescreen by the engine `ase`."""

    def factory(**prescreen):
        return ActiveLearningWorkChain.get_builder_from_protocol(
            silicon,
            {'label': pw_code, 'train': python_code, 'prescreen': python_code},
            protocol='fast',
            overrides={
                'label': {'pseudo_family': pseudo_family, 'parameters': {'SYSTEM': {'ecutwfc': 12.0}}},
                'prescreen': {'engine': 'ase', **prescreen},
            },
        )

    return factory


def test_prescreen(build, build_two_levels):
    """A valid one is accepted by the campaign, whose other inputs stay as they are."""
    builder = build_two_levels(threshold=0.3, parameters={'calculator': 'tblite'}, max_concurrent=1)
    assert _problem(builder) is None
    assert ActiveLearningWorkChain.spec().inputs.validate(builder._inputs(prune=True)) is None
    assert builder.prescreen.engine.value == 'ase'
    assert builder.prescreen.settings.get_dict() == {'threshold': 0.3}
    assert builder.prescreen.max_concurrent.value == 1
    assert builder.prescreen.checks['require_stress'] is False
    alone = build()
    assert 'prescreen' not in alone._inputs(prune=True)
    assert ActiveLearningWorkChain.spec().inputs.validate(alone._inputs(prune=True)) is None
    assert builder.label.checks.get_dict() == alone.label.checks.get_dict()

    twice = build_two_levels(threshold=0.3, parameters={'calculator': 'tblite'})
    for name in ('engine', 'engine_inputs'):
        twice.prescreen[name] = twice.label[name]
    assert '`prescreen` has the level of theory of `label`' in _problem(twice)
    with pytest.raises(ValueError, match=r"the prescreen lacks `threshold`; give for example .*'tblite'"):
        build_two_levels(parameters={'calculator': 'tblite'})
    with pytest.raises(ValueError, match='`threshold` must be a number greater than 0'):
        build_two_levels(threshold=0, parameters={'calculator': 'tblite'})
    with pytest.raises(ValueError, match=r"the prescreen lacks `codes\['prescreen'\]`"):
        build(prescreen={'engine': 'ase', 'threshold': 1.0})
    problem = _problem(build_two_levels(threshold=0.3, parameters={'calculator': 'emt'}))
    assert '`prescreen`: the calculator `emt` knows no Si' in problem


def test_a_dataset_of_another_level_of_theory_is_refused_with_the_difference(build, quick_pw_label):
    """The message shows line by line where the levels differ."""
    builder = build()
    theory = _theory(builder)
    frames = Configurations.from_atoms([bulk('Si')])
    builder.dataset = ConfigurationsData(frames, level_of_theory=theory)
    assert _problem(builder) is None
    theory['system']['ecutwfc'] = 40.0
    builder.dataset = ConfigurationsData(frames, level_of_theory=theory)
    assert '\n  system.ecutwfc: 40.0 -> 12.0\n' in _problem(builder)
    builder.dataset = ConfigurationsData(frames)
    assert 'has no level of theory' in _problem(builder)


def test_other_levels_of_theory_are_for_heads_of_their_own(build):
    """They reach the training of every iteration, and are refused where they belong elsewhere."""
    builder = build()
    theory = _theory(builder)

    def other(level, symbol='Si'):
        crystal = bulk('Si')
        crystal.symbols[:] = symbol
        frames = Configurations.concatenate(
            [
                Configurations.from_atoms([crystal, crystal * (2, 1, 1)], energy=[-1.0, -2.0], status='labelled'),
                Configurations.from_atoms([Atoms(symbol)], energy=[0.0], status='labelled', role='isolated_atom'),
            ]
        )
        frames = frames.with_columns(forces=np.zeros((7, 3)))
        builder.train.other_datasets = {'coarse': ConfigurationsData(frames, level_of_theory=level)}
        return _problem(builder)

    coarse = {**theory, 'system': {**theory['system'], 'ecutwfc': 8.0}}
    assert other(coarse) is None
    assert ActiveLearningWorkChain.spec().inputs.validate(builder._inputs(prune=True)) is None
    assert '`other_datasets.coarse`' in other(theory)
    assert 'give it as the `dataset` of the campaign' in other(theory)
    assert 'holds Ge' in other(coarse, 'Ge')
    assert 'has no level of theory' in other(None)


def test_validation_is_on_one_level_of_theory(build):
    """Neither a teacher nor a model of another level is held against a dataset."""
    campaign = build()
    theory = _theory(campaign)
    dataset = ConfigurationsData(Configurations.from_atoms([bulk('Si')]), level_of_theory=theory)
    inputs = {'dataset': dataset, 'label': campaign.label, 'models': {'a': _model(dataset.level_of_theory_hash)}}
    assert ValidateWorkChain.spec().inputs.validator(inputs, None) is None
    other = ConfigurationsData(Configurations.from_atoms([bulk('Si')]), level_of_theory={**theory, 'code': 'cp2k'})
    assert 'code: cp2k -> ' in ValidateWorkChain.spec().inputs.validator({**inputs, 'dataset': other}, None)
    inputs['models']['b'] = _model(other.level_of_theory_hash)
    problem = ValidateWorkChain.spec().inputs.validator(inputs, None)
    assert problem.startswith('`models.b`: node None learned the level of theory')


def _model(level: str) -> MlipModelData:
    metadata = {
        'elements': ['Si'], 'r_max': 4.5, 'dtype': 'float32', 'seeds': [1], 'level_of_theory_hash': level,
        'software': {}, 'errors': {}, 'settings_hash': '',
    }  # fmt: skip
    return MlipModelData([io.BytesIO(b'')], metadata=metadata)


def _theory(builder) -> dict:
    from aiida_mlipal.workflows.engines import load_engine

    return load_engine('quantumespresso').level_of_theory(builder.label.engine_inputs)


def test_missing_codes_families_and_elements_name_the_command(build, silicon, pw_code, python_code):
    """What is not in the database comes with the command that puts it there."""
    with pytest.raises(ValueError, match='aiida-pseudo install'):
        build(label={'pseudo_family': 'SSSP/9'})
    with pytest.raises(ValueError, match='lacks Ge'):
        build(structures=orm.StructureData(ase=bulk('Ge')))
    with pytest.raises(ValueError, match=r'verdi code create .* --label nowhere'):
        ActiveLearningWorkChain.get_builder_from_protocol(silicon, {'label': 'nowhere@localhost', 'train': python_code})
    with pytest.raises(ValueError, match=r"missing \['train'\]"):
        ActiveLearningWorkChain.get_builder_from_protocol(silicon, {'label': pw_code})
    with pytest.raises(ValueError, match=r"unknown overrides \['labels'\]"):
        ActiveLearningWorkChain.get_builder_from_protocol(
            silicon, {'label': pw_code, 'train': python_code}, overrides={'labels': {}}
        )
    with pytest.raises(ValueError, match='no plane-wave cutoff'):
        build(label={'parameters': {'SYSTEM': {}}})


def test_a_foundation_model_for_every_training(build, silicon, pw_code, python_code, pseudo_family):
    """Its architecture, elements and replayed frames are looked at before a single label is paid for."""
    published = {'code': 'vasp', 'functional': 'PBE', 'declared': True}
    model = _model(ConfigurationsData(Configurations.from_atoms([bulk('Si')]), published).level_of_theory_hash)
    model.base.attributes.set('architecture', {'r_max': 4.5, 'num_channels': 128})

    def problem(replay=None, structure=silicon, **training):
        builder = ActiveLearningWorkChain.get_builder_from_protocol(
            structure,
            {'label': pw_code, 'train': python_code},
            protocol='fast',
            foundation_model=model,
            replay=replay,
            overrides={
                'label': {'pseudo_family': pseudo_family, 'parameters': {'SYSTEM': {'ecutwfc': 12.0}}},
                'training': {'n_members': 2, **training},
            },
        )
        assert builder.train.foundation_model is model
        return _problem(builder)

    assert problem() is None
    assert '`num_channels` is 64, but the foundation model has 128' in problem(num_channels=64)
    assert 'knows nothing of Al' in problem(structure=orm.StructureData(ase=bulk('Al')))
    frames = Configurations.from_atoms([bulk('Si'), bulk('Si') * (2, 1, 1)])
    assert problem(ConfigurationsData(frames, published)) is None
    assert 'does not have the level of theory of the foundation model' in problem(
        ConfigurationsData(frames, {'code': 'x'})
    )
    assert '`lora` means something only' in _problem(build(training={'lora': True}))
