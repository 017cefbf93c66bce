"""The schema of a campaign file: what it may say, and what each entry means.

These models are the documentation as well: ``aiida-mlipal launch --schema`` prints them. Whatever is left out comes
from the protocol. Units: Å, eV, eV/Å, fs, K, s.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from aiida_mlipal.science.heads import check_head_names
from aiida_mlipal.science.settings import unknown_name

from . import checks

if TYPE_CHECKING:
    from ase import Atoms

__all__ = (
    'Campaign',
    'Evaluate',
    'Explore',
    'JobOptions',
    'Label',
    'Prescreen',
    'Train',
    'Validation',
    'read_structure',
)


def _settings(section: str) -> AfterValidator:
    """Return a validator that holds a mapping against the dataclass that the stage will build from it."""

    def validate(value: dict[str, Any]) -> dict[str, Any]:
        checks.check_settings(section, value)
        return value

    return AfterValidator(validate)


def _engine(value: str) -> str:
    from .engines import engine_names

    if value not in engine_names():
        raise ValueError(unknown_name('label engine', value, engine_names()))
    return value


def _recipe(value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    if value is not None:
        checks.check_recipe(value)
    return value


def _head_names(value: dict[str, int | str]) -> dict[str, int | str]:
    check_head_names(value)
    return value


def _structures(value: list[int | str], info: ValidationInfo) -> list[int | str]:
    """Every entry must be a number, a UUID or a file that ASE reads; files are returned by their full path."""
    folder = Path((info.context or {}).get('folder', '.'))
    problems, entries = [], []
    for entry in value:
        if isinstance(entry, str) and not checks.is_uuid(entry):
            entry = str((folder / entry).resolve())
            try:
                read_structure(Path(entry))
            except ValueError as exception:
                problems.append(str(exception))
        entries.append(entry)
    if problems:
        raise ValueError(' '.join(problems))
    return entries


def read_structure(path: Path) -> Atoms:
    """Return the (last) structure in ``path``.

    :raises ValueError: if there is no such file, or ASE cannot read it.
    """
    from ase import Atoms
    from ase.io import read

    if not path.is_file():
        near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.glob('*')], n=1)
        hint = f' Did you mean `{near[0]}`?' if near else ''
        raise ValueError(f'there is no file `{path}`.{hint} Give a file that ASE reads, or the PK of a StructureData.')
    try:
        atoms = read(path)
    except Exception as exception:  # ASE raises whatever its many readers raise
        raise ValueError(
            f'ASE cannot read a structure from `{path}` ({type(exception).__name__}: {exception}); '
            f'look at it with `ase gui {path}`.'
        ) from exception
    assert isinstance(atoms, Atoms)
    return atoms


class _Section(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class JobOptions(_Section):
    """What the scheduler of a stage's computer is asked for."""

    resources: dict[str, int | str] | None = Field(
        default=None, description='Machines and MPI ranks, for example {num_machines: 1, num_mpiprocs_per_machine: 4}.'
    )
    gpus: int | None = Field(
        default=None,
        gt=0,
        description='GPUs of one job. The directive of the scheduler follows from it, and `device: cuda`; without a '
        'scheduler, jobs wait for each other.',
    )
    gpu_type: str | None = Field(
        default=None, description='Type of GPU, by the name that the scheduler gives it, for example a100.'
    )
    max_wallclock_seconds: int | None = Field(default=None, gt=0, description='Wall time limit of one job, in s.')
    queue_name: str | None = Field(default=None, description='Queue or partition.')
    account: str | None = Field(default=None, description='Account or project to charge.')
    qos: str | None = Field(default=None, description='Quality of service.')
    withmpi: bool | None = Field(
        default=None, description='Start the program through mpirun; the default is what the code says.'
    )
    modules: list[str] = Field(default=[], description='Environment modules to load before the program starts.')
    custom_scheduler_commands: str | None = Field(
        default=None, description="Further scheduler directives, for example '#SBATCH --exclusive'."
    )
    environment_variables: dict[str, str] | None = Field(default=None, description='Environment variables of the job.')
    additional_retrieve_list: list[str] | None = Field(
        default=None, description='Further files of the work folder to keep in the repository, globs allowed.'
    )

    def as_metadata(self) -> dict[str, Any]:
        """Return AiiDA's ``metadata.options``; modules become lines of ``prepend_text``."""
        options = self.model_dump(exclude_none=True, exclude={'modules'})
        if self.modules:
            options['prepend_text'] = '\n'.join(f'module load {name}' for name in self.modules)
        return options


