"""CalcJob that runs several pw.x calculations one after the other."""

from __future__ import annotations

from typing import Any

from aiida.common.datastructures import CalcInfo, CodeInfo, CodeRunMode
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec
from aiida.orm import ArrayData, Dict
from aiida_pseudo.data.pseudo import UpfData
from aiida_quantumespresso.calculations.pw import PwCalculation

__all__ = ('PwBatchCalculation', 'stdout_name')


def stdout_name(frame: str) -> str:
    """Return the name of the file with what pw.x printed for one of the frames."""
    return f'{frame}.out'


class PwBatchCalculation(CalcJob):
    """Single points of pw.x that share one job: one queue slot, one upload, one process of AiiDA for all of them.

    Input files are those of :class:`PwCalculation`, but that each calculation writes to a folder of its own. Only
    frames whose calculation ended well are in the output; the others are left to a calculation of their own, where the
    handlers of ``PwBaseWorkChain`` see what is wrong.
    """

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs and outputs."""
        super().define(spec)
        spec.input_namespace(
            'frames', dynamic=True, help='By name, `structure`, `kpoints` and `parameters` as PwCalculation takes them.'
        )
        spec.input_namespace('pseudos', valid_type=UpfData, dynamic=True, help='Pseudopotentials by element.')
        spec.inputs['metadata']['options']['parser_name'].default = 'mlipal.pw.batch'
        spec.inputs['metadata']['options']['withmpi'].default = True
        spec.inputs['metadata']['options']['resources'].default = {'num_machines': 1}
        spec.output(
            'labels',
            valid_type=ArrayData,
            required=False,
            help='Of the frames that its attribute `frames` names, see `unpack_labels`.',
        )
        spec.output(
            'results',
            valid_type=Dict,
            help='`frames`: `output_parameters` of PwCalculation for each; `wall_s`: their time together.',
        )
        spec.exit_code(
            310,
            'ERROR_FRAMES_LEFT',
            message='{n_left} of {n_frames} calculations did not end well: {reasons}',
        )

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write one input file per frame."""
        info = CalcInfo()
        info.codes_info = []
        info.codes_run_mode = CodeRunMode.SERIAL
        info.retrieve_list = ['CRASH']
        pseudos: dict[str, Any] = {}
        for name, frame in self.inputs.frames.items():
            writer: Any = type('FrameWriter', (PwCalculation,), {'_OUTPUT_SUBFOLDER': f'./{name}/'})
            by_kind = {kind.name: self.inputs.pseudos[kind.symbol] for kind in frame['structure'].kinds}
            content, files = writer._generate_pwcp_inputdata(
                frame['parameters'], {}, by_kind, frame['structure'], frame['kpoints']
            )
            folder.get_subfolder(name, create=True)
            with folder.open(f'{name}.in', 'w') as handle:
                handle.write(content)
            pseudos |= {target: (uuid, source, target) for uuid, source, target in files}
            code = CodeInfo()
            code.code_uuid = self.inputs.code.uuid
            code.cmdline_params = ['-in', f'{name}.in']
            code.stdout_name = stdout_name(name)
            info.codes_info.append(code)
            info.retrieve_list.append(code.stdout_name)
            info.retrieve_list.append((f'{name}/{PwCalculation._PREFIX}.save/data-file-schema.xml', '.', 3))
        info.local_copy_list = list(pseudos.values())
        return info
