"""What a campaign refuses before anything is submitted, however its inputs were made."""

from __future__ import annotations

import pytest
from aiida import orm
from ase.build import bulk

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain
from aiida_mlipal.workflows.campaign_inputs import validate_campaign

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
        ({'selection': {'method': 'maxdet'}}, 'max_det'),
        ({'budget': {'max_labels': -1}}, '`max_labels` must be an integer of at least 1'),
        ({'convergence': {'force_rmse': -0.1}}, '`force_rmse` must be a number greater than 0'),
        ({'seeds': {'recipe': [{'generator': 'ratle'}]}}, 'Did you mean `rattle`'),
        ({'seeds': {'recipe': [{'generator': 'isolated_atoms'}]}}, 'zero seeds'),
        ({'training': {'batch_size': 500}}, '`batch_size`|batch_size'),
        ({'training': {'n_members': 1}}, 'n_members'),
    ],
)
def test_bad_settings_are_named(build, sections, message):
    """Each message names the key, what was found, and what to type."""
    assert _problem(build()) is None
    problem = _problem(build(**sections))
    assert problem is not None
    assert any(part in problem for part in message.split('|'))


def test_a_dataset_of_another_level_of_theory_is_refused_with_the_difference(build, quick_pw_label):
    """The message shows line by line where the levels differ."""
    builder = build()
    theory = _theory(builder)
    frames = Configurations.from_atoms([bulk('Si')])
    builder.dataset = ConfigurationsData(frames, level_of_theory=theory)
    assert _problem(builder) is None
    theory['system']['ecutwfc'] = 40.0
    builder.dataset = ConfigurationsData(frames, level_of_theory=theory)
    assert 'system.ecutwfc: 40' in _problem(builder)
    builder.dataset = ConfigurationsData(frames)
    assert 'has no level of theory' in _problem(builder)


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