class _Stage(_Section):
    options: JobOptions = Field(
        default_factory=JobOptions, description="Resources, queue, account, modules of this stage's jobs."
    )


class Label(_Stage):
    """How frames are labelled with energies, forces and stresses."""

    engine: Annotated[str, AfterValidator(_engine)] = Field(
        default='quantumespresso', description='The program that labels.'
    )
    code: str = Field(description='Code as label@computer: pw.x, or for the engine `ase` a Python with ASE.')
    pseudo_family: str | None = Field(
        default=None, description='Label of an aiida-pseudo family (engine quantumespresso).'
    )
    kpoints_distance: float | None = Field(
        default=None,
        gt=0,
        description='Largest distance of k-points, 1/Å. The mesh is fixed per structure, strained or not.',
    )
    kpoints_offset: Annotated[list[float], Field(min_length=3, max_length=3)] | None = Field(
        default=None, description='Offset of the k-point mesh in units of its spacing, three numbers (0 or 0.5).'
    )
    hubbard: dict[str, Any] | None = Field(
        default=None,
        description='Hubbard U in eV for pw.x 7.1 and later, for example {projectors: ortho-atomic, U: {Fe-3d: 4.6}}; '
        'earlier versions take lda_plus_u and hubbard_u in SYSTEM (engine quantumespresso).',
    )
    calculator: str | None = Field(
        default=None, description='ASE calculator: emt, tblite, mace, or the dotted path of a class (engine ase).'
    )
    model: int | str | None = Field(
        default=None, description='PK or UUID of the MlipModelData that the calculator mace uses (engine ase).'
    )
    data_dir: str | None = Field(
        default=None,
        description="Folder on this machine with CP2K's basis sets and potentials, by default $CP2K_DATA_DIR or "
        '/usr/share/cp2k (engine cp2k).',
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description='Input of the program over that of the protocol: namelists, for example {SYSTEM: {ecutwfc: 30}} '
        '(Ry), sections of CP2K, or keyword arguments of the ASE calculator.',
    )
    checks: Annotated[dict[str, Any], _settings('checks')] = Field(
        default_factory=dict,
        description='Thresholds above which a label is rejected, and the share of failures that is tolerated.',
    )
    max_concurrent: int | None = Field(default=None, gt=0, description='Labels that run at the same time.')
    max_attempts: int | None = Field(default=None, gt=0, description='Attempts at a label that fails.')
    frames_per_job: int | None = Field(
        default=None,
        gt=0,
        description='Short calculations that may share one job, where the engine can do that; 1 for none.',
    )
    clean_workdir: bool | None = Field(
        default=None, description='Remove the work folder of a label as soon as it is in the repository.'
    )
    reuse: bool | None = Field(
        default=None,
        description='Take labels of the same frame and level of theory from earlier campaigns of this profile.',
    )

    @model_validator(mode='after')
    def _fits_the_engine(self) -> Self:
        if self.engine == 'ase' and self.calculator is None:
            raise ValueError('the engine `ase` needs a calculator; add for example `calculator: emt`.')
        foreign = {
            'ase': ('pseudo_family', 'kpoints_distance', 'kpoints_offset', 'hubbard', 'data_dir'),
            'cp2k': ('pseudo_family', 'kpoints_offset', 'hubbard', 'calculator', 'model'),
            'quantumespresso': ('calculator', 'model', 'data_dir'),
        }
        for name in foreign.get(self.engine, ()):
            if getattr(self, name) is not None:
                raise ValueError(f'`{name}` means nothing to the engine `{self.engine}`; remove it.')
        return self


class Prescreen(Label):
    """A cheap level of theory that labels all candidates first."""

    engine: Annotated[str, AfterValidator(_engine)] = Field(default='ase', description='The program that labels.')
    threshold: float = Field(
        gt=0,
        description='Largest difference of the force on an atom, eV/Å, at which the cheap level and the model still '
        'agree: such a candidate is not labelled.',
    )


