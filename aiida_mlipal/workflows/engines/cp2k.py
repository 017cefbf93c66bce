"""Labels from CP2K, through :class:`Cp2kBaseWorkChain` of aiida-cp2k."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import prod
from typing import Any, ClassVar

from aiida import orm
from aiida.plugins import WorkflowFactory

from aiida_mlipal.calculations.frames import mesh_key, variant_key
from aiida_mlipal.calculations.functions.labels import frame_key
from aiida_mlipal.data.configurations import ConfigurationsData
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cost_model import Size
from aiida_mlipal.workflows.engines.base import Inputs, Retry, Task, check_spins, missing_inputs
from aiida_mlipal.workflows.engines.cp2k_checks import check_cp2k_frames, check_cp2k_parameters
from aiida_mlipal.workflows.engines.cp2k_data import data_folder, select_entries
from aiida_mlipal.workflows.engines.cp2k_inputs import (
    complete_parameters,
    cp2k_mesh,
    cp2k_parameters,
    n_electrons,
    prepare_cp2k_inputs,
)
from aiida_mlipal.workflows.engines.cp2k_ladder import next_attempt
from aiida_mlipal.workflows.engines.cp2k_level_of_theory import (
    cp2k_level_of_theory,
    describe_cp2k_level_of_theory,
    is_xtb,
    kinds_of,
    valences_of,
)
from aiida_mlipal.workflows.engines.cp2k_outputs import collect_cp2k_labels
from aiida_mlipal.workflows.engines.restart import RestartEngine

__all__ = ('Cp2kEngine',)

#: Input of the engine -> keyword of DFT that names its file, and of KIND that names the entry.
_FILES = {
    'basis_sets': ('BASIS_SET_FILE_NAME', 'BASIS_SET'),
    'potentials': ('POTENTIAL_FILE_NAME', 'POTENTIAL'),
}


def _content(inputs: Inputs, name: str) -> str | None:
    return str(inputs[name].get_content()) if name in inputs else None


def _distance(inputs: Inputs) -> float | None:
    return float(inputs['kpoints_distance'].value) if 'kpoints_distance' in inputs else None


class Cp2kEngine(RestartEngine):
    """CP2K through ``cp2k.base``, one WorkChain per frame.

    Inputs beside those of :class:`RestartEngine`: ``parameters`` (Dict, the input sections as aiida-cp2k takes them,
    completed by :meth:`build`), ``basis_sets`` and ``potentials`` (SinglefileData with the entries that are used; none
    for xTB), ``kpoints_distance`` (Float, 1/Å; only Γ without it), ``handler_overrides`` (Dict, handlers of the
    WorkChain).
    """

    plugin: ClassVar[str] = 'cp2k'
    required: ClassVar = ('parameters', 'handler_overrides')

    def build(
        self,
        code: orm.AbstractCode,
        structures: Sequence[orm.StructureData],
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return the inputs; basis sets and potentials are cut out of CP2K's files on this machine."""
        elements = sorted({kind.symbol for structure in structures for kind in structure.kinds})
        distance = settings.get('kpoints_distance')
        parameters = complete_parameters(settings['parameters'], k_points=distance is not None, elements=elements)
        dft = parameters['FORCE_EVAL']['DFT']
        if settings.get('spin_polarised'):
            dft['UKS'] = True
        inputs = {
            **self.shared_inputs(code, settings, options),
            # The only handler of the WorkChain, which goes on from the last wavefunctions, is off by default.
            'handler_overrides': orm.Dict({'restart_incomplete_calculation': {'enabled': True}}),
        }
        if not is_xtb(parameters):
            folder, kinds = data_folder(settings.get('data_dir')), kinds_of(parameters)
            for name, (keyword, entry) in _FILES.items():
                if keyword not in dft:
                    raise ValueError(f'no {keyword}: set it in FORCE_EVAL.DFT of the label parameters.')
                text = select_entries(folder, dft[keyword], kinds, entry)
                dft[keyword] = name.upper()
                inputs[name] = orm.SinglefileData(io.BytesIO(text.encode()), filename=name.upper())
        if distance is not None:
            inputs['kpoints_distance'] = orm.Float(distance)
        return {**inputs, 'parameters': orm.Dict(parameters)}

    def check_inputs(self, inputs: Inputs) -> str | None:
        """Return what is wrong with ``inputs``, and what to do, or ``None``."""
        if find_spec('aiida_cp2k') is None:
            return "aiida-cp2k is missing: run `pip install 'aiida-mlipal[cp2k]'`, then `verdi daemon restart`."
        parameters = inputs['parameters'].get_dict()
        if 'DFT' not in parameters.get('FORCE_EVAL', {}):
            return 'no method: `parameters` need FORCE_EVAL.DFT; `Cp2kEngine.build` makes them from a protocol.'
        missing = None if is_xtb(parameters) else missing_inputs(self, inputs, list(_FILES))
        if missing is not None:
            return missing
        distance = _distance(inputs)
        if distance is not None and distance <= 0:
            return f'`kpoints_distance` is {distance}, expected a positive number of 1/Å.'
        return check_cp2k_parameters(parameters, k_points=distance is not None)

    def check_frames(self, frames: Configurations, inputs: Inputs) -> list[str]:
        """Return why some of ``frames`` cannot be labelled."""
        return check_spins(frames) + check_cp2k_frames(
            frames,
            inputs['parameters'].get_dict(),
            k_points='kpoints_distance' in inputs,
            potentials=_content(inputs, 'potentials'),
        )

    def gives_stress(self, inputs: Inputs) -> bool:
        """Return whether the stress tensor is switched on."""
        stress = inputs['parameters'].get_dict()['FORCE_EVAL'].get('STRESS_TENSOR', 'ANALYTICAL')
        return str(stress).upper() != 'NONE'

    def level_of_theory(self, inputs: Inputs) -> dict[str, Any]:
        """Return the readable level of theory: functional, basis sets, potentials, grid, k-point rule, smearing."""
        return cp2k_level_of_theory(
            inputs['parameters'].get_dict(),
            _distance(inputs),
            _content(inputs, 'basis_sets'),
            _content(inputs, 'potentials'),
        )

    def describe(self, inputs: Inputs) -> orm.Dict:
        """Return :meth:`level_of_theory` as a node."""
        optional = {name: inputs[name] for name in ('kpoints_distance', *_FILES) if name in inputs}
        node: orm.Dict = describe_cp2k_level_of_theory(inputs['parameters'], **optional)
        return node

    def tasks(self, frames: ConfigurationsData, inputs: Inputs) -> dict[str, Task]:
        """Return one task per frame: its structure, parameters and k-point mesh."""
        optional = {name: inputs[name] for name in ('kpoints_distance', 'potentials') if name in inputs}
        prepared = prepare_cp2k_inputs(frames, inputs['parameters'], **optional)
        configurations, shared = frames.configurations, inputs['parameters'].get_dict()
        valences = valences_of(configurations.elements, _content(inputs, 'potentials'))
        tasks = {}
        for index in range(len(configurations)):
            variant = variant_key(cp2k_parameters(shared, configurations, index, valences))
            nodes = {
                'structure': prepared['structures'][frame_key(index)],
                'parameters': prepared['parameters'][variant],
            }
            mesh, offset = cp2k_mesh(configurations, index, _distance(inputs))
            if prod(mesh) > 1:
                nodes['kpoints'] = prepared['kpoints'][mesh_key(mesh, offset)]
            electrons = n_electrons(configurations, index, valences)
            tasks[frame_key(index)] = Task(nodes, Size(float(max(electrons, 1)), prod(mesh)))
        return tasks

    def process(self, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return ``Cp2kBaseWorkChain`` and its inputs for one frame."""
        cp2k = {
            **task_inputs,
            'code': inputs['code'],
            'metadata': {'options': {'parser_name': 'mlipal.cp2k', **options}},
        }
        files = {name: inputs[name] for name in _FILES if name in inputs}
        if files:
            cp2k['file'] = files
        shared = {name: inputs[name] for name in ('clean_workdir', 'max_iterations', 'handler_overrides')}
        return WorkflowFactory('cp2k.base'), {'cp2k': cp2k, **shared}

    def retry(
        self, process: orm.ProcessNode, attempt: int, task_inputs: Inputs, inputs: Inputs, options: Mapping[str, Any]
    ) -> Retry | None:
        """Return what to change after a failure; the handler of ``Cp2kBaseWorkChain`` has had its turn."""
        return next_attempt(process, attempt, task_inputs, options)

    def collect(
        self, frames: ConfigurationsData, level_of_theory: orm.Dict, results: dict[str, orm.Data]
    ) -> ConfigurationsData:
        """Return the label chunk."""
        chunk: ConfigurationsData = collect_cp2k_labels(frames, level_of_theory, **results)
        return chunk

    def sizes(self, job: orm.CalcJobNode, tasks: Sequence[str]) -> dict[str, Size]:
        """Return electrons and k-points."""
        inputs = job.inputs
        potentials = inputs.file.potentials.get_content() if 'file' in inputs else None
        structure = inputs.structure
        symbols = [structure.get_kind(site.kind_name).symbol for site in structure.sites]
        valences = valences_of(sorted(set(symbols)), potentials)
        charge = inputs.parameters.get_dict()['FORCE_EVAL']['DFT'].get('CHARGE', 0)
        electrons = sum(valences[symbol] for symbol in symbols) - charge
        mesh = inputs.kpoints.get_kpoints_mesh()[0] if 'kpoints' in inputs else (1,)
        return dict.fromkeys(tasks, Size(max(electrons, 1.0), prod(mesh)))
