"""A campaign on two levels of theory in one model, from the campaign file to the report: the main head counts."""

from __future__ import annotations

from textwrap import dedent

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.report import write_report
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.seeds import generate
from aiida_mlipal.workflows.campaign_file import build, load_campaign
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.label import LabelWorkChain

pytestmark = [pytest.mark.codes, pytest.mark.long, pytest.mark.timeout(1800)]

LJ = {'sigma': 2.2, 'epsilon': 0.1, 'rc': 5.0}
CAMPAIGN = """
    protocol: fast
    seed: 11
    structures: [copper.cif]
    seeds:
      - {{generator: rattle, n_frames: 9, stdev: 0.1}}
      - {{generator: isotropic_strain, n_frames: 3, min: -0.03, max: 0.03}}
    label: {{engine: ase, code: {code}, calculator: emt}}
    train:
      code: {code}
      n_members: 2
      other_datasets: {{lj: {other}}}
      settings: {{num_channels: 8, r_max: 4.0, max_num_epochs: 30, batch_size: 2}}
    explore: {{settings: {{temperatures: [300, 900], n_replicas_per_temperature: 2, n_steps: 60, stride: 5}}}}
    selection: {{n_labels: 6, random_share: 0.5}}
    convergence: {{n_test_frames: 2}}
    budget: {{max_iterations: 1}}
    validation: {{n_volumes: 5}}
"""


@pytest.fixture
def other_dataset(python_code) -> ConfigurationsData:
    """Return copper labelled at the other level by an earlier run."""
    parents = Configurations.from_atoms([bulk('Cu', a=3.6, cubic=True)])
    recipe = [{'generator': 'rattle', 'n_frames': 10, 'stdev': 0.1}, {'generator': 'isolated_atoms'}]
    options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}}
    _, node = run_get_node(
        LabelWorkChain,
        configurations=ConfigurationsData(generate(parents, recipe, seed=77)),
        engine=orm.Str('ase'),
        engine_inputs=load_engine('ase').build(
            python_code, [], {'parameters': {'calculator': 'lj', 'parameters': LJ}}, options
        ),
    )
    assert node.is_finished_ok, node.exit_message
    return node.outputs.labels


def _forces(frames: Configurations, calculator: type[Calculator], **parameters) -> np.ndarray:
    """Return the forces of one level of theory, by hand."""
    forces = []
    for atoms in frames.to_atoms():
        atoms.calc = calculator(**parameters)
        forces.append(atoms.get_forces())
    return np.concatenate(forces)


def _rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_two_heads_from_the_file_to_the_report(tmp_path, python_code, other_dataset):
    bulk('Cu', a=3.6, cubic=True).write(tmp_path / 'copper.cif')
    text = CAMPAIGN.format(code=python_code.full_label, other=other_dataset.pk)
    (tmp_path / 'campaign.yaml').write_text(dedent(text))
    node = run_get_node(build(load_campaign(tmp_path / 'campaign.yaml')))[1]
    assert node.is_finished_ok, node.exit_message

    # Both levels are learned by every model, and none of the other level's labels is among those of the campaign.
    dataset = node.outputs.dataset
    heads = {'Default': dataset.level_of_theory_hash, 'lj': other_dataset.level_of_theory_hash}
    assert len(set(heads.values())) == 2
    assert sorted(node.outputs.models) == ['iteration_00', 'iteration_01']
    assert all(node.outputs.models[name].heads == heads for name in node.outputs.models)
    frames = dataset.configurations
    crystals = frames.take(frames.is_labelled & ~frames.has_role('isolated_atom'))
    assert len(crystals) >= 12 + 6
    np.testing.assert_allclose(crystals.forces, _forces(crystals, EMT), atol=1e-8)

    # Nothing is missing, and the model leads to the labels of both levels.
    assert trace(node).gaps == []
    lineage = trace(node.outputs.model)
    assert lineage.gaps == []
    calculators = {
        orm.load_node(item.node)['calculator']
        for item in lineage.supplied
        if item.kind == 'Dict' and 'calculator' in orm.load_node(item.node)
    }
    assert calculators == {'emt', 'lj'}

    # Exploration and evaluation speak for the main head: forces like those of EMT, with Lennard-Jones far away.
    called = {process.process_label: process for process in node.called_descendants}
    pool = called['MaceExploreCalculation'].outputs
    evaluated = called['MaceEvaluateCalculation']
    for asked, evaluation in (
        (pool.pool, pool.evaluation),
        (evaluated.inputs.configurations, evaluated.outputs.evaluation),
    ):
        assert asked.n_frames > 2
        predicted = evaluation.evaluation.forces
        error = _rmse(predicted, _forces(asked.configurations, EMT))
        assert error < 0.5 * _rmse(predicted, _forces(asked.configurations, LennardJones, **LJ))
    with node.outputs.model.as_path() as folder:
        from mace.calculators import MACECalculator

        atoms = crystals.atoms(0)
        energies = {}
        for head in heads:
            atoms.calc = MACECalculator(str(folder / 'member_00.model'), device='cpu', head=head)
            energies[head] = atoms.get_potential_energy() / len(atoms)
    assert energies['Default'] == pytest.approx(crystals.energy[0] / len(atoms), abs=0.2)
    assert abs(energies['lj'] - energies['Default']) > 0.2, 'the two levels have another zero'
    (eos,) = node.outputs.validation['eos']
    assert abs(eos['deviation_percent']) < 2, 'the lattice constant of EMT'

    write_report(node, tmp_path / 'report.html')
    page = (tmp_path / 'report.html').read_text(encoding='utf-8')
    assert 'Heads for the levels of theory' in page
    assert f'lj (<code>{heads["lj"]}</code>)' in page
