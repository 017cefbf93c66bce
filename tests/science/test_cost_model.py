"""The cost of labels."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk, make_supercell

from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import CostModel, MeasuredCosts, Size, predict_costs


def test_exponents_are_found_in_noisy_costs():
    rng = np.random.default_rng(4)
    sizes = [Size(float(rng.integers(8, 200)), int(rng.integers(1, 64))) for _ in range(200)]
    costs = [0.01 * size.n_electrons**2.4 * size.n_kpoints**0.9 * np.exp(rng.normal(scale=0.2)) for size in sizes]
    model = CostModel.fit(sizes, costs)
    assert model.electrons == pytest.approx(2.4, abs=0.1)
    assert model.kpoints == pytest.approx(0.9, abs=0.1)
    errors = [np.log(model.predict(size) / cost) for size, cost in zip(sizes, costs, strict=True)]
    assert np.std(errors) < 0.25


def test_one_size_fixes_the_level_and_leaves_the_exponents():
    model = CostModel.fit([Size(32, 4)] * 5, [10.0] * 5)
    assert (model.electrons, model.kpoints) == (3.0, 1.0)
    assert model.predict(Size(32, 4)) == pytest.approx(10.0)
    assert model.predict(Size(64, 4)) == pytest.approx(80.0)


def test_without_observations_larger_still_costs_more():
    model = CostModel.fit([], [])
    assert model.predict(Size(64, 1)) > model.predict(Size(32, 2)) > model.predict(Size(32, 1))


@pytest.mark.parametrize(('sizes', 'costs'), [([Size(1)], []), ([Size(1)], [0.0]), ([Size(1)], [float('nan')])])
def test_useless_observations_are_refused(sizes, costs):
    with pytest.raises(ValueError, match='one positive cost per size'):
        CostModel.fit(sizes, costs)


def test_costs_of_a_pool_follow_from_what_labels_took():
    """Valence electrons, k-points and the scaling are recovered from labels of two compositions."""
    rng = np.random.default_rng(0)

    def frames(cells):
        return Configurations.from_atoms([make_supercell(bulk('NaCl', 'rocksalt', a=5.6), np.diag(n)) for n in cells])

    known = frames([(1, 1, n) for n in range(1, 5)] + [(1, 2, n) for n in (2, 3)])
    extra = Configurations.from_atoms([bulk('Na', a=4.2 + 0.1 * n) * (1, 1, n) for n in (1, 2, 3)])
    known = Configurations.concatenate([known, extra])
    symbols = [known.atoms(row).get_chemical_symbols() for row in range(len(known))]
    electrons = np.array([9.0 * names.count('Na') + 7.0 * names.count('Cl') for names in symbols])
    kpoints = rng.choice([1.0, 4.0, 8.0], len(known))
    measured = MeasuredCosts(
        frame_id=np.append(known.frame_id, 'other'), core_s=np.append(0.01 * electrons**3 * kpoints, 1e9),
        n_electrons=np.append(electrons, 1.0), n_kpoints=np.append(kpoints, 1.0),
    )  # fmt: skip
    model, costs = predict_costs(known, known, measured)
    assert (model.n_observations, model.electrons) == (len(known), pytest.approx(3.0))
    assert costs == pytest.approx(measured.core_s[:-1], rel=1e-6)


def test_costs_of_a_pool_without_measurements_are_relative():
    pool = Configurations.from_atoms([bulk('Si'), bulk('Si') * (1, 1, 2)])
    nothing = MeasuredCosts(np.array([], dtype=str), np.array([]), np.array([]), np.array([]))
    model, costs = predict_costs(pool, Configurations.empty(), nothing)
    assert model.n_observations == 0
    assert costs[1] == pytest.approx(8 * costs[0])
