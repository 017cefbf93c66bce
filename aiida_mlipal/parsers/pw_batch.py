"""Parser of several pw.x calculations that shared a job: the one of aiida-quantumespresso, frame by frame."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from io import StringIO
from types import SimpleNamespace
from typing import Any, Final

import aiida_quantumespresso.parsers.parse_xml.parse as parse_xml
import numpy as np
from aiida.engine import ExitCode
from aiida.orm import Dict, StructureData
from aiida.parsers import Parser
from aiida_quantumespresso.calculations.pw import PwCalculation
from aiida_quantumespresso.parsers.pw import PwParser
from aiida_quantumespresso.utils.bands import get_highest_occupied_band

from aiida_mlipal.calculations.functions.labels import frame_index
from aiida_mlipal.calculations.pw_batch import stdout_name
from aiida_mlipal.calculations.pw_inputs import PwFrames
from aiida_mlipal.calculations.pw_labels import PER_FRAME, pack_labels
from aiida_mlipal.science.pw_output import scf_force_errors

__all__ = ('PwBatchParser',)

_XML: Final = 'data-file-schema.xml'

# The plugin builds the schema of the XML file anew for each file, and has xmlschema check it: 0.3 s, most of its time.
parse_xml.XMLSchema = cache(parse_xml.XMLSchema)


class _Files(dict[str, str]):
    """Contents of files by name, with the methods by which the plugin reads them from a repository."""

    def list_object_names(self) -> list[str]:
        """Return the names."""
        return list(self)

    def get_object_content(self, name: str) -> str:
        """Return the content of a file."""
        return self[name]

    def open(self, name: str) -> StringIO:
        """Return a file to read."""
        return StringIO(self[name])


class _FrameParser(PwParser):
    """The parser of one calculation, made to look at the files of one frame."""

    def __init__(self, name: str, job: Any, asked: PwFrames, files: _Files) -> None:
        options, index = {'output_filename': stdout_name(name)}, frame_index(name)
        frame = SimpleNamespace(
            inputs=SimpleNamespace(
                structure=asked.structure(index),
                kpoints=asked.kpoints(index),
                parameters=Dict(asked.parameters(index)),
                settings=Dict(),
            ),
            process_class=PwCalculation,
            exit_status=None,
            exit_message=None,
            get_option=options.get,
            base=SimpleNamespace(attributes=options),
        )
        super().__init__(job)
        self._node = frame
        self._files = files

    @property
    def retrieved(self) -> Any:
        """The files of this frame."""
        return SimpleNamespace(base=SimpleNamespace(repository=self._files))

    @staticmethod
    def build_output_trajectory(parsed_trajectory: Mapping[str, Any], structure: StructureData) -> dict[str, Any]:
        """Return the arrays as they are: a node, which nobody would store, writes each of them to a file."""
        return {name: np.array(values) for name, values in parsed_trajectory.items()}


def _label(trajectory: Mapping[str, Any], stdout: str) -> dict[str, Any]:
    """Return what a label needs of the last step."""
    names = {'forces', *PER_FRAME} & trajectory.keys()
    errors = scf_force_errors(stdout)[-1:]
    return {
        **{name: trajectory[name][-1] for name in names},
        **({'scf_force_error': errors[0]} if errors.size else {}),
    }


def _bands_are_short(parser: _FrameParser) -> bool:
    """Return whether the highest band is occupied, which ``PwBaseWorkChain`` does not accept either."""
    parameters = parser.node.inputs.parameters.get_dict()
    if parameters.get('SYSTEM', {}).get('occupations') == 'fixed' or 'output_band' not in parser.outputs:
        return False
    try:
        get_highest_occupied_band(parser.outputs['output_band'])
    except ValueError:
        return True
    return False


class PwBatchParser(Parser):
    """Attach the labels of the frames whose calculation ended well, and what pw.x said of all."""

    def parse(self, **kwargs: Any) -> ExitCode | None:
        """Attach the outputs. The exit code counts the frames that are left."""
        results: dict[str, Any] = {}
        labels: dict[str, Any] = {}
        left: dict[str, str] = {}
        names = self.node.get_option('frames')
        asked = PwFrames(self.node.inputs.configurations.configurations, self.node.inputs)
        for name in names:
            files = self._files_of(name)
            parser = _FrameParser(name, self.node, asked, files)
            try:
                exit_code = parser.parse()
            except Exception as exception:  # whatever the plugin trips over in one output, the others are good
                left[name] = f'its output could not be parsed, {type(exception).__name__}: {exception}'
                continue
            if 'output_parameters' in parser.outputs:
                results[name] = parser.outputs['output_parameters'].get_dict()
            if exit_code is not None and exit_code.status:
                left[name] = exit_code.message
            elif _bands_are_short(parser):
                left[name] = 'the highest band is occupied'
            elif 'output_trajectory' not in parser.outputs:
                left[name] = 'pw.x returned no energy and no forces'
            else:
                stdout = files.get_object_content(stdout_name(name))
                label = _label(parser.outputs['output_trajectory'], stdout)
                if {'energy', 'forces'} <= label.keys():
                    labels[name] = label
                else:
                    left[name] = 'pw.x returned no energy or no forces'
        if labels:
            self.out('labels', pack_labels(labels))
        seconds = [result.get('wall_time_seconds') for result in results.values()]
        complete = len(results) == len(names) and None not in seconds
        self.out('results', Dict({'frames': results, **({'wall_s': sum(seconds)} if complete else {})}))
        if self.node.exit_status:  # the scheduler knows why
            return ExitCode(self.node.exit_status, self.node.exit_message)
        if left:
            reasons = '; '.join(dict.fromkeys(left.values()))
            return self.exit_codes.ERROR_FRAMES_LEFT.format(n_left=len(left), n_frames=len(names), reasons=reasons)
        return None

    def _files_of(self, name: str) -> _Files:
        """Return the output and the XML file of one frame, as far as they were written."""
        repository, files = self.retrieved.base.repository, _Files()
        save = f'{name}/{PwCalculation._PREFIX}.save'
        for source, target in ((stdout_name(name), stdout_name(name)), (f'{save}/{_XML}', _XML)):
            with suppress(FileNotFoundError):
                files[target] = repository.get_object_content(source, 'rb').decode(errors='replace')
        return files
