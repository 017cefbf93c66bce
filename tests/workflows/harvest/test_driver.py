"""A database of two levels of theory gives two clean datasets, once."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime

import numpy as np
import pytest
from aiida import orm
from ase import Atoms
from ase.build import bulk

from aiida_mlipal.calculations.functions.harvest import HarvestSettings
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.harvest.driver import harvest
from tests.workflows.harvest.conftest import PARAMETERS, count_nodes, silicon

EVERYTHING = {'since': datetime(2000, 1, 1, tzinfo=UTC)}


def _harvest(**arguments):
    return harvest(**{'settings': HarvestSettings(), **(EVERYTHING if not arguments else {}), **arguments})


def _engine_level(pseudos, distance, **system):
    return load_engine('quantumespresso').level_of_theory(
        {
            'parameters': orm.Dict({**PARAMETERS, 'SYSTEM': {**PARAMETERS['SYSTEM'], **system}}),
            'kpoints_distance': orm.Float(distance),
            'kpoints_offset': orm.List([0.5, 0.5, 0.5]),
            'pseudos': pseudos,
        }
    )


@pytest.mark.parametrize('number', [10, pytest.param(100, marks=pytest.mark.long)])
def test_many_calculations_of_two_levels(finished, pseudos, number):
    """Two clean datasets; the same call makes nothing; a new calculation only adds."""
    for index in range(number):
        finished(silicon(index), SYSTEM={'nbnd': 8 + index % 2}, ELECTRONS={'mixing_beta': 0.1 + 0.001 * index})
        finished(silicon(index), SYSTEM={'ecutwfc': 20.0}, exit_status=410 if index % 10 == 0 else 0)
    before = count_nodes()
    dry = _harvest(**EVERYTHING, dry_run=True)
    assert count_nodes() == before
    result = _harvest()
    assert [level.n_calculations for level in result.levels] == [number, number * 9 // 10]
    assert [level.n_calculations for level in dry.levels] == [number, number * 9 // 10]
    assert dict(result.left_out) == {'scf ended with exit status 410: it went wrong': number // 10}
    for level, dry_level, ecutwfc in zip(result.levels, dry.levels, (12.0, 20.0), strict=True):
        assert level.is_new
        distance = level.description['k_points']['distance']
        assert level.dataset.level_of_theory == _engine_level({'Si': pseudos['Si']}, distance, ecutwfc=ecutwfc)
        assert level.frames.is_labelled.all()
        assert level.frames.frame_id.tolist() == dry_level.frames.frame_id.tolist()
        assert trace(level.dataset).gaps == []
        assert set(level.frames.origin.tolist()) == {'harvest'}
    after = count_nodes()
    again = _harvest()
    assert count_nodes() == after
    assert [level.dataset.pk for level in again.levels] == [level.dataset.pk for level in result.levels]
    assert not any(level.is_new for level in again.levels)

    finished(silicon(1000, scale=0.3))
    before = count_nodes()
    more = _harvest()
    # one level of theory as input, one chunk, one dataset with its settings, and the two calculations that made them
    assert count_nodes() == before + 6
    assert more.levels[1].dataset.pk == result.levels[1].dataset.pk
    assert set(result.levels[0].frames.frame_id.tolist()) < set(more.levels[0].frames.frame_id.tolist())
    assert more.levels[0].dataset.level_of_theory == result.levels[0].dataset.level_of_theory


@pytest.mark.long
def test_memory_follows_from_the_dataset(finished, clean_profile):
    """Molecular dynamics of 500 and of 2,000 steps: what is held at a time grows by a small multiple of the frames."""
    peaks, sizes = [], []
    for number in (5, 20):
        group = orm.Group(f'md-{number}').store()
        for index in range(number):
            steps = [bulk('Si', a=5.43, cubic=True) for _ in range(100)]
            for step, atoms in enumerate(steps):
                atoms.rattle(0.1, seed=100_000 * number + 100 * index + step)
            group.add_nodes(finished(steps, CONTROL={'calculation': 'md'}))
        tracemalloc.start()
        (level,) = _harvest(group=group).levels
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(level.frames) == 100 * number
        sizes.append(sum(value.nbytes for value in vars(level.frames).values() if isinstance(value, np.ndarray)))
    assert peaks[1] - peaks[0] < 8 * (sizes[1] - sizes[0]), (peaks, sizes)  # measured: 4.7


def test_a_subset_and_the_whole_do_not_disturb_each_other(finished, clean_profile):
    """A group is harvested, then everything, then each again: the second time nothing is made."""
    calculations = [finished(silicon(index)) for index in range(5)]
    group = orm.Group('some').store()
    group.add_nodes(calculations[:2])
    few, many = _harvest(group=group), _harvest()
    assert [level.n_calculations for level in (few.levels[0], many.levels[0])] == [2, 5]
    before = count_nodes()
    assert _harvest(group=group).levels[0].dataset.pk == few.levels[0].dataset.pk
    assert _harvest().levels[0].dataset.pk == many.levels[0].dataset.pk
    assert count_nodes() == before
    coarse = harvest(group=group, settings=HarvestSettings(thin=100.0))
    assert coarse.levels[0].dataset.pk != few.levels[0].dataset.pk
    assert len(coarse.levels[0].frames) == 1


def test_meshes_that_one_distance_gives_belong_together(finished, pseudos):
    """A primitive cell, a supercell and another mesh: intervals of distances sort them."""
    finished(silicon(1), mesh=(4, 4, 4))
    supercell = bulk('Si', a=5.43) * (2, 2, 2)
    finished(supercell, mesh=(2, 2, 2))
    finished(silicon(2), mesh=(2, 2, 2))
    finished(silicon(3), mesh=(4, 4, 2))
    result = _harvest()
    assert sorted(level.n_calculations for level in result.levels) == [1, 2]
    fine, coarse = result.levels
    assert sorted(fine.frames.n_atoms.tolist()) == [2, 16]
    assert fine.description['k_points']['distance'] < coarse.description['k_points']['distance']
    assert dict(result.left_out) == {'a mesh of k-points that no distance gives': 1}


def test_the_engine_would_compute_harvested_frames_with_the_same_inputs(finished, pseudos):
    """Mesh and parameters that the engine derives for a harvested frame are those of its calculation."""
    stretched = silicon(1)
    stretched.set_cell(stretched.cell * 1.02, scale_atoms=True)
    nodes = [finished(silicon(2), mesh=(3, 3, 3)), finished(stretched, mesh=(3, 3, 3))]
    (level,) = _harvest().levels
    parameters = orm.Dict(PARAMETERS)
    rule = level.description['k_points']
    inputs = {
        'parameters': parameters,
        'kpoints_distance': orm.Float(rule['distance']),
        'kpoints_offset': orm.List(rule['offset']),
        'pseudos': {'Si': pseudos['Si']},
    }
    engine = load_engine('quantumespresso')
    assert engine.level_of_theory(inputs) == level.dataset.level_of_theory
    inputs = {name: node if isinstance(node, dict) else node.store() for name, node in inputs.items()}
    tasks = engine.tasks(level.dataset, inputs)
    for (label, task), node in zip(tasks.items(), nodes, strict=True):
        given = engine.alone(label, task.inputs, inputs)
        assert given['kpoints'].get_kpoints_mesh() == node.inputs.kpoints.get_kpoints_mesh()
        assert given['parameters'].get_dict() == node.inputs.parameters.get_dict()
        np.testing.assert_array_equal(given['structure'].get_ase().positions, node.inputs.structure.get_ase().positions)


def test_level_of_theory_of_a_dataset_and_of_a_calculation(finished, pseudos):
    """One level is kept, the others are counted with what differs; its own k-point rule decides."""
    wanted = finished(silicon(1), mesh=(3, 3, 3))
    finished(silicon(2), mesh=(3, 3, 3), SYSTEM={'ecutwfc': 20.0})
    finished(silicon(3), mesh=(5, 5, 5))
    level = _engine_level(pseudos, 0.8)  # of a campaign with aluminium, too
    from aiida_mlipal.data.configurations import ConfigurationsData
    from aiida_mlipal.science.configurations import Configurations

    dataset = ConfigurationsData(Configurations.from_atoms([bulk('Al')]), level_of_theory=level).store()
    result = _harvest(level_of_theory_of=dataset)
    (found,) = result.levels
    assert found.dataset.level_of_theory == level
    assert found.n_calculations == 1
    assert dict(result.left_out) == {
        'another level of theory: system.ecutwfc: 12.0 -> 20.0': 1,
        'another mesh of k-points than the distance of 0.8 1/Å gives': 1,
    }
    result = _harvest(level_of_theory_of=wanted)
    assert [item.n_calculations for item in result.levels] == [1]
    assert result.levels[0].description['k_points']['distance'] == 0.8  # a rule that the profile knows comes first
    with pytest.raises(ValueError, match='has no level of theory; give a labelled dataset'):
        _harvest(level_of_theory_of=orm.Int(1).store())
    failed = finished(silicon(4), exit_status=410)
    with pytest.raises(ValueError, match=r'has nothing to harvest: .*410'):
        _harvest(level_of_theory_of=failed, since=datetime(2100, 1, 1, tzinfo=UTC))


def test_isolated_atoms(finished, pseudos):
    """A polarised atom in a box joins each level of its pseudopotentials and cutoffs; an unpolarised one is no E0."""
    finished(silicon(1))
    finished(silicon(2), SYSTEM={'ecutwfc': 20.0})
    box = Atoms('Si', cell=[12.0, 12.1, 12.2], pbc=True)
    spin = {'nspin': 2, 'starting_magnetization': {'Si': 0.5}, 'smearing': 'gaussian', 'degauss': 0.002, 'nosym': True}
    gamma = {'mesh': (1, 1, 1), 'offset': (0.0, 0.0, 0.0)}
    finished(box, SYSTEM={**spin, 'tot_magnetization': 2}, **gamma)
    finished(box, **gamma)
    finished(box, SYSTEM={**spin, 'ecutwfc': 99.0}, **gamma)
    result = _harvest()
    atoms = [level.frames.take(level.frames.has_role('isolated_atom')) for level in result.levels]
    assert sorted(len(part) for part in atoms) == [0, 1]
    (atom,) = [part for part in atoms if len(part)]
    assert atom.multiplicity.tolist() == [3]
    assert atom.is_labelled.all()
    assert dict(result.left_out) == {
        'an isolated atom that is not spin-polarised has too high an energy': 1,
        'an isolated atom of a level of theory that no other calculation has': 1,
    }


def test_labels_of_campaigns_are_not_harvested(finished, clean_profile):
    """What a lane has computed has its place already, perhaps as a test frame."""
    from aiida.common.links import LinkType

    finished(silicon(1))
    lane = orm.WorkChainNode()
    lane.set_process_label('LabelLaneWorkChain')
    lane.store()
    base = orm.WorkChainNode()
    base.base.links.add_incoming(lane, LinkType.CALL_WORK, 'frame_00000')
    base.store()
    ours = finished(silicon(2))
    # a sealed calculation takes no more links, so that the database is told directly
    ours.backend_entity.add_incoming(base.backend_entity, LinkType.CALL_CALC, 'iteration_01')
    result = _harvest()
    assert [level.n_calculations for level in result.levels] == [1]
    assert dict(result.left_out) == {'a label of a campaign already': 1}
