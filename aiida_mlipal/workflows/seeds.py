"""Seed configurations: the first frames of a campaign, with the isolated atoms whose energies training needs."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import ToContext, WorkChain, if_
from aiida.plugins import CalculationFactory

from aiida_mlipal.calculations.functions.seeds import generate_seeds, structures_to_configurations
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.workflows.once import submit_once

__all__ = ('SeedsWorkChain',)

GenerateCalculation = CalculationFactory('mlipal.generate')


class SeedsWorkChain(WorkChain):
    """Generate seeds from structures, here or, with a ``generate`` code, in a job."""

    @classmethod
    def define(cls, spec: Any) -> None:
        """Define the process specification."""
        super().define(spec)
        spec.input_namespace('structures', dynamic=True, valid_type=orm.StructureData, help='Parent structures.')
        spec.input('settings', valid_type=orm.Dict, help='See GenerateSettings: recipe, initial moments.')
        spec.input('seed', valid_type=orm.Int, help='Seed of every random choice.')
        spec.expose_inputs(
            GenerateCalculation,
            namespace='generate',
            exclude=('parents', 'settings', 'seed'),
            namespace_options={'required': False, 'populate_defaults': False},
        )
        spec.outline(cls.collect, if_(cls.in_a_job)(cls.submit_job, cls.inspect_job).else_(cls.generate))
        spec.output('parents', valid_type=ConfigurationsData, help='The structures, as configurations.')
        spec.output('configurations', valid_type=ConfigurationsData, help='The seeds.')
        spec.exit_code(410, 'ERROR_GENERATION_FAILED', message='The seeds could not be generated: {reason}')

    def collect(self) -> None:
        """Turn the structures into configurations."""
        self.ctx.parents = structures_to_configurations(self.inputs.settings, **self.inputs.structures)
        self.out('parents', self.ctx.parents)

    def in_a_job(self) -> bool:
        """Return whether the generators run in a job."""
        return 'generate' in self.inputs and 'code' in self.inputs.generate

    def generate(self) -> None:
        """Generate the seeds here."""
        self.out('configurations', generate_seeds(self.ctx.parents, self.inputs.settings, self.inputs.seed))

    def submit_job(self) -> Any:
        """Generate the seeds in a job."""
        inputs = self.exposed_inputs(GenerateCalculation, 'generate')
        inputs.update(parents=self.ctx.parents, settings=self.inputs.settings, seed=self.inputs.seed)
        return ToContext(job=submit_once(self, 'generate', GenerateCalculation, inputs))

    def inspect_job(self) -> Any:
        """Return the job's seeds."""
        if not self.ctx.job.is_finished_ok:
            return self.exit_codes.ERROR_GENERATION_FAILED.format(reason=self.ctx.job.exit_message)
        self.out('configurations', self.ctx.job.outputs.configurations)
        return None
