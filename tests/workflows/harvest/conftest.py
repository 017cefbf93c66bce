"""A database of finished pw.x calculations, made in the test profile without running any."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.links import LinkType
from ase import Atoms
from ase.build import bulk

from aiida_mlipal.science.units import GPA

PARAMETERS = {
    'CONTROL': {'calculation': 'scf', 'tprnfor': True, 'tstress': True},
    'SYSTEM': {'ecutwfc': 12.0, 'occupations': 'smearing', 'smearing': 'cold', 'degauss': 0.02},
    'ELECTRONS': {'conv_thr': 1e-8},
}


@pytest.fixture
def clean_profile(aiida_profile):
    """Empty the profile: these tests count what is in it."""
    aiida_profile.reset_storage()
    return aiida_profile


@pytest.fixture
def pseudos(clean_profile, pseudo_dir):
    """Return a pseudopotential by element."""
    from aiida_pseudo.data.pseudo import UpfData

    return {element: UpfData(pseudo_dir / f'{element}.pz-vbc.UPF').store() for element in ('Si', 'Al')}


@pytest.fixture
def finished(pseudos) -> Callable[..., orm.CalcJobNode]:
    """Return a function that stores a finished pw.x calculation: steps of ``atoms`` with harmonic energies."""

    meshes: dict[Any, orm.KpointsData] = {}

    def factory(
        steps: Atoms | list[Atoms],
        mesh: tuple[int, int, int] = (2, 2, 2),
        offset: tuple[float, float, float] = (0.5, 0.5, 0.5),
        exit_status: int = 0,
        outputs: dict[str, Any] | None = None,
        arrays: dict[str, Any] | None = None,
        stdout: str = '',
        **namelists: dict[str, Any],
    ) -> orm.CalcJobNode:
        frames = [steps] if isinstance(steps, Atoms) else steps
        node = orm.CalcJobNode(process_type='aiida.calculations:quantumespresso.pw')
        node.set_process_label('PwCalculation')
        node.base.attributes.set('output_filename', 'aiida.out')
        if (mesh, offset) not in meshes:
            meshes[mesh, offset] = orm.KpointsData()
            meshes[mesh, offset].set_kpoints_mesh(mesh, offset=offset)
        kpoints = meshes[mesh, offset]
        structure = orm.StructureData(ase=frames[0])
        inputs = {
            'structure': structure,
            'kpoints': kpoints,
            'parameters': orm.Dict({name: {**PARAMETERS.get(name, {}), **namelists.get(name, {})}
                                    for name in {*PARAMETERS, *namelists}}),
            **{f'pseudos__{kind.name}': pseudos[kind.symbol] for kind in structure.kinds},
        }  # fmt: skip
        for label, item in inputs.items():
            node.base.links.add_incoming(item.store(), LinkType.INPUT_CALC, label)
        node.set_process_state('finished')
        node.set_exit_status(exit_status)
        node.set_exit_message('it went wrong' if exit_status else None)
        node.store()
        trajectory = orm.TrajectoryData()
        trajectory.set_trajectory(
            symbols=[site.kind_name for site in structure.sites],
            positions=np.array([atoms.positions for atoms in frames]),
            cells=np.array([atoms.cell.array for atoms in frames]),
            pbc=structure.pbc,
        )
        shifts = np.array([atoms.positions - frames[0].positions for atoms in frames])
        strains = np.array([atoms.get_volume() / 20.0 / len(atoms) - 1 for atoms in frames])
        values = {
            'energy': -100.0 * len(frames[0]) + (shifts**2).sum(axis=(1, 2)) + strains**2,
            'forces': -2 * shifts,
            'stress': -0.05 / GPA * strains[:, None, None] * np.eye(3),
            'scf_iterations': np.full(len(frames), 7),
            **(arrays or {}),
        }
        for name, value in values.items():
            if value is not None:
                trajectory.set_array(name, np.asarray(value))
        results: dict[str, Any] = {'output_trajectory': trajectory}
        if stdout:
            results['retrieved'] = orm.FolderData()
            results['retrieved'].base.repository.put_object_from_filelike(io.BytesIO(stdout.encode()), 'aiida.out')
        for label, item in {**results, **(outputs or {})}.items():
            if item is not None:
                item.base.links.add_incoming(node, LinkType.CREATE, label)
                item.store()
        node.seal()
        return node

    return factory


def silicon(index: int, scale: float = 0.1) -> Atoms:
    """Return a distorted primitive cell of silicon, another one for each index."""
    rng = np.random.default_rng(index)
    atoms = bulk('Si', a=5.43)
    atoms.positions[1] += rng.normal(scale=scale, size=3)
    return atoms


def count_nodes() -> int:
    """Return the number of nodes in the profile."""
    return orm.QueryBuilder().append(orm.Node).count()
