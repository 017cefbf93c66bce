from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.plausibility import Bounds, implausible, n_fragments, packing

BOUNDS = Bounds(max_force=100.0, density_factor=1.5)


def configs(*frames: Atoms, **columns) -> Configurations:
    return Configurations.from_atoms(list(frames), **columns)


def trained(*frames: Atoms) -> Configurations:
    return configs(*frames, status='labelled', role='train')


def judge(pool: Configurations, known: Configurations) -> list[str]:
    return implausible(pool, np.zeros(len(pool)), known, BOUNDS).tolist()


def test_packing_compares_across_compositions_and_sizes():
    """Spheres of radius a fill pi / sqrt(18) of a close-packed crystal whose neighbours are 2 a apart."""
    copper = bulk('Cu', a=2 * 1.32 * np.sqrt(2))
    found = packing(configs(copper, copper * 2, molecule('H2O')))
    assert found[:2] == pytest.approx(np.pi / np.sqrt(18))
    assert np.isnan(found[2])


def test_a_density_that_was_never_seen():
    known = trained(bulk('Cu', a=3.6), bulk('Cu', a=3.7))
    frames = [bulk('Cu', a=a) for a in (3.6, 3.6 / 1.5 ** (1 / 3) - 0.01, 3.7 * 1.5 ** (1 / 3) + 0.01, 3.2, 4.2)]
    reasons = judge(configs(*frames), known)
    assert [bool(reason) for reason in reasons] == [False, True, True, False, False]
    assert 'more than 1.5 times beyond what training frames fill' in reasons[1]
    assert judge(configs(*frames), trained(molecule('H2O'))) == [''] * 5  # nothing to compare with


@pytest.mark.parametrize(
    ('atoms', 'pieces'),
    [
        (molecule('C6H6'), 1),
        (bulk('Si') * 2, 1),
        (bulk('Cu', a=3.6 * 1.15) * 2, 1),
        (Atoms('Cu4', [[0, 0, 0], [2.5, 0, 0], [9, 0, 0], [11.5, 0, 0]]), 2),
        (Atoms('Cu2', [[0, 0, 0], [9, 0, 0]], cell=[11.5, 20, 20], pbc=True), 1),  # through the boundary
        (Atoms('He3', np.diag([5.0, 10, 15])), 3),
    ],
)
def test_pieces(atoms, pieces):
    assert n_fragments(configs(atoms), 0) == pieces


def test_an_atom_that_flew_away():
    whole = molecule('C2H6')
    broken = whole.copy()
    broken.positions[-1] += [0, 0, 8]
    known = trained(whole, broken)
    pool = configs(broken, broken, broken, whole, parent=[*known.frame_id, 'unknown', known.frame_id[0]])
    reasons = judge(pool, known)
    assert reasons[0] == f'it has come apart into 2 pieces, and its parent {known.frame_id[0]} was one'
    assert reasons[1:] == ['', '', '']  # the parent was in pieces, is not known, or this is one piece
