"""Seed configurations from the user's structures."""

from __future__ import annotations

from aiida import orm
from aiida.engine import calcfunction

from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.seeds import generate, set_initial_moments

__all__ = ('generate_seeds', 'structures_to_configurations')


@calcfunction
def structures_to_configurations(
    settings: orm.Dict | None = None, **structures: orm.StructureData
) -> ConfigurationsData:
    """Return the user's structures as configurations, in the order of their names.

    :param settings: those of the seeds; structures know no magnetic moments, ``initial_moments`` brings them.
    """
    frames = [structures[name].get_ase() for name in sorted(structures)]
    for atoms in frames:
        atoms.info = {}
    if settings is not None and settings.get_dict().get('initial_moments'):
        set_initial_moments(frames, settings['initial_moments'])
    return ConfigurationsData(
        Configurations.from_atoms(frames, origin=[f'structure {name}' for name in sorted(structures)])
    )


@calcfunction
def generate_seeds(parents: ConfigurationsData, settings: orm.Dict, seed: orm.Int) -> ConfigurationsData:
    """Return the seeds that ``settings['recipe']`` describes, see :func:`aiida_mlipal.science.seeds.generate`."""
    return ConfigurationsData(generate(parents.configurations, settings['recipe'], seed.value))
