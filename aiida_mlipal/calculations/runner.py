"""The base of all CalcJobs of this package: a Python interpreter on the compute node runs the archive we hand it."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec
from aiida.orm import AbstractCode, Dict

from aiida_mlipal.calculations.bundle import build
from aiida_mlipal.calculations.gpu import DIRECT, declare_gpu_options, gpu_problem, request_gpus
from aiida_mlipal.runners.gpu_lock import GPUS
from aiida_mlipal.runners.main import RESULT, SETTINGS
from aiida_mlipal.science.settings import from_dict

__all__ = ('RunnerCalculation',)


class RunnerCalculation(CalcJob):
    """Run a module of :mod:`aiida_mlipal.runners` with the Python interpreter that ``code`` names.

    A subclass names its runner and entry point, declares its inputs and outputs, and writes its input files. The
    compute node needs the packages that the runner imports, but neither AiiDA nor this package.
    """

    #: Module of :mod:`aiida_mlipal.runners`.
    _RUNNER: ClassVar[str]
    #: Entry point of the CalcJob and of its parser.
    _ENTRY_POINT: ClassVar[str]
    #: Dataclass of the settings, see :func:`aiida_mlipal.science.settings.from_dict`.
    _SETTINGS: ClassVar[type[Any]]
    #: Small files to keep in the ``retrieved`` folder beside ``result.json`` and ``runner.log``.
    _RETRIEVE: ClassVar[Sequence[str | tuple[str, str, int]]] = ()
    #: Files that become output nodes: the parser sees them, they are not stored a second time.
    _RETRIEVE_TEMPORARY: ClassVar[Sequence[str | tuple[str, str, int]]] = ()

    _BUNDLE: ClassVar[str] = 'runner.zip'
    _LOG: ClassVar[str] = 'runner.log'

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs, options and exit codes."""
        super().define(spec)
        spec.input(
            'code',
            valid_type=AbstractCode,
            help='Python interpreter of the compute environment (see `aiida-mlipal quickstart`).',
        )
        spec.input('settings', valid_type=Dict, validator=cls._validate_settings, help='Settings, see the manual.')
        options = spec.inputs['metadata']['options']
        options['resources'].default = {'num_machines': 1, 'num_mpiprocs_per_machine': 1}
        options['withmpi'].default = False
        options['parser_name'].default = getattr(cls, '_ENTRY_POINT', None)
        options['input_filename'].default = SETTINGS
        options['output_filename'].default = cls._LOG
        declare_gpu_options(spec)
        validate_job = spec.inputs.validator  # AiiDA's: code, computer, resources

        def validate(inputs: Any, port: Any) -> str | None:
            return validate_job(inputs, port) or cls._validate_gpus(inputs) or cls._validate_inputs(inputs)

        spec.inputs.validator = validate

        def exit_code(status: int, label: str, message: str) -> None:
            # What failed on one machine may well succeed on another, so it is never taken from the cache.
            spec.exit_code(status, label, message=message, invalidates_cache=True)

        exit_code(
            300,
            'ERROR_NO_RESULT',
            'the runner left no `result.json`: it never started or was killed. Look at `verdi calcjob outputcat {pk}` '
            'and at `_scheduler-stderr.txt`.',
        )
        exit_code(301, 'ERROR_INVALID_OUTPUT', 'the runner ended well but left output that cannot be read: {error}')
        exit_code(310, 'ERROR_RUNNER_FAILED', '{error} (the traceback is in `verdi calcjob outputcat {pk}`)')
        exit_code(
            311,
            'ERROR_OUT_OF_MEMORY',
            '{error} Ask for more memory, or lower `batch_size`, `batch_atoms` or `max_parallel`.',
        )
        exit_code(312, 'ERROR_NON_FINITE', '{error}')
        exit_code(
            313,
            'ERROR_MISSING_PACKAGE',
            "{error}. Install it in the Python environment of the code: `pip install 'mace-torch>=0.3.14,<0.4'`.",
        )
        exit_code(314, 'ERROR_SETTINGS_REFUSED', 'nothing was computed, mend `settings` and submit again: {error}')

    @classmethod
    def _validate_settings(cls, node: Dict, _: Any) -> str | None:
        """Refuse unknown keys and bad values before anything is submitted."""
        try:
            cls.check_settings(node.get_dict())
        except (TypeError, ValueError) as exception:
            return str(exception)
        return None

    @classmethod
    def _validate_inputs(cls, inputs: Any) -> str | None:
        """Return what does not fit together in the inputs, and what to do; some may be missing in an outer process."""
        return None

    @classmethod
    def _validate_gpus(cls, inputs: Any) -> str | None:
        """Refuse a request for GPUs that the scheduler would not understand or the job would not use."""
        options = inputs.get('metadata', {}).get('options', {})
        if 'code' in inputs and inputs['code'].computer is not None:
            problem = gpu_problem(options, inputs['code'].computer.scheduler_type)
            if problem is not None:
                return problem
        if options.get('gpus') is None or 'settings' not in inputs:
            return None
        return cls.unused_gpus(options['gpus'], inputs['settings'].get_dict())

    @classmethod
    def unused_gpus(cls, gpus: int, settings: dict[str, Any]) -> str | None:
        """Return why so many GPUs would stay idle with ``settings``, and what to do, or ``None``."""
        device = getattr(from_dict(cls._SETTINGS, settings), 'device', None)
        if device is None:
            return 'this job cannot use a GPU: remove `gpus` from its options.'
        if device != 'cuda':
            return f'`gpus` is {gpus}, but `device` is `{device}`: set `device: cuda`, or remove `gpus`.'
        if gpus > 1:
            return f'`gpus` is {gpus}, but this job runs on one: set `gpus: 1`.'
        return None

    @classmethod
    def check_settings(cls, settings: dict[str, Any]) -> None:
        """Raise ``ValueError`` if ``settings`` are not those of this calculation."""
        from_dict(cls._SETTINGS, settings)

    @abstractmethod
    def write_inputs(self, folder: Path) -> None:
        """Write the files that the runner reads into ``folder``.

        They are copies of what the input nodes hold and stay out of the provenance's repository.
        """

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write the archive, the settings and the inputs."""
        settings = self.inputs.settings.get_dict()
        with folder.open(self._BUNDLE, 'wb') as handle:
            handle.write(build(self._RUNNER))
        with folder.open(SETTINGS, 'w', encoding='utf-8') as handle:
            json.dump(settings, handle, indent=1, sort_keys=True)
        path = Path(folder.abspath)
        own = set(path.iterdir())
        self.write_inputs(path)

        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = [self._BUNDLE]
        code.stdout_name = self.inputs.metadata.options.output_filename
        code.join_files = True
        info = CalcInfo()
        info.codes_info = [code]
        info.provenance_exclude_list = sorted(entry.name for entry in path.iterdir() if entry not in own)
        info.retrieve_list = [RESULT, code.stdout_name, *self._RETRIEVE]
        info.retrieve_temporary_list = list(self._RETRIEVE_TEMPORARY)
        info.prepend_text = self._environment(from_dict(self._SETTINGS, settings))
        gpus = self.inputs.metadata.options.get('gpus')
        if gpus is not None and self.inputs.code.computer.scheduler_type == DIRECT:
            info.prepend_text += f'\nexport {GPUS}={gpus}'  # nobody else keeps two jobs from one GPU
        return info

    def presubmit(self, folder: Folder) -> CalcInfo:
        """Let AiiDA write the job script, and add the request for GPUs."""
        info = super().presubmit(folder)
        options, path = self.inputs.metadata.options, Path(folder.abspath, self.options.submit_script_filename)
        script = path.read_text(encoding='utf-8')
        path.write_text(request_gpus(script, options, self.inputs.code.computer.scheduler_type), encoding='utf-8')
        return info

    @staticmethod
    def _environment(settings: Any) -> str:
        """Fix the number of threads before Python starts: libraries read it once, and sums depend on it."""
        threads = int(getattr(settings, 'threads', 1))
        names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')
        return '\n'.join(f'export {name}={threads}' for name in names)
