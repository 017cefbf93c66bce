import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given
from hypothesis import strategies as st

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.training_checks import MAX_NEIGHBOURS, check_cells, check_frames, neighbours_per_atom
from tests.runners.training import copper


def _sheet():
    sheet = graphene()
    sheet.cell[2] = 0.0
    sheet.pbc = (True, True, False)
    return sheet


def _slab():
    slab = fcc111('Cu', (1, 1, 12))
    slab.pbc = (True, True, False)
    return slab


@pytest.mark.parametrize('atoms', [bulk('Cu'), bulk('Si', cubic=True), _sheet(), _slab()])
@pytest.mark.parametrize('r_max', [6.0, 12.0])
def test_the_estimate_is_close_to_the_neighbours_that_there_are(atoms, r_max):
    """Cells are smaller than the cutoff: most neighbours are periodic images."""
    counted = len(neighbor_list('i', atoms, r_max)) / len(atoms)
    (estimated,) = neighbours_per_atom(Configurations.from_atoms([atoms]), r_max=r_max)
    assert estimated == pytest.approx(counted, rel=0.4)


@given(st.integers(1, 4), st.floats(2.0, 9.0))
def test_a_larger_cell_has_the_same_neighbours(n, r_max):
    frames = Configurations.from_atoms([bulk('Cu'), bulk('Cu') * (n, 1, 2)])
    small, large = neighbours_per_atom(frames, r_max=r_max)
    assert small == pytest.approx(large)


def test_a_cell_smaller_than_the_cutoff_is_welcome():
    check_cells(Configurations.from_atoms([bulk('Cu'), _sheet(), molecule('C60')]), r_max=9.0)


def test_a_cutoff_that_no_memory_holds():
    frames = Configurations.from_atoms([molecule('C60'), bulk('Cu')])
    check_cells(frames, r_max=14.0)
    message = (
        rf'`r_max` of 15 Å 1 of 2 frames \({frames.frame_id[1]} first\) has more than {MAX_NEIGHBOURS} .*lower `r_max`'
    )
    with pytest.raises(ValueError, match=message):
        check_cells(frames, r_max=15.0)


def test_a_periodic_direction_without_extent():
    """MACE would take a cell of zeros for a cube of 1 Å."""
    sheet = _sheet()
    sheet.pbc = True
    with pytest.raises(ValueError, match=r'without extent along a direction that is periodic: .*set `pbc` to false'):
        check_cells(Configurations.from_atoms([bulk('Cu'), sheet]), r_max=5.0)


@pytest.mark.parametrize('missing', ['energy', 'forces'])
def test_labels_that_lack_something(missing):
    frames = Configurations.from_atoms(
        [Atoms('Cu2', positions=[[0, 0, 0], [0, 0, 2 + i]]) for i in range(3)],
        energy=np.zeros(3),
        forces=np.zeros((6, 3)),
        status='labelled',
    )
    check_frames(frames, r_max=5.0)
    column = getattr(frames, missing).copy()
    column[1] = np.nan
    with pytest.raises(ValueError, match=f'1 of 3 frames .* has no {missing}.*label them anew'):
        check_frames(frames.with_columns(**{missing: column}), r_max=5.0)


@pytest.mark.parametrize(('force', 'refused'), [(999.0, False), (1001.0, True), (1e6, True)])
def test_forces_that_cannot_be_right(force, refused):
    frames = copper()
    forces = frames.forces.copy()
    forces[frames.offsets[3]] = [0.0, -force, 0.0]
    frames = frames.with_columns(forces=forces)
    if not refused:
        check_frames(frames, r_max=4.5)
        return
    with pytest.raises(ValueError, match=rf'1 of 9 frames \({frames.frame_id[3]} first\) has forces above 1000 eV/Å'):
        check_frames(frames, r_max=4.5)
