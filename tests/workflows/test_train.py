"""Training on labels of two levels of theory: refused in one set, learned by two heads on request."""

from __future__ import annotations

import re

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms

from aiida_mlipal.calculations.functions.dataset import common_level
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.train import TrainWorkChain
from tests.runners.training import TINY, copper, lennard_jones

EMT, LJ = {'code': 'ase', 'calculator': 'emt'}, {'code': 'ase', 'calculator': 'lj'}


@pytest.fixture
def builder(python_code):
    """Return a training of one member on EMT labels, with Lennard-Jones labels for a second head."""
    builder = TrainWorkChain.get_builder()
    builder.dataset = ConfigurationsData(copper(), level_of_theory=EMT)
    builder.other_datasets = {'lj': ConfigurationsData(lennard_jones(12), level_of_theory=LJ)}
    builder.settings = orm.Dict({**TINY, 'seeds': [1]})
    builder.mace.code = python_code
    return builder


def _problem(builder) -> str:
    ports = TrainWorkChain.spec().inputs
    problem = ports.validate(ports.pre_process(builder._inputs(prune=True)))
    return '' if problem is None else problem.message


@pytest.mark.codes
def test_two_heads(builder):
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    model, levels = outputs['model'], (builder.dataset, builder.other_datasets['lj'])
    hashes = [level.level_of_theory_hash for level in levels]
    assert model.heads == {'Default': hashes[0], 'lj': hashes[1]}
    assert model.level_of_theory_hash == hashes[0]
    history = outputs['history']['attempt_0']
    assert history.get_array('member_00_lj_force_rmse').shape == history.get_array('member_00_force_rmse').shape == (3,)
    results = outputs['results']['attempt_0']['other_heads']
    assert results['lj']['e0s'] == {'Cu': pytest.approx(0.0)}
    lineage = trace(model)
    assert lineage.gaps == []
    assert {item.link_label for item in lineage.supplied} >= {'dataset', 'other_datasets__lj'}


def test_nothing_changes_without_other_datasets(builder):
    del builder.other_datasets
    assert _problem(builder) == ''


@pytest.mark.parametrize(
    ('name', 'frames', 'level', 'message'),
    [
        ('pbe', lennard_jones(), EMT, 'level of theory of the main labels .*: join both sets with `merge_datasets`'),
        ('pbe', lennard_jones(), None, r'has no level of theory.*level_of_theory=\{\.\.\.\}'),
        ('pbe', lennard_jones().take(np.arange(8)), LJ, r"`other_datasets\.pbe`: no labelled isolated atom"),
        ('pt_head', lennard_jones(), LJ, '`pt_head` cannot be the name of a head'),
        ('default', lennard_jones(), LJ, '`default` cannot be the name of a head'),
    ],
)  # fmt: skip
def test_other_datasets_that_are_refused(builder, name, frames, level, message):
    assert _problem(builder) == ''
    builder.other_datasets = {name: ConfigurationsData(frames, level_of_theory=level)}
    assert re.search(message, _problem(builder))


def test_elements_that_the_main_head_would_not_know(builder):
    foreign = Configurations.concatenate([lennard_jones(), _silver()])
    builder.other_datasets = {'lj': ConfigurationsData(foreign, level_of_theory=LJ)}
    assert 'holds Ag, of which the main dataset has no frames' in _problem(builder)


def test_a_main_dataset_without_a_level_cannot_be_told_from_others(builder):
    builder.dataset = ConfigurationsData(copper())
    assert '`dataset` has no level of theory' in _problem(builder)


def _silver() -> Configurations:
    frames = [Atoms('Ag', cell=[4, 4, 4 + 0.1 * index], pbc=True) for index in range(3)]
    return Configurations.concatenate(
        [
            Configurations.from_atoms(frames[:2], energy=[-1.0, -1.0], forces=np.zeros((2, 3)), status='labelled'),
            Configurations.from_atoms(frames[2:], energy=[0.0], status='labelled', role='isolated_atom'),
        ]
    )


# -- what is refused before anything is submitted --------------------------------------------------------------------


