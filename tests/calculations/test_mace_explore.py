import numpy as np
import pytest
from aiida.engine import run_get_node
from aiida.orm import Dict
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from aiida_mlipal.calculations.mace_explore import MaceExploreCalculation
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.exploration_checks import unfit_starts
from aiida_mlipal.science.exploration_settings import ExplorationSettings
from tests.committee import copper

SETTINGS = {'seed': 3, 'n_steps': 20, 'temperatures': [300.0], 'n_replicas_per_temperature': 4, 'n_stream': 2}


@pytest.mark.codes
def test_job_returns_pool_evaluation_and_results(python_code, committee_node):
    starts = Configurations.from_atoms([copper(1), copper(2)])
    _, node = run_get_node(
        MaceExploreCalculation,
        code=python_code, model=committee_node, starts=ConfigurationsData(starts), settings=Dict(SETTINGS),
    )  # fmt: skip
    assert node.is_finished_ok, node.exit_message
    pool, evaluation = node.outputs.pool.configurations, node.outputs.evaluation.evaluation
    results = node.outputs.results.get_dict()
    assert pool.frame_id.tolist() == evaluation.frame_id.tolist()
    assert node.outputs.pool.base.attributes.get('roles') == {'candidate': 6, 'calibration': 1, 'test': 1}
    assert set(pool.parent.tolist()) == set(starts.frame_id.tolist())
    assert node.outputs.evaluation.model_sha256 == committee_node.digest
    np.testing.assert_allclose(results['unbiased_max_forces_std'], evaluation.max_forces_std)
    assert {'mace-torch', 'ase'} <= set(results['software'])
    assert results['device'] == 'cpu'


@pytest.mark.codes
def test_plans_that_bias_tell_what_they_did(python_code, committee_node):
    plans = [
        {'kind': 'metadynamics', 'variables': [{'type': 'distance', 'atoms': [0, 1], 'width': 0.1}]},
        {'kind': 'uncertainty_bias'},
        {'kind': 'replica_exchange', 'temperatures': [300.0, 330.0], 'n_replicas_per_temperature': 1},
    ]
    _, node = run_get_node(
        MaceExploreCalculation,
        code=python_code, model=committee_node, starts=ConfigurationsData(Configurations.from_atoms([copper(1)])),
        settings=Dict({**SETTINGS, 'n_replicas_per_temperature': 1, 'plans': plans}),
    )  # fmt: skip
    assert node.is_finished_ok, node.exit_message
    pool, results = node.outputs.pool.configurations, node.outputs.results.get_dict()
    assert set(pool.plan.tolist()) == {'metadynamics', 'uncertainty_bias', 'replica_exchange'}
    assert set(pool.role.tolist()) == {'candidate'}
    hills, strength = results['found']
    assert (hills['plan'], hills['trajectory']) == ('metadynamics', 'i00-r000')
    assert len(hills['hills']['heights']) == len(hills['hills']['centres']) == 2
    assert strength['strength'] > 0
    assert len(results['plans']['replica_exchange']['swaps']) == 1


def test_plan_that_needs_plumed_is_refused_without_it(python_code, committee_node, monkeypatch):
    monkeypatch.setenv('PLUMED_KERNEL', '/nowhere')
    _, node = run_get_node(
        MaceExploreCalculation,
        code=python_code, model=committee_node, starts=ConfigurationsData(Configurations.from_atoms([copper(1)])),
        settings=Dict({**SETTINGS, 'plans': [{'kind': 'plumed', 'input': ['d: DISTANCE ATOMS=1,2']}]}),
    )  # fmt: skip
    assert node.exit_status == 314
    assert 'conda install -c conda-forge plumed py-plumed' in node.exit_message


@pytest.mark.parametrize(
    ('frames', 'settings', 'message'),
    [
        ([bulk('Au', cubic=True)], {}, 'hold Au, but the model knows only Cu'),
        ([bulk('Cu')], {}, 'single atom'),
        ([], {}, 'no frames'),
        ([bulk('Cu', cubic=True)], {'temperature': [300]}, 'Did you mean `temperatures`'),
        ([bulk('Cu', cubic=True)], {'plans': [{'kind': 'neb', 'images': 3}]}, 'Did you mean `n_images`'),
        ([bulk('Cu', cubic=True)], {'n_steps': 0}, '`n_steps` must be an integer of at least 1, got 0'),
        ([bulk('Cu', cubic=True)], {'time_step': 12.0}, r'too long for Cu, .* set at most 9.6'),
        ([bulk('Cu', cubic=True)], {'max_volume_factor': 0.9}, 'give one below 1 and one above it'),
        (
            [Atoms('Cu2', positions=[[0, 0, 0], [2.3, 0, 0]])],
            {'plans': [{'kind': 'dynamics', 'ensemble': 'npt'}]},
            'is not: set `ensemble: nvt`',
        ),
        ([bulk('Cu', cubic=True)], {'plans': [{'kind': 'neb'}]}, 'names row 1, but there are only 1 starts'),
        (
            [bulk('Cu', cubic=True), bulk('Cu', cubic=True) * (2, 1, 1)],
            {'plans': [{'kind': 'neb'}]},
            'give the same atoms in the same order',
        ),
    ],
)
def test_bad_input_is_refused_before_submission(python_code, committee_node, frames, settings, message):
    with pytest.raises(ValueError, match=message):
        run_get_node(
            MaceExploreCalculation,
            code=python_code,
            model=committee_node,
            starts=ConfigurationsData(Configurations.from_atoms(frames)),
            settings=Dict({**SETTINGS, **settings}),
        )


@pytest.mark.parametrize(
    ('atoms', 'plan', 'message'),
    [
        (copper(1), {'time_step': 12.0}, r'`time_step` is 12 fs, too long for Cu, .* set at most 9.6'),
        (molecule('CH3OH'), {'time_step': 2.0}, r'too long for H, .* a period of 9.6 fs: set at most 1.2'),
        (copper(1), {'n_steps': 0}, '`n_steps` must be an integer of at least 1'),
        (molecule('CH3OH'), {'ensemble': 'npt'}, 'needs a cell that is periodic in all directions'),
        (fcc111('Cu', (1, 1, 2), vacuum=5), {'ensemble': 'npt_full_cell'}, 'set `ensemble: nvt`'),
        (fcc111('Cu', (1, 1, 2), vacuum=5), {'strain_rates': {'xx': 0.1}}, '`strain_rates` needs a cell'),
    ],
)
def test_starts_that_a_plan_cannot_move_are_refused(atoms, plan, message):
    with pytest.raises(ValueError, match=message):
        _refuse(Configurations.from_atoms([atoms]), plan)


def _refuse(starts, plan):
    """Raise for settings or starts that are refused."""
    problem = unfit_starts(starts, ExplorationSettings(seed=1, plans=[{'kind': 'dynamics', **plan}]))
    if problem is not None:
        raise ValueError(problem)


@pytest.mark.codes
def test_plans_and_starts_are_compared_before_submission(python_code, committee_node):
    slab = fcc111('Cu', (1, 1, 2), a=3.6, vacuum=5)
    with pytest.raises(ValueError, match='`starts`: plan `dynamics`: the ensemble `npt` needs a cell'):
        run_get_node(
            MaceExploreCalculation,
            code=python_code,
            model=committee_node,
            starts=ConfigurationsData(Configurations.from_atoms([slab])),
            settings=Dict({**SETTINGS, 'plans': [{'kind': 'dynamics', 'ensemble': 'npt'}]}),
        )
