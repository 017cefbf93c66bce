"""A label engine of one's own: argon with a Lennard-Jones potential, by CP2K's module for force fields."""

# ruff: noqa: D101, D102, D103 - the how-to "Write a label engine" says what each part is for

from __future__ import annotations

import re

import numpy as np
from aiida import orm
from aiida.engine import calcfunction
from aiida.plugins import WorkflowFactory
from ase import units

from aiida_mlipal.calculations.frames import frame_structure
from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.workflows.engines.base import Task
from aiida_mlipal.workflows.engines.outputs import Label, job_failure_reason, label_frames, retrieved_text
from aiida_mlipal.workflows.engines.restart import RestartEngine


class ArgonEngine(RestartEngine):
    plugin = 'cp2k'
    required = ('potential',)

    def build(self, code, structures, settings, options):
        return {**self.shared_inputs(code, settings, options), 'potential': orm.Dict(settings['parameters'])}

    def check_inputs(self, inputs):
        missing = {'epsilon', 'sigma', 'cutoff'} - set(inputs['potential'].get_dict())
        return f'the potential lacks {sorted(missing)}: set them in the label parameters.' if missing else None

    def check_frames(self, frames, inputs):
        others = [element for element in frames.elements if element != 'Ar']
        return [f'the argon engine knows no {", ".join(others)}: leave out these frames.'] if others else []

    def gives_stress(self, inputs):
        return False

    def level_of_theory(self, inputs):
        return {'code': 'cp2k', 'functional': 'Lennard-Jones', **inputs['potential'].get_dict()}

    def describe(self, inputs):
        return describe_argon(inputs['potential'])

    def tasks(self, frames, inputs):
        prepared = prepare_argon(frames, inputs['potential'])
        return {
            key: Task({'structure': structure, 'parameters': prepared['parameters']}, Size(len(structure.sites)))
            for key, structure in prepared['structures'].items()
        }

    def process(self, task_inputs, inputs, options):
        cp2k = {**task_inputs, 'code': inputs['code'], 'metadata': {'options': dict(options)}}
        shared = {name: inputs[name] for name in ('clean_workdir', 'max_iterations')}
        return WorkflowFactory('cp2k.base'), {'cp2k': cp2k, **shared}

    def collect(self, frames, level_of_theory, results):
        return collect_argon(frames, level_of_theory, **results)


@calcfunction
def describe_argon(potential):
    return orm.Dict({'code': 'cp2k', 'functional': 'Lennard-Jones', **potential.get_dict()})


@calcfunction
def prepare_argon(frames, potential):
    pair = {
        'ATOMS': 'Ar Ar',
        'EPSILON': f'[eV] {potential["epsilon"]}',
        'SIGMA': f'[angstrom] {potential["sigma"]}',
        'RCUT': f'[angstrom] {potential["cutoff"]}',
    }
    force_field = {
        'NONBONDED': {'LENNARD-JONES': pair},
        'SPLINE': {'EPS_SPLINE': 1e-9},
        'CHARGE': {'ATOM': 'Ar', 'CHARGE': 0},
    }
    parameters = {
        'GLOBAL': {'RUN_TYPE': 'ENERGY_FORCE'},
        'FORCE_EVAL': {
            'METHOD': 'FIST',
            'MM': {'FORCEFIELD': force_field, 'POISSON': {'EWALD': {'EWALD_TYPE': 'NONE'}}},
            'PRINT': {'FORCES': {'_': 'ON', 'NDIGITS': 12}},
        },
    }
    configurations = frames.configurations
    structures = {frame_key(index): frame_structure(configurations, index) for index in range(len(configurations))}
    return {'structures': structures, 'parameters': orm.Dict(parameters)}


@calcfunction
def collect_argon(frames, level_of_theory, **results):
    def read(index, output):
        text = retrieved_text(output, 'aiida.out')
        energy = re.search(r'ENERGY\| Total FORCE_EVAL.*?(-?\d+\.\d+)\s*$', text, re.MULTILINE)
        rows = re.findall(r'^\s+\d+\s+\d+\s+Ar\s+(\S+)\s+(\S+)\s+(\S+)$', text, re.MULTILINE)
        if output.creator.exit_status != 0 or not energy or not rows:
            return job_failure_reason(output)
        return Label(float(energy[1]) * units.Hartree, np.array(rows, float) * units.Hartree / units.Bohr)

    return label_frames(frames, level_of_theory, results, read)
