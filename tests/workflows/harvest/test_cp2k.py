"""Finished CP2K calculations, run as a user would, become labels that the engine would compute."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.plugins import CalculationFactory, WorkflowFactory
from aiida_quantumespresso.workflows.protocols.utils import recursive_merge
from ase import Atoms
from click.testing import CliRunner

from aiida_mlipal.calculations.functions.harvest import HarvestSettings
from aiida_mlipal.cli import main
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.workflows.engines import load_engine
from aiida_mlipal.workflows.engines.cp2k_data import data_folder
from aiida_mlipal.workflows.harvest.driver import harvest
from aiida_mlipal.workflows.label import LabelWorkChain
from tests.workflows.engines.conftest import QUICK_CP2K, SR_CUT, XTB, cp2k_code, cp2k_inputs  # noqa: F401 (fixtures)
from tests.workflows.harvest.conftest import count_nodes

pytestmark = pytest.mark.codes

OPTIONS = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
#: What is printed beside the energy; CP2K's own number of digits.
PRINT = {'FORCES': {'_': 'ON'}, 'STRESS_TENSOR': {'_': 'ON'}}
#: A level of theory in the words of a user, not of the engine.
PERIODIC_XTB = recursive_merge(XTB, SR_CUT)
BARE_XTB = {
    'QS': {'METHOD': 'XTB', 'EPS_DEFAULT': '1.0E-11', 'XTB': {'PARAMETER': {'COULOMB_SR_CUT': '20'}}},
    'SCF': {'EPS_SCF': '1.0E-9', 'MAX_SCF': 60},
}
BARE_GPW = {
    'BASIS_SET_FILE_NAME': 'BASIS_MOLOPT',
    'POTENTIAL_FILE_NAME': 'GTH_POTENTIALS',
    'CHARGE': 0,
    'MGRID': {'CUTOFF': '240', 'REL_CUTOFF': 40},
    'POISSON': {'PERIODIC': 'XYZ', 'POISSON_SOLVER': 'PERIODIC'},
    'QS': {'EPS_DEFAULT': '1.0E-11', 'EXTRAPOLATION': 'ASPC'},
    'SCF': {'EPS_SCF': 1e-8, 'OT': {'MINIMIZER': 'DIIS', 'PRECONDITIONER': 'FULL_SINGLE_INVERSE'}},
    'XC': {'XC_FUNCTIONAL': {'_': 'PBE'}},
}
KINDS = [
    {'_': 'O', 'BASIS_SET': 'SZV-MOLOPT-SR-GTH', 'POTENTIAL': 'GTH-PBE-q6'},
    {'_': 'H', 'BASIS_SET': 'SZV-MOLOPT-SR-GTH-q1', 'POTENTIAL': 'GTH-PBE-q1'},
]
MINIMAL = {
    'FORCE_EVAL': {
        'DFT': {'SCF': {'EPS_SCF': 1e-8}},
        'SUBSYS': {'KIND': [{'_': 'DEFAULT', 'BASIS_SET': 'SZV-MOLOPT-SR-GTH', 'POTENTIAL': 'GTH-PBE'}]},
    }
}
MD = {'MOTION': {'MD': {'ENSEMBLE': 'NVE', 'STEPS': 2, 'TIMESTEP': 0.5}}}


@pytest.fixture
def water() -> Atoms:
    """Return a water molecule in a periodic cell that is not rectangular."""
    positions = [[0.0, 0.0, 0.1], [0.82, 0.58, 0.03], [-0.70, 0.62, -0.05]]
    return Atoms('OHH', positions=positions, cell=[[5.1, 0, 0], [0.2, 5.3, 0], [0, 0, 5.6]], pbc=True)


@pytest.fixture
def bare(cp2k_code, tmp_path):  # noqa: F811 (the fixture)
    """Return a function that runs a ``Cp2kCalculation`` or another process without our engine."""

    def run(
        atoms: Atoms,
        run_type: str = 'ENERGY_FORCE',
        dft: Mapping[str, Any] = BARE_XTB,
        parser: str | None = None,
        base: bool = False,
        **sections: Mapping[str, Any],
    ) -> orm.ProcessNode:
        parameters: dict[str, Any] = {
            'GLOBAL': {'RUN_TYPE': run_type, 'PREFERRED_DIAG_LIBRARY': 'SL'},
            'FORCE_EVAL': {'METHOD': 'Quickstep', 'STRESS_TENSOR': 'ANALYTICAL', 'PRINT': PRINT, 'DFT': deepcopy(dft)},
        }
        inputs: dict[str, Any] = {'code': cp2k_code, 'structure': orm.StructureData(ase=atoms)}
        if 'BASIS_SET_FILE_NAME' in dft:
            parameters['FORCE_EVAL']['SUBSYS'] = {'KIND': KINDS}
            inputs['file'] = {
                name: orm.SinglefileData(Path(data_folder(None) / dft[keyword]).resolve())
                for name, keyword in (('basis', 'BASIS_SET_FILE_NAME'), ('pseudo', 'POTENTIAL_FILE_NAME'))
            }
        parameters = recursive_merge(parameters, sections)
        inputs['parameters'] = orm.Dict(parameters)
        inputs['metadata'] = {'options': {**OPTIONS, **({'parser_name': parser} if parser else {})}}
        if base:
            return run_get_node(WorkflowFactory('cp2k.base'), cp2k=inputs)[1]
        return run_get_node(CalculationFactory('cp2k'), **inputs)[1]

    return run


def _group(*nodes: orm.Node) -> orm.Group:
    group = orm.Group(f'harvest-cp2k-{nodes[0].pk}').store()
    group.add_nodes(nodes)
    return group


def _assert_engine_agrees(frames: Configurations, inputs: dict[str, Any], energy: float, force: float) -> None:
    """Compute ``frames`` with the engine and compare; in eV and eV/Å."""
    asked = Configurations.from_atoms(
        [Atoms(item.numbers, item.positions, cell=item.cell, pbc=item.pbc) for item in frames.to_atoms()],
        reference_cell=frames.reference_cell,
    )
    _, node = run_get_node(
        LabelWorkChain,
        configurations=ConfigurationsData(asked),
        engine=orm.Str('cp2k'),
        engine_inputs=inputs,
        max_concurrent=orm.Int(1),
        reuse=orm.Bool(False),
    )
    assert node.is_finished_ok, node.exit_message
    own = node.outputs.labels.configurations
    order = [own.frame_id.tolist().index(name) for name in asked.frame_id.tolist()]
    own = own.take(order)
    assert own.is_labelled.all(), own.reason
    np.testing.assert_allclose(frames.energy, own.energy, atol=energy, rtol=0)
    np.testing.assert_allclose(frames.forces, own.forces, atol=force, rtol=0)
    np.testing.assert_allclose(frames.stress, own.stress, atol=force / 30, rtol=0)


def _ends(frames: Configurations) -> list[int]:
    """Return first and last labelled row of each trajectory."""
    rows = []
    for name in dict.fromkeys(frames.trajectory.tolist()):
        found = np.flatnonzero((frames.trajectory == name) & frames.is_labelled)
        rows += sorted({int(found[0]), int(found[-1])})
    return rows


def _whole_harvest(group: orm.Group, description: Mapping[str, Any]) -> Configurations:
    """Harvest a group with two levels, twice, and return the frames of the first."""
    everything = {'settings': HarvestSettings(thin=0.0), 'group': group}
    before = count_nodes()
    harvest(**everything, dry_run=True)
    assert count_nodes() == before
    result = harvest(**everything)
    assert len(result.levels) == 2
    level = result.levels[0]
    assert level.description == description
    for item in result.levels:
        assert trace(item.dataset).gaps == []
    before = count_nodes()
    again = harvest(**everything)
    assert count_nodes() == before
    assert [item.dataset.pk for item in again.levels] == [item.dataset.pk for item in result.levels]
    return level.frames


def test_xtb_of_all_kinds(bare, water, cp2k_inputs):  # noqa: F811 (the fixture)
    """Single points, relaxations, MD: each step has what the engine gives; what has no labels says why."""
    cell = {'MOTION': {'CELL_OPT': {'MAX_ITER': 2}}}
    off = {'FORCE_EVAL': {'PRINT': {'FORCES': {'_': 'OFF'}}}}
    good = [
        bare(water, base=True),
        bare(water, 'GEO_OPT', MOTION={'GEO_OPT': {'OPTIMIZER': 'LBFGS', 'MAX_ITER': 2}}),
        bare(water, 'CELL_OPT', MOTION={**cell['MOTION'], 'PRINT': {'CELL': {}}}, parser='mlipal.cp2k'),
        bare(water, 'MD', MOTION={**MD['MOTION'], 'PRINT': {'FORCES': {}}}, **off),
    ]
    other = bare(water, dft={**BARE_XTB, 'QS': {**BARE_XTB['QS'], 'EPS_DEFAULT': 1e-9}})
    unconverged = bare(water, dft={**BARE_XTB, 'SCF': {'MAX_SCF': 2, 'EPS_SCF': 1e-9}})
    assert unconverged.is_finished_ok
    useless = [
        bare(water, 'MD', **MD, **off),
        bare(water, dft={**BARE_XTB, 'SCF': {'MAX_SCF': 2, 'EPS_SCF': 1e-9}}, parser='mlipal.cp2k'),
    ]
    group = _group(*good, other, unconverged, *useless)
    inputs = cp2k_inputs([water], PERIODIC_XTB)
    frames = _whole_harvest(group, load_engine('cp2k').level_of_theory(inputs))
    kinds = [name.rsplit('-', 1)[0] for name in frames.trajectory.tolist()]
    # The first frame of all is the same one, and kept once.
    assert {kind: kinds.count(kind) for kind in kinds} == {'energy-force': 1, 'geo-opt': 2, 'cell-opt': 2, 'md': 2}
    assert np.ptp(frames.cell[:, 0, 0]) > 1e-5
    rows = _ends(frames)
    assert len(rows) == 7
    _assert_engine_agrees(frames.take(rows), inputs, energy=1e-6, force=1e-5)
    result = harvest(group=group, settings=HarvestSettings())
    assert dict(result.left_out) == {
        'MD without forces: neither kind of PRINT.FORCES was on': 1,
        'ENERGY_FORCE ended with exit status 450: SCF cycle did not converge for the given threshold.': 1,
    }

    # The unconverged one alone is a rejected row.
    alone = harvest(group=_group(unconverged), settings=HarvestSettings())
    (level,) = alone.levels
    assert level.frames.reason.tolist() == ['the SCF did not converge']
    text = CliRunner().invoke(main, ['harvest', '--group', group.label]).output
    assert 'left out: 1 calculations: MD without forces' in text


def test_steps_that_are_no_labels(bare, water):
    """What went on from a restart file begins with its own first step; a cell that was not printed is no frame."""
    first = bare(water, 'GEO_OPT', MOTION={'GEO_OPT': {'MAX_ITER': 1}})
    inputs = first.inputs
    builder = CalculationFactory('cp2k').get_builder()
    builder.code, builder.structure, builder.parent_calc_folder = (
        inputs.code,
        inputs.structure,
        first.outputs.remote_folder,
    )
    restart = {'RESTART_FILE_NAME': './parent_calc/aiida-1.restart', 'RESTART_DEFAULT': '.TRUE.'}
    builder.parameters = orm.Dict(
        {
            **recursive_merge(inputs.parameters.get_dict(), {'MOTION': {'GEO_OPT': {'MAX_ITER': 2}}}),
            'EXT_RESTART': restart,
        }
    )
    builder.metadata.options = OPTIONS
    second = run_get_node(builder)[1]
    cells = bare(water, 'CELL_OPT', MOTION={'CELL_OPT': {'MAX_ITER': 3}})
    trials = bare(water, 'GEO_OPT', MOTION={'GEO_OPT': {'OPTIMIZER': 'CG', 'MAX_ITER': 1}})
    result = harvest(group=_group(first, second, cells, trials), settings=HarvestSettings(thin=0.0))
    (level,) = result.levels
    frames = level.frames
    steps = {
        name: frames.step[frames.trajectory == name].tolist() for name in dict.fromkeys(frames.trajectory.tolist())
    }
    assert list(steps.values()) == [[0, 1], [2], [3]], 'the second starts where the first ends'
    assert np.diff(frames.energy[:3]).max() < 0
    np.testing.assert_allclose(frames.cell[2], water.cell.array, atol=1e-12)
    assert np.abs(frames.cell[3] - water.cell.array).max() > 1e-5
    assert dict(result.left_out) == {
        'CELL_OPT, in part: steps without cell (MOTION.PRINT.CELL)': 1,
        'GEO_OPT, in part: steps without an energy of their own (OPTIMIZER CG prints an energy that is not that of the '
        'positions)': 1,
    }


def test_level_of_theory_of_a_label(bare, water, cp2k_inputs):  # noqa: F811 (the fixture)
    """A labelled dataset asks for its level, of CP2K alone; a calculation of something else is refused."""
    mine, other = bare(water), bare(water, dft={**BARE_XTB, 'QS': {**BARE_XTB['QS'], 'EPS_DEFAULT': 1e-9}})
    description = load_engine('cp2k').level_of_theory(cp2k_inputs([water], PERIODIC_XTB))
    dataset = ConfigurationsData(Configurations.from_atoms([water]), level_of_theory=description).store()
    group = _group(mine, other)
    result = harvest(level_of_theory_of=dataset, group=group, settings=HarvestSettings())
    assert [level.n_calculations for level in result.levels] == [1]
    assert result.levels[0].dataset.level_of_theory == description
    assert 'another level of theory: dft.QS.EPS_DEFAULT: 1e-11 -> 1e-09' in result.left_out
    result = harvest(level_of_theory_of=other, since=datetime(2100, 1, 1, tzinfo=UTC), settings=HarvestSettings())
    assert [level.n_calculations for level in result.levels] == [1]
    foreign = orm.CalcJobNode(process_type='aiida.calculations:mlipal.generate').store()
    with pytest.raises(ValueError, match=r'is one of `mlipal\.generate`, of which nothing is harvested'):
        harvest(level_of_theory_of=foreign, settings=HarvestSettings())


@pytest.mark.long
def test_gpw_of_all_kinds(bare, water, cp2k_inputs):  # noqa: F811 (the fixture)
    """DFT: the level in a user's words is that of the engine, and so are the labels; cells may change, too."""
    good = [
        bare(water, dft=BARE_GPW),
        bare(water, 'GEO_OPT', dft=BARE_GPW, MOTION={'GEO_OPT': {'MAX_ITER': 2}}),
        bare(water, 'CELL_OPT', dft=BARE_GPW, MOTION={'CELL_OPT': {'MAX_ITER': 2}, 'PRINT': {'CELL': {}}}),
        bare(water, 'MD', dft=BARE_GPW, **MD),
    ]
    other = bare(water, dft={**BARE_GPW, 'MGRID': {'CUTOFF': 200, 'REL_CUTOFF': 40}})
    inputs = cp2k_inputs([water], recursive_merge(QUICK_CP2K, MINIMAL))
    frames = _whole_harvest(_group(*good, other), load_engine('cp2k').level_of_theory(inputs))
    assert len(frames) == 7
    assert frames.is_labelled.all()
    _assert_engine_agrees(frames.take(_ends(frames)), inputs, energy=1e-5, force=5e-4)
