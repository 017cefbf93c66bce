"""The lineage of a real label: ``PwBaseWorkChain`` writes its settings anew for each ``PwCalculation``."""

from __future__ import annotations

import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.plugins import DataFactory, WorkflowFactory
from ase.build import bulk

from aiida_mlipal.provenance.lineage import trace

pytestmark = pytest.mark.codes


@pytest.fixture(scope='module')
def label(aiida_profile, pw_executable, pseudo_dir, tmp_path_factory):
    """Return a finished PwBaseWorkChain on two silicon atoms, Gamma only."""
    computer = orm.Computer(
        'lineage', 'localhost', transport_type='core.local', scheduler_type='core.direct',
        workdir=str(tmp_path_factory.mktemp('work')),
    ).store()  # fmt: skip
    computer.configure(safe_interval=0.0)
    computer.set_minimum_job_poll_interval(0.1)
    code = orm.InstalledCode(
        label='pw', computer=computer, filepath_executable=pw_executable, with_mpi=False,
        default_calc_job_plugin='quantumespresso.pw',
    )  # fmt: skip
    base = WorkflowFactory('quantumespresso.pw.base')
    builder = base.get_builder()
    structure = orm.StructureData(ase=bulk('Si'))
    pseudo = DataFactory('pseudo.upf')(pseudo_dir / 'Si.pz-vbc.UPF')
    builder.kpoints_distance = orm.Float(5.0)
    builder.pw.code = code
    builder.pw.structure = structure
    builder.pw.pseudos = {'Si': pseudo}
    builder.pw.parameters = orm.Dict(
        {'CONTROL': {'calculation': 'scf'}, 'SYSTEM': {'ecutwfc': 12.0, 'ecutrho': 48.0}, 'ELECTRONS': {}}
    )
    builder.pw.metadata.options = {'resources': {'num_machines': 1, 'num_mpiprocs_per_machine': 1}, 'withmpi': False}
    _, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    return node


def test_settings_are_restated(label):
    lineage = trace(label.outputs.output_trajectory)
    assert lineage.gaps == []
    assert list(lineage.restated) == ['PwBaseWorkChain']
    assert lineage.restated['PwBaseWorkChain'] >= 1
    supplied = {item.link_label for item in lineage.supplied}
    assert {'pw__structure', 'pw__parameters', 'pw__pseudos__Si', 'kpoints_distance'} <= supplied


def test_a_mesh_that_lost_its_creator_is_found(label, cut):
    calculation = next(item for item in label.called_descendants if item.process_label == 'PwCalculation')
    mesh = calculation.inputs.kpoints
    cut(mesh.creator, mesh)
    (gap,) = trace(label).gaps
    assert (gap.node, gap.consumer, gap.link_label) == (mesh.pk, calculation.pk, 'kpoints')
