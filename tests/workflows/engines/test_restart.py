"""What engines on a ``BaseRestartWorkChain`` share, and the one of the how-to: whole, installed, and run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import run_get_node
from ase.build import bulk
from ase.calculators.lj import LennardJones

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.engines import engine_names, load_engine
from aiida_mlipal.workflows.engines.restart import RestartEngine
from aiida_mlipal.workflows.label import LabelWorkChain

EXAMPLES = Path(__file__).parents[3] / 'examples'
POTENTIAL = {'epsilon': 0.0104, 'sigma': 3.4, 'cutoff': 9.0}
OPTIONS = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}


class Engine(RestartEngine):
    def level_of_theory(self, inputs):
        return {'code': 'none'}


@pytest.fixture
def argon_installed(tmp_path, monkeypatch):
    """Make Python find the example as if it were a package that somebody has installed."""
    folder = tmp_path / 'argon_engine-0.1.dist-info'
    folder.mkdir()
    (folder / 'METADATA').write_text('Metadata-Version: 2.1\nName: argon-engine\nVersion: 0.1\n')
    (folder / 'entry_points.txt').write_text('[aiida_mlipal.engines]\nargon = argon_engine:ArgonEngine\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    yield
    load_engine.cache_clear()


def _crystals() -> list:
    """Return argon crystals with displaced atoms."""
    generator = np.random.default_rng(7)
    crystals = [bulk('Ar', cubic=True, a=5.3).repeat(2) for _ in range(2)]
    for atoms in crystals:
        atoms.rattle(0.1, rng=generator)
    return crystals


@pytest.mark.codes
def test_the_engine_of_the_how_to(argon_installed, cp2k_code):
    """Its labels are those of ASE's Lennard-Jones potential, and their history has no gap."""
    assert 'argon' in engine_names()
    engine, crystals = load_engine('argon'), _crystals()
    settings = {'clean_workdir': True, 'max_iterations': 1, 'parameters': POTENTIAL}
    inputs = engine.build(cp2k_code, [orm.StructureData(ase=crystals[0])], settings, OPTIONS)
    _, node = run_get_node(
        LabelWorkChain,
        configurations=ConfigurationsData(Configurations.from_atoms(crystals)),
        engine=orm.Str('argon'),
        engine_inputs=inputs,
        checks=orm.Dict({'require_stress': False}),
        max_concurrent=orm.Int(1),
    )
    assert node.is_finished_ok, node.exit_message
    labels = node.outputs.labels.configurations
    assert labels.is_labelled.all(), labels.reason
    for index, atoms in enumerate(crystals):
        atoms.calc = LennardJones(epsilon=POTENTIAL['epsilon'], sigma=POTENTIAL['sigma'], rc=POTENTIAL['cutoff'])
        assert labels.energy[index] == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
        np.testing.assert_allclose(labels.atoms(index).get_forces(), atoms.get_forces(), atol=1e-6)
    assert trace(node).gaps == []


@pytest.mark.codes
def test_what_the_engine_of_the_how_to_refuses(argon_installed, cp2k_code):
    engine = load_engine('argon')
    settings = {'clean_workdir': True, 'max_iterations': 1, 'parameters': {'epsilon': 0.0104}}
    inputs = engine.build(cp2k_code, [], settings, OPTIONS)
    assert engine.validate(inputs) == "the potential lacks ['cutoff', 'sigma']: set them in the label parameters."
    without = {name: node for name, node in inputs.items() if name not in ('options', 'potential')}
    assert engine.validate(without) == "`ArgonEngine` needs inputs ['options', 'potential']; its `build` makes them."
    frames = Configurations.from_atoms([bulk('Cu')])
    assert engine.check_frames(frames, inputs) == ['the argon engine knows no Cu: leave out these frames.']


def _ended(computer, *statuses: int | None) -> orm.WorkChainNode:
    """Return a work chain whose jobs ended with these exit statuses, one after the other."""
    process = orm.WorkChainNode().store()
    for number, status in enumerate(statuses):
        job = orm.CalcJobNode(computer=computer)
        job.set_options({'resources': {'num_machines': 1}})
        job.base.links.add_incoming(process, LinkType.CALL_CALC, f'iteration_{number:02d}')
        if status is not None:
            job.set_exit_status(status)
        job.store()
        retrieved = orm.FolderData()
        retrieved.base.links.add_incoming(job, LinkType.CREATE, 'retrieved')
        retrieved.store()
    return process


def test_what_the_scheduler_says_is_retried(aiida_localhost):
    limits = {'max_wallclock_seconds': 600, 'max_memory_kb': 1000}

    def retry(*statuses, attempt=1, options=limits):
        return Engine().retry(_ended(aiida_localhost, *statuses), attempt, {}, {}, options)

    assert retry(300, 120).options == {'max_wallclock_seconds': 1200}
    assert retry(110).options == {'max_memory_kb': 2000}
    assert retry(120, options={}) is None, "the queue's own limit"
    assert retry(110, options={}) is None
    assert retry(140).options == retry(140).inputs == {}
    assert retry(140, attempt=2) is None
    assert retry(120, 300) is None, 'it would end in the same way'
    assert retry(None) is None
    assert retry() is None


def test_the_result_is_what_the_last_job_left(aiida_localhost):
    process = _ended(aiida_localhost, 300, 0)
    last = max(process.called, key=lambda job: job.pk)
    assert Engine().result(process).pk == last.outputs.retrieved.pk
    assert Engine().result(_ended(aiida_localhost)) is None
