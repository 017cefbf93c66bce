"""``verdi data mlipal model import``, with real model files, and what can be done with the node."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from aiida import orm
from aiida.engine import run, run_get_node
from click.testing import CliRunner

from aiida_mlipal.cli.data import data_group
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.data.model import MlipModelData
from aiida_mlipal.provenance.lineage import trace
from aiida_mlipal.workflows.train import TrainWorkChain
from tests.runners.fine_tuning import alloy

pytestmark = pytest.mark.codes

PUBLISHED = {'code': 'ase', 'functional': 'emt', 'declared': True}
NEW = {'code': 'ase', 'functional': 'stiff emt'}
TUNE = {'seeds': [3], 'max_num_epochs': 1, 'lr': 0.001, 'batch_size': 4}


def random_model(path: Path, *, elements: tuple[int, ...] = (13, 29), heads: tuple[str, ...] = ('Default',)) -> str:
    """Write a model with random weights, and return its SHA-256."""
    import mace  # noqa: F401 - before e3nn
    import numpy as np
    import torch
    from e3nn import o3
    from mace.modules import ScaleShiftMACE, gate_dict, interaction_classes

    torch.manual_seed(0)
    interaction = interaction_classes['RealAgnosticResidualInteractionBlock']
    model = ScaleShiftMACE(
        atomic_inter_scale=[1.0] * len(heads),
        atomic_inter_shift=[0.0] * len(heads),
        r_max=4.0,
        num_bessel=6,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=interaction,
        interaction_cls_first=interaction,
        num_interactions=2,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps('8x0e'),
        MLP_irreps=o3.Irreps('16x0e'),
        atomic_energies=np.array([[float(head + number) for number in elements] for head in range(len(heads))]),
        avg_num_neighbors=10.0,
        atomic_numbers=list(elements),
        correlation=2,
        gate=gate_dict['silu'],
        radial_MLP=[16, 16],
        heads=list(heads),
    )
    torch.save(model, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def level(tmp_path):
    """Return a file with the level of theory that the model was published for."""
    path = tmp_path / 'level.yaml'
    path.write_text('code: ase\nfunctional: emt\n')
    return path


def invoke(*arguments: object, ok: bool = True) -> str:
    """Run a command and return its output; it must succeed, or fail with a message and no traceback."""
    result = CliRunner().invoke(data_group, ['model', *map(str, arguments)])
    assert (result.exit_code == 0) == ok, result.output
    if not ok:
        assert isinstance(result.exception, SystemExit), result.exception
    return result.output


def imported(folder: Path, level: Path, name: str = 'published.model', **model) -> MlipModelData:
    """Import a model with random weights."""
    sha256 = random_model(folder / name, **model)
    more = ['--head', model['heads'][-1]] if 'heads' in model else []
    output = invoke('import', folder / name, '--sha256', sha256, '--level-of-theory', level, *more)
    return orm.load_node(int(output.split()[-1]))


def test_a_model_with_what_it_takes_to_train_it(python_code, tmp_path, level):
    sha256 = random_model(tmp_path / 'published.model')
    arguments = ('import', tmp_path / 'published.model', '--sha256', sha256.upper(), '--level-of-theory', level)
    output = invoke(*arguments, '-L', 'tiny', '-D', 'from nowhere')
    assert 'Al-Cu; r_max 4 Å; float32' in output
    model = orm.load_node(int(output.split()[-1]))
    assert (model.label, model.description) == ('tiny', 'from nowhere')
    assert (model.elements, model.sha256, model.seeds) == (['Al', 'Cu'], [sha256], [])
    assert model.base.attributes.get('origin') == 'imported'
    assert model.base.attributes.get('atomic_energies') == {'Default': {'Al': 13.0, 'Cu': 29.0}}
    assert model.architecture == {
        'correlation': 2, 'distance_transform': 'None', 'max_L': 0, 'max_ell': 2, 'num_channels': 8,
        'num_cutoff_basis': 5, 'num_interactions': 2, 'num_radial_basis': 6, 'pair_repulsion': False, 'r_max': 4.0,
        'radial_MLP': [16, 16],
    }  # fmt: skip
    dataset = ConfigurationsData(alloy(2, 0), level_of_theory=PUBLISHED)
    assert model.level_of_theory_hash == dataset.level_of_theory_hash
    assert model.main_head is None
    lineage = trace(model)
    assert (lineage.gaps, {item.kind for item in lineage.supplied}) == ([], {'SinglefileData', 'Dict', 'InstalledCode'})

    assert f'imported before, as model {model.pk}' in invoke(*arguments)
    assert 'imported' in invoke('show', model.pk)
    assert str(model.pk) in invoke('list')
    invoke('export', model.pk, '-o', tmp_path / 'again.model')
    assert hashlib.sha256((tmp_path / 'again.model').read_bytes()).hexdigest() == sha256


def test_another_file_than_expected_is_never_read(python_code, tmp_path, level):
    path = tmp_path / 'broken.model'
    path.write_bytes(b'half a file')
    found = hashlib.sha256(b'half a file').hexdigest()
    output = invoke('import', path, '--sha256', '0' * 64, '--level-of-theory', level, ok=False)
    assert f'has the SHA-256 {found}, expected {"0" * 64}: download it again' in output
    assert 'Nothing was read' in output


def test_what_is_no_model(python_code, tmp_path, level):
    import torch

    path = tmp_path / 'weights.model'
    torch.save({'a': torch.zeros(1)}, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    output = invoke('import', path, '--sha256', sha256, '--level-of-theory', level, ok=False)
    assert 'holds a `dict`; expected a `ScaleShiftMACE` saved with `torch.save`' in output
    path.write_text('no pickle')
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    output = invoke('import', path, '--sha256', sha256, '--level-of-theory', level, ok=False)
    assert 'cannot be read' in output


def test_a_head_must_be_named(python_code, tmp_path, level):
    sha256 = random_model(tmp_path / 'two.model', heads=('pbe', 'r2scan'))
    arguments = ('import', tmp_path / 'two.model', '--sha256', sha256, '--level-of-theory', level)
    assert 'has the heads pbe, r2scan, and none was named' in invoke(*arguments, ok=False)
    assert 'and `scan` was named' in invoke(*arguments, '--head', 'scan', ok=False)
    model = orm.load_node(int(invoke(*arguments, '--head', 'r2scan').split()[-1]))
    assert model.main_head == 'r2scan'
    assert model.heads == {'pbe': 'unknown', 'r2scan': model.level_of_theory_hash}


def test_a_level_of_theory_without_a_functional(python_code, tmp_path):
    sha256 = random_model(tmp_path / 'published.model')
    (tmp_path / 'level.yaml').write_text('code: ase\n')
    arguments = ('import', tmp_path / 'published.model', '--sha256', sha256)
    output = invoke(*arguments, '--level-of-theory', tmp_path / 'level.yaml', ok=False)
    assert 'the level of theory lacks `functional`' in output


def test_the_code_must_be_one(python_code, tmp_path, level):
    sha256 = random_model(tmp_path / 'other.model', elements=(29,))
    arguments = ('import', tmp_path / 'other.model', '--sha256', sha256, '--level-of-theory', level)
    second = orm.InstalledCode(
        label='second',
        computer=python_code.computer,
        filepath_executable=str(python_code.filepath_executable),
        default_calc_job_plugin='mlipal.mace.train',
    ).store()
    second.is_hidden = False
    output = invoke(*arguments, ok=False)
    assert 'python@localhost, second@localhost; expected one. Say which, `--code LABEL@COMPUTER`' in output
    second.is_hidden = True
    assert 'imported as model' in invoke(*arguments)


# -- training from it ------------------------------------------------------------------------------------------------


def _builder(code, model, dataset=None, replay=None, **settings):
    builder = TrainWorkChain.get_builder()
    builder.mace.code = code
    builder.dataset = dataset or ConfigurationsData(alloy(10, 1, other=True), level_of_theory=NEW)
    builder.settings = orm.Dict({**TUNE, **settings})
    if model is not None:
        builder.foundation_model = model
    if replay is not None:
        builder.replay = replay
    return builder


def test_a_training_from_one_head_with_replay(python_code, tmp_path, level):
    """The model that comes out has the imported one among its ancestors, and its own heads by level of theory."""
    foundation = imported(tmp_path, level, 'heads.model', heads=('pbe', 'emt'))
    replay = ConfigurationsData(alloy(9, 2), level_of_theory=PUBLISHED)
    builder = _builder(python_code, foundation, replay=replay)
    outputs, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    model = outputs['model']
    assert model.heads == {'pt_head': replay.level_of_theory_hash, 'Default': builder.dataset.level_of_theory_hash}
    assert model.architecture == foundation.architecture
    lineage = trace(model)
    assert lineage.gaps == []
    query = orm.QueryBuilder().append(MlipModelData, filters={'id': foundation.pk}, tag='first')
    assert query.append(MlipModelData, filters={'id': model.pk}, with_ancestors='first').count() == 1
    # The energies of the atoms are those of the head that was named, the second one.
    others = outputs['results']['attempt_0']['other_heads']
    assert others['pt_head']['e0s'] == {'Al': 14.0, 'Cu': 30.0}
    # What came out can be trained further, from its main head.
    assert model.main_head == 'Default'


def test_bad_input_is_refused_with_the_mend(python_code, tmp_path, level):
    foundation = imported(tmp_path, level)
    copper = imported(tmp_path, level, 'copper.model', elements=(29,))
    replay = ConfigurationsData(alloy(9, 2), level_of_theory=PUBLISHED)
    lead = alloy(9, 2)
    lead = ConfigurationsData(lead.with_columns(numbers=lead.numbers * 0 + 82), level_of_theory=PUBLISHED)

    def refused(match: str, *arguments, **settings) -> None:
        with pytest.raises(ValueError, match=match):
            run(_builder(python_code, *arguments, **settings))

    refused('knows nothing of Al: take another model', copper)
    refused('`r_max` is 5.0, but the foundation model has 4.0: remove `r_max`', foundation, r_max=5.0)
    refused('`num_channels` is 16, but the foundation model has 8', foundation, num_channels=16)
    refused('`replay` means something only for a training that starts from a model', None, None, replay)
    refused('`lora` means something only', None, lora=True)
    refused('`freeze` means something only', None, freeze='embedding')
    refused('`lora` freezes all weights', foundation, lora=True, freeze='embedding')
    refused('`lora` and `enable_cueq` do not go together', foundation, lora=True, enable_cueq=True)
    refused('unknown freeze `everything`', foundation, freeze='everything')
    refused('with the loss `universal` alone, got `stress`', foundation, None, replay, loss='stress')
    refused('9 of 11 frames hold other elements|11 of 11 frames hold other elements', foundation, None, lead)
    same = ConfigurationsData(alloy(10, 1), level_of_theory=PUBLISHED)
    refused('needs no head of its own: join both sets with `merge_datasets`', foundation, same, replay)
    foreign = ConfigurationsData(alloy(9, 2), level_of_theory={'code': 'vasp', 'functional': 'PBE'})
    refused('does not have the level of theory of the foundation model', foundation, None, foreign)
    raw = {'mace_options': {'foundation_model': 'medium'}}
    refused('give the model to start from as the input `foundation_model`', foundation, **raw)
    raw = {'mace_options': {'num_samples_pt': 100}}
    refused('give the frames to replay, as they are to be replayed, as the input `replay`', foundation, **raw)


def test_a_committee_is_no_start(python_code):
    from tests.data.conftest import make_model

    committee = MlipModelData.committee([make_model(seed) for seed in (1, 2)])
    with pytest.raises(ValueError, match='is a committee of 2, and a training starts from one model: give one of its'):
        run(_builder(python_code, committee.store()))


def test_energies_of_the_atoms_are_never_those_of_the_model(python_code, tmp_path, level):
    dataset = alloy(10, 1, other=True)
    dataset = ConfigurationsData(dataset.take(dataset.has_role('train')), level_of_theory=NEW)
    with pytest.raises(ValueError, match='no labelled isolated atom'):
        run(_builder(python_code, imported(tmp_path, level), dataset))


def test_protocols_leave_the_architecture_to_the_model(python_code, tmp_path, level):
    foundation = imported(tmp_path, level)
    dataset = ConfigurationsData(alloy(10, 1, other=True), level_of_theory=NEW)
    builder = TrainWorkChain.get_builder_from_protocol(
        python_code, dataset, protocol='fast', foundation_model=foundation, overrides={'n_members': 1}
    )
    settings = builder.settings.get_dict()
    assert not {'r_max', 'num_channels', 'max_L'} & set(settings)
    assert settings['lr'] == 0.001
    assert builder.foundation_model.uuid == foundation.uuid
