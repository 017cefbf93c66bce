"""Training on labels of two levels of theory: refused in one set, learned by two heads on request."""

from __future__ import annotations

import re

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase import Atoms

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
    problem = TrainWorkChain.spec().inputs.validate(builder._inputs(prune=True))
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
            Configurations.from_atoms(frames[:2], energy=[-1.0, -1.0], status='labelled'),
            Configurations.from_atoms(frames[2:], energy=[0.0], status='labelled', role='isolated_atom'),
        ]
    )