class Train(_Stage):
    """How the committee is trained."""

    code: str = Field(description='A Python that has mace-torch, as label@computer.')
    n_members: int | None = Field(
        default=None, gt=0, description='Members of the committee, each from a seed of its own.'
    )
    other_datasets: Annotated[dict[str, int | str], AfterValidator(_head_names)] = Field(
        default_factory=dict,
        description='PKs or UUIDs of labelled ConfigurationsData of other levels of theory, each under the name of the '
        'head that learns it.',
    )
    foundation_model: int | str | None = Field(
        default=None,
        description='PK or UUID of the MlipModelData whose weights each training begins with. It decides r_max, '
        'num_channels and the like; lr is 0.001 by default.',
    )
    replay: int | str | None = Field(
        default=None,
        description='PK or UUID of labelled ConfigurationsData of the level of theory of the foundation model, so that '
        'it does not forget them.',
    )
    settings: Annotated[dict[str, Any], _settings('train')] = Field(
        default_factory=dict, description='Settings of MACE over those of the protocol.'
    )

    warm_start: Annotated[dict[str, Any], _settings('warm_start')] = Field(
        default_factory=dict,
        description='When the models of an iteration go on from those of the one before, and how, for example '
        '{every: 4}; {every: 1} trains always from scratch.',
    )


class Explore(_Stage):
    """How the molecular dynamics that finds new frames is run."""

    code: str | None = Field(default=None, description='A Python that has mace-torch; by default that of `train`.')
    settings: Annotated[dict[str, Any], _settings('explore')] = Field(
        default_factory=dict, description='Settings of the molecular dynamics over those of the protocol.'
    )


class Evaluate(_Stage):
    """How models are evaluated on known frames."""

    code: str | None = Field(default=None, description='A Python that has mace-torch; by default that of `train`.')


class Validation(_Section):
    """The equation of state (and with it the lattice constant) of the final model against the reference."""

    eos: bool | None = Field(default=None, description='Whether to compute it; molecules have none in any case.')
    n_volumes: int | None = Field(default=None, ge=5, description='Volumes of the fit.')
    max_strain: float | None = Field(
        default=None, gt=0, lt=0.3, description='Largest strain of lengths, in both directions.'
    )


class Campaign(_Section):
    """A whole campaign."""

    protocol: Literal['fast', 'balanced', 'stringent'] = Field(
        default='balanced', description='Where all defaults come from.'
    )
    seed: int = Field(default=1, ge=0, description='Every random number of the campaign follows from it.')
    structures: Annotated[list[int | str], AfterValidator(_structures), Field(min_length=1)] = Field(
        description='Files that ASE reads (relative to this file), or PKs or UUIDs of StructureData.'
    )
    dataset: int | str | None = Field(
        default=None, description='PK or UUID of a labelled ConfigurationsData to start from.'
    )
    seeds: Annotated[list[dict[str, Any]] | None, AfterValidator(_recipe)] = Field(
        default=None,
        description='Generators of the first frames; each item: generator, n_frames (per structure), parameters.',
    )
    initial_moments: dict[str, float] | list[list[float]] | None = Field(
        default=None,
        description='Initial magnetic moments in µB per atom, by element, for example {Fe: 2.2}, or for an '
        'antiferromagnet one list per structure. The electrons are then spin-polarised.',
    )
    label: Label = Field(description='Labelling.')
    prescreen: Prescreen | None = Field(
        default=None, description='Labelling of all candidates at a cheap level first; none by default.'
    )
    train: Train = Field(description='Training.')
    explore: Explore = Field(default_factory=Explore, description='Exploration.')
    evaluate: Evaluate = Field(default_factory=Evaluate, description='Evaluation.')
    selection: Annotated[dict[str, Any], _settings('selection')] = Field(
        default_factory=dict, description='Which candidates are labelled, and how many.'
    )
    convergence: Annotated[dict[str, Any], _settings('convergence')] = Field(
        default_factory=dict, description='Targets at which the campaign stops.'
    )
    budget: Annotated[dict[str, Any], _settings('budget')] = Field(
        default_factory=dict, description='Limits at which the campaign stops: labels, iterations, wall time.'
    )
    validation: Validation = Field(default_factory=Validation, description='Properties of the final model.')
