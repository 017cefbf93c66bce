"""Uncertainties from the last layer of real MACE models, against finite differences and against changed weights."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from scipy.stats import spearmanr

from aiida_mlipal.runners.committee import evaluate, graphs, load_models
from aiida_mlipal.runners.last_layer import ATTRIBUTE, copy_spread, direction_forces, features, widths
from aiida_mlipal.runners.uncertainty import attach, last_layer_data
from aiida_mlipal.science.configurations import Configurations
from tests.committee import copper

MOLECULE = Atoms('Cu3', positions=[[0, 0, 0], [2.3, 0.1, 0], [0.2, 2.4, 0.1]])


def labelled(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.calc = None
    atoms.info['REF_energy'] = energy
    atoms.arrays['REF_forces'] = forces
    return atoms


def graph_of(frames, model, shift=None):
    positions = [atoms.positions.copy() for atoms in frames]
    if shift is not None:
        atom, axis, step = shift
        positions[0][atom, axis] += step
    return graphs(
        [atoms.numbers for atoms in frames],
        positions,
        np.array([atoms.cell.array for atoms in frames]),
        np.array([atoms.pbc for atoms in frames]),
        model,
    )


@pytest.fixture(scope='module')
def two_heads(committee, tmp_path_factory):
    """Return an untrained model of two heads and vector messages, whose heads differ in scale."""
    import torch
    from e3nn import o3
    from mace import modules

    torch.manual_seed(1)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    block = modules.interaction_classes['RealAgnosticResidualInteractionBlock']
    model = modules.ScaleShiftMACE(
        r_max=4.0, num_bessel=4, num_polynomial_cutoff=5, max_ell=2, num_interactions=2, num_elements=1,
        interaction_cls=block, interaction_cls_first=block, hidden_irreps=o3.Irreps('4x0e+4x1o'),
        MLP_irreps=o3.Irreps('6x0e'), gate=torch.nn.functional.silu, atomic_energies=np.array([[1.0], [2.0]]),
        avg_num_neighbors=12.0, atomic_numbers=[29], correlation=2, heads=['cheap', 'Default'],
        atomic_inter_scale=[0.5, 2.0], atomic_inter_shift=[0.1, 0.3],
    )  # fmt: skip
    torch.set_default_dtype(dtype)
    path = tmp_path_factory.mktemp('heads') / 'member_00.model'
    torch.save(model, path)
    return path


@pytest.fixture(scope='module')
def rigid(committee_files, tmp_path_factory):
    """Return the file of a trained model with its rigidity, and what was reported."""
    path = tmp_path_factory.mktemp('llpr') / 'member_00.model'
    shutil.copy(committee_files[1], path)
    train = [labelled(copper(seed)) for seed in range(14)]
    valid = [labelled(copper(seed)) for seed in range(100, 106)]
    return path, attach(path, train, valid, seed=3, device='cpu')


def load(path, dtype='float64'):
    (model,) = load_models([path], device='cpu', dtype=dtype)
    return model


def last_weights(model):
    """Return for each readout its last map and the matrix that it is, ``(width, n_heads)``, by its action on units."""
    import torch

    found = []
    for readout, width in zip(model.readouts, widths(model), strict=True):
        linear = getattr(readout, 'linear_2', None) or readout.linear
        units = torch.zeros(width, linear.irreps_in.dim, dtype=torch.float64)
        units[:, :width] = torch.eye(width, dtype=torch.float64)
        found.append((linear, linear(units).detach()))
    return found


@pytest.mark.parametrize('n_heads', [1, 2])
def test_energies_are_linear_in_the_features(committee_files, two_heads, n_heads):
    """Features times weights, and a constant per atom, are the energies of the model."""
    import torch

    model = load(two_heads if n_heads == 2 else committee_files[1])
    head = n_heads - 1
    graph = graph_of([copper(1), MOLECULE], model)
    values, _ = features(model, graph, widths(model))
    weights = torch.cat([matrix[:, head] for _, matrix in last_weights(model)])
    assert len(weights) == {1: 8 + 16, 2: 4 + 12}[n_heads]
    found = (values.detach() @ weights).numpy()
    output = model(dict(graph), compute_force=False)
    e0 = model.atomic_energies_fn(graph['node_attrs'])[:, head]
    shift = np.atleast_1d(model.scale_shift.shift.numpy())[head]
    np.testing.assert_allclose(found + shift, (output['node_energy'].detach() - e0).numpy(), atol=1e-10)


def test_forces_along_directions_are_finite_differences(two_heads):
    import torch

    model = load(two_heads)
    frames, sizes = [copper(1), MOLECULE], widths(model)
    directions = torch.as_tensor(np.random.default_rng(0).normal(size=(3, sum(sizes))))
    graph = graph_of(frames, model)
    forces = direction_forces(*features(model, graph, sizes), directions)
    assert forces.shape == (3, 7, 3)

    def energies(step):
        values, _ = features(model, graph_of(frames, model, shift=(2, 1, step)), sizes)
        return (values.detach() @ directions.T).sum(dim=0).numpy()

    numerical = -(energies(1e-4) - energies(-1e-4)) / 2e-4
    np.testing.assert_allclose(forces[:, 2, 1], numerical, atol=1e-6)


@pytest.fixture(scope='module')
def read_out(committee_files, tmp_path_factory):
    """Return the file of a trained model with five readouts, and what was reported."""
    path = tmp_path_factory.mktemp('heads') / 'member_00.model'
    shutil.copy(committee_files[1], path)
    train = [labelled(copper(seed)) for seed in range(14)]
    valid = [labelled(copper(seed)) for seed in range(100, 106)]
    return path, attach(path, train, valid, seed=3, device='cpu', n_readouts=5)


def changed_models(path, rows):
    """Yield the plain model with each of ``rows`` added to the weights of its last layer."""
    changed = load(path)
    delattr(changed, ATTRIBUTE)
    # A map is linear in its weights: their ratio to its matrix is its normalisation.
    maps = [(linear, linear.weight.clone(), matrix[:, 0]) for linear, matrix in last_weights(changed)]
    for row in rows:
        for (linear, weight, matrix), part in zip(maps, np.split(row, np.cumsum(widths(changed))[:-1]), strict=True):
            linear.weight.data = weight * (1 + weight.new_tensor(part) / matrix)
        yield changed


def test_uncertainties_are_the_spread_of_models_with_other_weights(rigid):
    """Each direction added to the weights of the last layer gives one model: their deviations are the uncertainty."""
    path, report = rigid
    frames = Configurations.from_atoms([copper(7), MOLECULE, copper(8, repeat=(2, 1, 1))])
    model = load(path)
    found = evaluate(frames, [model], batch_atoms=9)
    rigidity = getattr(model, ATTRIBUTE)
    assert rigidity['energy'].shape == (24, 24)
    assert rigidity['forces'].shape == (report['n_directions'], 24) == (16, 24)
    energies, forces = (
        np.array([getattr(evaluate(frames, [other], batch_atoms=64), name) for other in changed_models(path, rows)])
        - getattr(found, name)
        for name, rows in (('energy', rigidity['energy']), ('forces', rigidity['forces']))
    )
    np.testing.assert_allclose(found.energy_std, np.sqrt((energies**2).sum(axis=0)), rtol=1e-6)
    np.testing.assert_allclose(found.forces_std, np.sqrt((forces**2).sum(axis=0).mean(axis=-1)), rtol=1e-6)
    assert found.member_energy.shape == (3, 1)


def test_readouts_are_a_committee(read_out):
    """Five models, each with the weights of one readout: their mean is the model and their spread its uncertainty."""
    path, report = read_out
    assert (report['kind'], report['n_readouts'], report['n_features']) == ('heads', 5, 24)
    frames = Configurations.from_atoms([copper(7), MOLECULE, copper(8, repeat=(2, 1, 1))])
    model = load(path)
    found = evaluate(frames, [model], batch_atoms=9)
    rows = 2 * getattr(model, ATTRIBUTE)['forces']  # sqrt(5 - 1)
    members = [evaluate(frames, [member], batch_atoms=64) for member in changed_models(path, rows)]
    energies, forces = (np.array([getattr(member, name) for member in members]) for name in ('energy', 'forces'))
    np.testing.assert_allclose(energies.mean(axis=0), found.energy, atol=1e-9)
    np.testing.assert_allclose(forces.mean(axis=0), found.forces, atol=1e-9)
    np.testing.assert_allclose(found.energy_std, energies.std(axis=0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(found.forces_std, np.sqrt(forces.var(axis=0, ddof=1).mean(axis=-1)), rtol=1e-6)


def test_forces_of_each_readout_are_derivatives_of_its_energy(read_out):
    import torch

    path, _ = read_out
    model = load(path)
    carried, sizes = getattr(model, ATTRIBUTE), widths(model)
    frames = [copper(1)]
    directions = torch.as_tensor(carried['forces'])
    found = direction_forces(*features(model, graph_of(frames, model), sizes), directions)[:, 2, 1]

    def energies(step):
        moved = copper(1)
        moved.positions[2, 1] += step
        return [
            evaluate(Configurations.from_atoms([moved]), [other], batch_atoms=64).energy[0]
            for other in changed_models(path, np.vstack([carried['energy'], np.zeros(24)]))
        ]

    numerical = -(np.array(energies(1e-4)) - np.array(energies(-1e-4))) / 2e-4
    np.testing.assert_allclose(found, numerical[:-1] - numerical[-1], atol=1e-6)


def test_the_seed_decides_about_the_readouts(read_out, committee_files, tmp_path):
    path, report = read_out
    train = [labelled(copper(seed)) for seed in range(14)]
    valid = [labelled(copper(seed)) for seed in range(100, 106)]
    found = {}
    for seed in (3, 4):
        shutil.copy(committee_files[1], tmp_path / f'{seed}.model')
        again = attach(tmp_path / f'{seed}.model', train, valid, seed=seed, device='cpu', n_readouts=5)
        found[seed] = getattr(load(tmp_path / f'{seed}.model'), ATTRIBUTE)['forces']
        assert (again['alpha_forces'] == report['alpha_forces']) == (seed == 3)
    np.testing.assert_array_equal(found[3], getattr(load(path), ATTRIBUTE)['forces'])
    assert not np.allclose(found[3], found[4])


def test_few_directions_stand_for_all(rigid):
    """Sixteen of twenty-four directions give nearly the uncertainties of all."""
    path, report = rigid
    model = load(path)
    frames = [labelled(copper(seed)) for seed in range(40, 46)]
    data = last_layer_data(model, frames)
    rigidity = getattr(model, ATTRIBUTE)
    covariance = rigidity['energy'].T @ rigidity['energy'] * (report['alpha_forces'] / report['alpha_energy']) ** 2
    exact = np.sqrt(np.einsum('cp,pq,cq->c', data.forces, covariance, data.forces).reshape(-1, 3).mean(axis=1))
    found = evaluate(Configurations.from_atoms(frames), [model], batch_atoms=64).forces_std
    assert spearmanr(exact, found).statistic > 0.8
    assert np.median(found / exact) == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize('kind', ['rigid', 'read_out'])
def test_errors_are_ranked_beyond_the_training_set(kind, request, capsys):
    """Hotter and more strained copper: the larger the uncertainty, the larger the error against EMT."""
    frames = [
        labelled(copper(seed, strain=0.02 + 0.002 * step, rattle=0.08 + 0.006 * step, repeat=(2, 1, 1)))
        for step, seed in enumerate(range(200, 230))
    ]
    found = evaluate(Configurations.from_atoms(frames), [load(request.getfixturevalue(kind)[0])], batch_atoms=64)
    errors = found.forces - np.concatenate([atoms.arrays['REF_forces'] for atoms in frames])
    atomic = np.sqrt(np.mean(errors**2, axis=1))
    of_frame = np.maximum.reduceat(atomic, found.offsets[:-1])
    by_atom = spearmanr(found.forces_std, atomic).statistic
    by_frame = spearmanr(found.max_forces_std, of_frame).statistic
    with capsys.disabled():
        print(f'\n{kind}: Spearman correlation per atom {by_atom:.2f}, per frame {by_frame:.2f}')  # noqa: T201
    assert by_atom > 0.4
    assert by_frame > 0.4


def test_the_model_itself_stays_as_it_was(rigid, committee_files):
    import torch

    plain, with_rigidity = (torch.load(path, weights_only=False) for path in (committee_files[1], rigid[0]))
    state, other = plain.state_dict(), with_rigidity.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) for key in state)
    copy_spread(with_rigidity, plain)
    assert getattr(plain, ATTRIBUTE)['widths'] == [8, 16]


def test_single_precision(rigid):
    frames = Configurations.from_atoms([copper(7), copper(8, rattle=0.2)])
    single = evaluate(frames, [load(rigid[0], 'float32')], batch_atoms=64)
    double = evaluate(frames, [load(rigid[0])], batch_atoms=64)
    np.testing.assert_allclose(single.forces_std, double.forces_std, rtol=1e-3)
    np.testing.assert_allclose(single.energy_std, double.energy_std, rtol=1e-3)
