"""CalcJob that runs several pw.x calculations one after the other."""

from __future__ import annotations

from typing import Any

from aiida.common.datastructures import CalcInfo, CodeInfo, CodeRunMode
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec
from aiida.orm import ArrayData, Dict, Float, List
from aiida_pseudo.data.pseudo import UpfData
from aiida_quantumespresso.calculations.pw import PwCalculation

from aiida_mlipal.calculations.functions.labels import frame_index, frame_key
from aiida_mlipal.calculations.pw_inputs import PwFrames
from aiida_mlipal.data.configurations import ConfigurationsData

__all__ = ('PwBatchCalculation', 'stdout_name')


def stdout_name(frame: str) -> str:
    """Return the name of the file with what pw.x printed for one of the frames."""
    return f'{frame}.out'


def _validate_frames(frames: list[str], _: Any) -> str | None:
    """Refuse anything but names of frames, each once."""
    try:
        named = [frame_key(frame_index(name)) for name in frames]
    except (AttributeError, ValueError):
        named = []
    if named != frames or not frames or len(set(frames)) < len(frames):
        return f'`frames` is {frames}, expected names of frames, each once, such as {[frame_key(0), frame_key(3)]}.'
    return None


class PwBatchCalculation(CalcJob):
    """Single points of pw.x that share one job: one queue slot, one upload, one process of AiiDA for all of them.

    The frames stay in the chunk that they come in: a node and three links for each would cost AiiDA more to store than
    the rest of the job. Input files are those of :class:`PwCalculation`, but that each calculation writes to a folder
    of its own. Only frames whose calculation ended well are in the output; the others are left to a calculation of
    their own, where the handlers of ``PwBaseWorkChain`` see what is wrong.
    """

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Define inputs and outputs."""
        super().define(spec)
        spec.input('configurations', valid_type=ConfigurationsData, help='A chunk of frames.')
        spec.input(
            'metadata.options.frames',
            valid_type=list,
            validator=_validate_frames,
            help='Which of them to compute, in this order: `frame_00003` is the fourth.',
        )
        spec.input('parameters', valid_type=Dict, help='Namelists that all frames share, see `pw_parameters`.')
        spec.input('kpoints_distance', valid_type=Float, help='1/Å.')
        spec.input('kpoints_offset', valid_type=List, help='In units of the mesh spacing.')
        spec.input('hubbard', valid_type=Dict, required=False, help='`projectors` and `U` by orbital.')
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
        asked = PwFrames(self.inputs.configurations.configurations, self.inputs)
        for name in self.inputs.metadata.options.frames:
            index = frame_index(name)
            structure = asked.structure(index)
            writer: Any = type('FrameWriter', (PwCalculation,), {'_OUTPUT_SUBFOLDER': f'./{name}/'})
            by_kind = {kind.name: self.inputs.pseudos[kind.symbol] for kind in structure.kinds}
            content, files = writer._generate_pwcp_inputdata(
                Dict(asked.parameters(index)), {}, by_kind, structure, asked.kpoints(index)
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
