"""Normal modes, against ASE's vibrations; thermal displacements, against equipartition."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.vibrations import Vibrations

from aiida_mlipal.science.exploration_settings import ExplorationSettings
from aiida_mlipal.science.plan_normal_modes import normal_modes, thermal_displacements


def _vibrations(atoms: Atoms, tmp_path):
    atoms.calc = EMT()
    vibrations = Vibrations(atoms, name=str(tmp_path / 'vib'))
    vibrations.run()
    return vibrations.get_vibrations()


@pytest.mark.parametrize('atoms', [Atoms('N2', [[0, 0, 0], [0, 0, 1.0]]), bulk('Cu', cubic=True)], ids=['N2', 'Cu4'])
def test_frequencies_are_those_of_ase(atoms, tmp_path):
    data = _vibrations(atoms, tmp_path)
    frequencies, modes = normal_modes(data.get_hessian_2d(), atoms.get_masses())
    energies = data.get_energies()
    h = 2 * np.pi * units._hbar / units._e  # eV s
    expected = np.sort(np.where(energies.imag > 0, -energies.imag, energies.real)) / h / 1e12
    np.testing.assert_allclose(frequencies, expected, atol=1e-6)
    overlaps = np.einsum('kai,a,lai->kl', modes, atoms.get_masses(), modes)
    np.testing.assert_allclose(overlaps, np.eye(3 * len(atoms)), atol=1e-10)


def test_each_mode_has_half_a_kt(tmp_path):
    atoms = bulk('Cu', cubic=True)
    hessian = _vibrations(atoms, tmp_path).get_hessian_2d()
    frequencies, modes = normal_modes(hessian, atoms.get_masses())
    n_frames = 4000
    moves = thermal_displacements(frequencies, modes, 400.0, 0.5, n_frames, np.random.default_rng(1))
    flat = moves.reshape(n_frames, -1)
    energies = 0.5 * np.einsum('fi,ij,fj->f', flat, hessian, flat)
    n_modes = int((np.abs(frequencies) >= 0.5).sum())
    assert n_modes == 9  # translations are left out
    expected = n_modes * units.kB * 400 / 2
    assert energies.mean() == pytest.approx(expected, rel=4 * np.sqrt(2 / n_modes / n_frames))
    momentum = np.einsum('fai,a->fi', moves, atoms.get_masses())
    np.testing.assert_allclose(momentum, 0, atol=1e-8)


def test_unstable_modes_are_used_and_slow_ones_are_not():
    frequencies = np.array([-3.0, -0.1, 0.0, 0.2, 3.0, 5.0])
    modes = np.eye(6).reshape(6, 2, 3)
    moves = thermal_displacements(frequencies, modes, 300.0, 0.5, 3000, np.random.default_rng(2)).reshape(-1, 6)
    spread = moves.std(axis=0)
    assert (spread[1:4] == 0).all()
    assert spread[0] == pytest.approx(spread[4], rel=0.05)
    assert spread[4] / spread[5] == pytest.approx(5 / 3, rel=0.05)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'temperatures': []}, 'at least one number'),
        ({'temperatures': [-1]}, 'greater than 0'),
        ({'min_frequency': 0}, 'greater than 0'),
        ({'n_frame': 1}, 'Did you mean `n_frames`'),
    ],
)
def test_bad_keys_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        ExplorationSettings(seed=1, plans=[{'kind': 'normal_modes', **changes}])
