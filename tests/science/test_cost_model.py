"""The cost of labels."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_mlipal.science.cost_model import CostModel, Size


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
