"""A campaign for silicon in ten lines. First set up with `aiida-mlipal quickstart`."""

from aiida import load_profile, orm
from aiida.engine import submit
from ase.build import bulk

from aiida_mlipal.workflows.active_learning import ActiveLearningWorkChain

load_profile()
builder = ActiveLearningWorkChain.get_builder_from_protocol(
    orm.StructureData(ase=bulk('Si', cubic=True)),
    codes={'label': 'pw@localhost', 'train': 'python@localhost'},
    protocol='fast',
    seed=2026,
    overrides={'label': {'pseudo_family': 'debian-pz', 'parameters': {'SYSTEM': {'ecutwfc': 24.0}}}},
)
campaign = submit(builder)
print(f'campaign PK {campaign.pk}: follow it with `aiida-mlipal status {campaign.pk} --watch`')
