"""The campaign file: every bad input gets a message that says where, what and what to type next."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ase.build import bulk

from aiida_mlipal.workflows import checks
from aiida_mlipal.workflows.campaign_file import CampaignFileError, _overrides, build, json_schema, load_campaign

GOOD = """\
protocol: fast
seed: 2026
structures: [silicon.cif]
seeds:
  - {generator: rattle, n_frames: 6, stdev: 0.05}
label:
  code: pw@localhost
  pseudo_family: debian-pz
  options: {modules: [qe/7.5], queue_name: debug}
train: {code: python@localhost, n_members: 4, settings: {batch_size: 3}}
budget: {max_labels: 60}
"""


@pytest.fixture
def write(tmp_path: Path):
    """Return a function that writes a campaign file after some replacements."""

    def write(*replacements: tuple[str, str]) -> Path:
        bulk('Si', cubic=True).write(tmp_path / 'silicon.cif')
        text = GOOD
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / 'campaign.yaml').write_text(text)
        return tmp_path / 'campaign.yaml'

    return write


def test_good(write) -> None:
    path = write()
    campaign = load_campaign(path)
    assert campaign.structures == [str(path.parent / 'silicon.cif')]  # relative to the file, wherever one is
    assert campaign.label.options.as_metadata() == {'prepend_text': 'module load qe/7.5', 'queue_name': 'debug'}
    overrides = _overrides(campaign)
    assert overrides['training'] == {'batch_size': 3, 'n_members': 4}
    assert overrides['seeds']['recipe'][-1] == {'generator': 'isolated_atoms'}
    assert overrides['label']['pseudo_family'] == 'debian-pz'


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('protocol:', 'protocl:', r'line 1, `protocl`: unknown key `protocl`. Did you mean `protocol`\?'),
        ('queue_name', 'queue', r'line 9, `label.options.queue`: unknown key `queue`. Did you mean `queue_name`\?'),
        ('batch_size', 'batch_sise', r'line 10, `train.settings.batch_sise`: .* Did you mean `batch_size`\?'),
        ('generator: rattle', 'generator: ratle', r'line 4, `seeds`: item 1: .*Did you mean `rattle`\?'),
        ('silicon.cif', 'silicn.cif', r'there is no file .*silicn.cif`. Did you mean `silicon.cif`\?'),
        ('silicon.cif', 'campaign.yaml', r'line 3, `structures`: ASE cannot read a structure'),
        ('n_frames: 6', 'n_frames: 0', r"line 4, `seeds`: `item 1: n_frames` must be an integer of at least 1, got 0"),
        ('\n  - {generator: rattle, n_frames: 6, stdev: 0.05}', ' []', r'zero seeds and no `dataset`'),
        ('batch_size: 3', 'batch_size: 7', r'`batch_size` of the training is 7, but the set has only 6 seeds'),
        ('n_members: 4', 'other_datasets: {pt_head: 7}', r'`train.other_datasets.pt_head`: `pt_head` cannot'),
        ('n_members: 4', 'n_members: 0', r'line 10, `train.n_members`: input should be greater than 0, got 0'),
        ('n_members: 4', 'n_members: 1', r'only a committee is\s+uncertain: set `n_members`'),
        ('max_labels: 60', 'max_labels: -3', r'line 11, `budget.max_labels`: .*got -3'),
        ('max_labels: 60', 'max_wall_time_s: -1', r'`budget.max_wall_time_s`: .*greater than 0, got -1'),
        ('seed: 2026', 'seed: 2026\nseed: 3', r'line 3, `seed`: given twice'),
        ('  code: pw@localhost\n', '', r'line 6, `label.code`: is missing: Code as label@computer'),
        ('pseudo_family: debian-pz', 'engine: vasp', r'unknown label engine `vasp`'),
        ('pseudo_family: debian-pz', 'engine: ase', r'the engine `ase` needs a calculator; add .*`calculator: emt`'),
        ('seeds:', 'selection: {n_labels: 900}\nexplore: {settings: {max_candidates: 50}}\nseeds:', r'900, more than'),
        ('protocol: fast', 'protocol: [fast', r'is not YAML'),
    ],
)  # fmt: skip
def test_bad(write, old: str, new: str, message: str) -> None:
    with pytest.raises(CampaignFileError) as caught:
        load_campaign(write((old, new)))
    assert len(caught.value.problems) == 1, caught.value
    assert re.search(message, str(caught.value)), caught.value


CHEAP = 'prescreen: {code: python@localhost, calculator: tblite, parameters: {method: GFN2-xTB}, threshold: 0.3}\n'


def test_prescreen(write) -> None:
    """It is a labelling section with a threshold, of the engine `ase` where nothing else is said; by default none."""
    assert load_campaign(write()).prescreen is None
    overrides = _overrides(load_campaign(write(('budget:', f'{CHEAP}budget:'))))
    assert overrides['prescreen'] == {
        'engine': 'ase',
        'threshold': 0.3,
        'parameters': {'calculator': 'tblite', 'parameters': {'method': 'GFN2-xTB'}},
    }


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (', threshold: 0.3', '', r'line 11, `prescreen.threshold`: is missing: Largest difference of the force'),
        ('threshold: 0.3', 'threshold: -1', r'line 11, `prescreen.threshold`: .*greater than 0, got -1'),
        ('threshold: 0.3', 'treshold: 0.3, threshold: 1', r'`prescreen.treshold`: .* Did you mean `threshold`'),
        ('calculator: tblite, ', '', r'`prescreen`: the engine `ase` needs a calculator'),
        ('threshold: 0.3', 'threshold: 0.3, options: {queue: x}', r'unknown key `queue`. Did you mean `queue_name`'),
    ],
)
def test_bad_prescreen(write, old: str, new: str, message: str) -> None:
    with pytest.raises(CampaignFileError) as caught:
        load_campaign(write(('budget:', f'{CHEAP.replace(old, new)}budget:')))
    assert len(caught.value.problems) == 1, caught.value
    assert re.search(message, str(caught.value)), caught.value


def test_committee_method_of_one_member(write) -> None:
    path = write(
        ('n_members: 4', 'n_members: 1'),
        ('seeds:', 'selection: {method: top_uncertainty}\nconvergence: {uncertain_share: 1}\nseeds:'),
    )
    with pytest.raises(CampaignFileError, match='`top_uncertainty` ranks by the spread of a'):
        load_campaign(path)


def test_all_problems_at_once(write) -> None:
    path = write(('protocol:', 'protocl:'), ('queue_name', 'queue'), ('max_labels: 60', 'max_labels: -1'))
    with pytest.raises(CampaignFileError) as caught:
        load_campaign(path)
    lines = [int(re.search(r'line (\d+)', problem)[1]) for problem in caught.value.problems]
    assert lines == [1, 9, 11]
    assert 'nothing was submitted' in str(caught.value)


def test_derived_settings_are_refused(write) -> None:
    with pytest.raises(CampaignFileError, match='`seeds` follows from the seed'):
        load_campaign(write(('batch_size: 3', 'seeds: [1, 2]')))


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(CampaignFileError, match='No such file'):
        load_campaign(tmp_path / 'campaign.yaml')


def test_schema_spells_out_all_stages() -> None:
    schema = json_schema()
    assert 'seeds' not in schema['$defs']['Train']['properties']['settings']['properties']
    assert 'max_num_epochs' in schema['$defs']['Train']['properties']['settings']['properties']
    assert 'random_share' in schema['properties']['selection']['properties']
    undocumented = [name for name, field in schema['properties'].items() if 'description' not in field]
    assert undocumented == []


def test_build_reports_all_that_the_database_lacks(write, aiida_profile) -> None:
    with pytest.raises(ValueError, match=r'there is no code') as caught:
        build(load_campaign(write(('pw@localhost', 'px@nowhere'), ('debian-pz', 'no-such-family'))))
    message = str(caught.value)
    assert 'there is no code `px@nowhere`' in message
    assert 'verdi code create core.code.installed --label px --computer nowhere' in message
    assert 'there is no pseudopotential family `no-such-family`' in message
    assert 'aiida-pseudo install' in message


def test_other_datasets_reach_the_training(write, tmp_path, pseudo_family, pw_code, python_code) -> None:
    from aiida.orm import Dict

    from aiida_mlipal.data.configurations import ConfigurationsData
    from aiida_mlipal.science.configurations import Configurations

    node = ConfigurationsData(Configurations.from_atoms([bulk('Si')]), level_of_theory={'code': 'other'}).store()
    extra = ('  options: {mod', '  parameters: {SYSTEM: {ecutwfc: 12}}\n  options: {mod')
    builder = build(load_campaign(write(extra, ('n_members: 4', f'other_datasets: {{coarse: {node.pk}}}'))))
    assert builder.train.other_datasets['coarse'].pk == node.pk
    stray = Dict({}).store()
    with pytest.raises(ValueError, match=r'`train\.other_datasets\.coarse`: node \d+ is a Dict'):
        build(load_campaign(write(extra, ('n_members: 4', f'other_datasets: {{coarse: {stray.pk}}}'))))


def test_family_lacks_an_element(pseudo_dir: Path) -> None:
    from aiida.orm import StructureData
    from aiida_pseudo.data.pseudo import UpfData
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    label = 'silicon-alone'
    if not PseudoPotentialFamily.collection.count(filters={'label': label}):
        family = PseudoPotentialFamily(label=label).store()
        family.add_nodes([UpfData.get_or_create(pseudo_dir / 'Si.pz-vbc.UPF').store()])
    assert checks.find_pseudo_family(label, [StructureData(ase=bulk('Si'))]).label == label
    with pytest.raises(ValueError, match=r'`silicon-alone` lacks As, Ga \(it has Si\)'):
        checks.find_pseudo_family(label, [StructureData(ase=bulk('GaAs', 'zincblende', a=5.6))])


def test_example_of_quickstart_is_valid(tmp_path: Path) -> None:
    from aiida_mlipal.cli.quickstart import EXAMPLE

    bulk('Si', cubic=True).write(tmp_path / 'silicon.cif')
    text = EXAMPLE.format(computer='localhost', family='debian-pz')
    (tmp_path / 'campaign.yaml').write_text(text)
    assert load_campaign(tmp_path / 'campaign.yaml').seed == yaml.safe_load(text)['seed']