def _without_forces() -> Configurations:
    frames = copper()
    forces = frames.forces.copy()
    forces[0] = np.nan
    return frames.with_columns(forces=forces)


def _impossible() -> Configurations:
    frames = copper()
    forces = frames.forces.copy()
    forces[0, 0] = 1e6
    return frames.with_columns(forces=forces)


@pytest.mark.parametrize(
    ('frames', 'settings', 'message'),
    [
        (_without_forces(), {}, r'1 of 8 frames .* has no forces, .*: label them anew'),
        (_impossible(), {}, r'1 of 8 frames .* forces above 1000 eV/Å \(up to 1e\+06 .*`rejected` and a reason'),
        (copper().take(np.arange(8)), {}, r"no labelled isolated atom for \['Cu'\].*`e0s: \{Cu: ENERGY\}`"),
        (copper(), {'e0s': {'Ag': -1.0}}, r"`e0s` has no energy for \['Cu'\].*add `Cu: ENERGY`"),
        (copper(), {'r_max': 15.0}, r'`r_max` of 15 Å 8 of 8 frames .* more than 1000 neighbours.*lower `r_max`'),
        (copper(1), {}, r'at least 2 labelled frames with role `train` \(one of them validates\).*label more'),
        (copper(), {'valid_fraction': 0.0}, '`valid_fraction` must be above 0'),
        (copper(), {'batchsize': 2}, 'Did you mean `batch_size`'),
        (copper(), {'mace_options': {'swa_lr': 0.1}}, '`swa_lr` has a setting of its own; use `stage_two_lr`'),
    ],
)  # fmt: skip
def test_inputs_that_are_refused(builder, frames, settings, message):
    del builder.other_datasets
    builder.dataset = ConfigurationsData(frames, level_of_theory=EMT)
    builder.settings = orm.Dict({**TINY, 'seeds': [1], **settings})
    assert re.search(message, _problem(builder))


def test_two_levels_of_theory_in_one_dataset():
    """They cannot be joined; the message names the input for a second level."""
    nodes = {'a': ConfigurationsData(copper(), EMT), 'b': ConfigurationsData(lennard_jones(), LJ)}
    with pytest.raises(ValueError, match=r'different levels of theory(.|\n)*as `other_datasets`'):
        common_level(nodes)


def test_energies_of_the_atoms_by_element(builder):
    del builder.other_datasets
    builder.dataset = ConfigurationsData(copper().take(np.arange(8)), level_of_theory=EMT)
    builder.settings = orm.Dict({**TINY, 'seeds': [1], 'e0s': {'Cu': 3.5, 'Ag': 1.0}})
    assert _problem(builder) == ''


@pytest.mark.codes
def test_options_that_the_computer_refuses_are_not_tried_twice(builder):
    del builder.other_datasets
    builder.settings = orm.Dict({**TINY, 'seeds': [1], 'mace_options': {'gaet': 'tanh'}})
    outputs, node = run_get_node(builder)
    assert (node.exit_status, outputs) == (410, {})
    assert 'mend `settings` and submit again' in node.exit_message
    assert 'has no option `gaet`. Did you mean `gate`?' in node.exit_message
    (job,) = node.called
    assert job.exit_status == 314
    report = ' '.join(log.message for log in orm.Log.collection.get_logs_for(node))
    assert f'MaceTrainCalculation<{job.pk}> failed: ' in report
    assert 'has no option `gaet`' in report
    assert 'unrecoverable' in report


@pytest.mark.parametrize('protocol', ['fast', 'balanced', 'stringent'])
def test_protocols(python_code, protocol):
    dataset = ConfigurationsData(copper(), level_of_theory=EMT)
    builder = TrainWorkChain.get_builder_from_protocol(
        python_code, dataset, protocol=protocol, seed=5, overrides={'n_members': 2, 'e0s': {'Cu': 3.5}}
    )
    assert _problem(builder) == ''
    assert builder.settings['seeds'] == [5, 6]
    with pytest.raises(ValueError, match='Did you mean `num_channels`'):
        TrainWorkChain.get_builder_from_protocol(python_code, dataset, overrides={'num_channel': 8})
