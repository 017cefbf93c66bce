"""Large candidates give way to cut-outs around their most uncertain atom, which can be labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from aiida_mlipal.runners.committee import evaluate, model_elements
from aiida_mlipal.science.configurations import Configurations
from aiida_mlipal.science.cutouts import CutOut, cluster_cutout, periodic_cutout
from aiida_mlipal.science.evaluation import Evaluation
from aiida_mlipal.science.exploration_settings import ExplorationSettings

__all__ = ('cut_large',)


def _cut(atoms: Atoms, centre: int, models: Sequence[Any], settings: ExplorationSettings) -> CutOut:
    """Return a periodic cell, or of what is not periodic a cluster.

    :raises ValueError: if neither is possible, or it is still too large.
    """
    if atoms.pbc.all():
        cut = periodic_cutout(atoms, centre, settings.cutout_radius, settings.min_distance_factor)
    else:
        cut = cluster_cutout(atoms, centre, settings.cutout_radius)
    if cut.n_added and 1 not in model_elements(models[0]):
        raise ValueError('the bonds that would be cut need hydrogen, which the model does not know.')
    if len(cut.atoms) > settings.max_label_atoms:
        raise ValueError(
            f'the cut-out still has {len(cut.atoms)} atoms, more than `max_label_atoms` ({settings.max_label_atoms}): '
            'lower `cutout_radius` or raise `max_label_atoms`.'
        )
    return cut


def cut_large(
    pool: Configurations, evaluation: Evaluation, models: Sequence[Any], settings: ExplorationSettings
) -> tuple[Configurations, Evaluation, list[dict[str, Any]]]:
    """Return the pool and its evaluation with cut-outs in place of too large candidates, and an account of each.

    A cut-out has the origin ``cutout``; plan, trajectory, step and parent are those of the frame that it was cut from.
    The account tells both identities, the atom in the centre, and its uncertainty (eV/Å) before and after: where they
    differ much, the cut-out is not what the model was unsure of. A frame that cannot be cut is out of the pool, with
    its reason. The random stream stays as it was visited.
    """
    limit = settings.max_label_atoms
    large = np.flatnonzero((pool.role == 'candidate') & (pool.n_atoms > limit)) if limit else np.zeros(0, dtype=int)
    if not len(large):
        return pool, evaluation, []
    account: list[dict[str, Any]] = []
    frames, cuts, sources = [], [], []
    for row in large.tolist():
        own = evaluation.forces_std[evaluation.offsets[row] : evaluation.offsets[row + 1]]
        centre = int(np.argmax(own))
        told = {
            'parent': str(pool.frame_id[row]),
            'trajectory': str(pool.trajectory[row]),
            'step': int(pool.step[row]),
            'n_atoms_before': int(pool.n_atoms[row]),
            'centre': centre,
            'uncertainty_before': float(own[centre]),
        }
        account.append(told)
        atoms = pool.atoms(row)
        atoms.calc = None
        try:
            cut = _cut(atoms, centre, models, settings)
        except ValueError as exception:
            told['reason'] = str(exception)
            continue
        frames.append(cut.atoms)
        cuts.append((cut, told))
        sources.append(row)
    kept = np.setdiff1d(np.arange(len(pool)), large)
    if not frames:
        return pool.take(kept), evaluation.take(kept), account
    columns = {name: getattr(pool, name)[sources] for name in ('trajectory', 'parent', 'step', 'temperature', 'plan')}
    small = Configurations.from_atoms(
        frames, role='candidate', origin='cutout', pressure=pool.pressure[sources], **columns
    )
    judged = evaluate(small, models, batch_atoms=settings.atoms_per_batch)
    for index, (cut, told) in enumerate(cuts):
        told.update(
            frame_id=str(small.frame_id[index]),
            n_atoms=len(cut.atoms),
            centre_row=cut.centre_row,
            n_removed=cut.n_removed,
            n_added=cut.n_added,
            uncertainty_after=float(judged.forces_std[judged.offsets[index] + cut.centre_row]),
        )
    return (
        Configurations.concatenate([pool.take(kept), small]),
        Evaluation.concatenate([evaluation.take(kept), judged]),
        account,
    )
