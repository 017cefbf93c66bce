"""The names of MACE's options, for both sides of a job: which setting an option follows from, and which are refused.

The daemon has no MACE, so here are only those names that this package gives a meaning to. The compute node holds every
command line against the MACE that it has, see :func:`aiida_mlipal.runners.mace_cli.check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ('FREEZE', 'OPTION_OF', 'REFUSED', 'SETTING_OF', 'STAGE_TWO_OPTION_OF', 'canonical', 'check_raw_options')

#: Setting -> MACE's option, where it is passed on as it is.
OPTION_OF: Final = {
    'batch_size': 'batch_size',
    'clip_grad': 'clip_grad',
    'correlation': 'correlation',
    'device': 'device',
    'distance_transform': 'distance_transform',
    'dtype': 'default_dtype',
    'energy_weight': 'energy_weight',
    'forces_weight': 'forces_weight',
    'huber_delta': 'huber_delta',
    'loss': 'loss',
    'lr': 'lr',
    'lr_factor': 'lr_factor',
    'lr_scheduler_gamma': 'lr_scheduler_gamma',
    'max_L': 'max_L',
    'max_ell': 'max_ell',
    'max_num_epochs': 'max_num_epochs',
    'model': 'model',
    'num_channels': 'num_channels',
    'num_cutoff_basis': 'num_cutoff_basis',
    'num_interactions': 'num_interactions',
    'num_radial_basis': 'num_radial_basis',
    'optimizer': 'optimizer',
    'r_max': 'r_max',
    'radial_MLP': 'radial_MLP',
    'scheduler': 'scheduler',
    'scheduler_patience': 'scheduler_patience',
    'stress_weight': 'stress_weight',
    'valid_batch_size': 'valid_batch_size',
    'weight_decay': 'weight_decay',
}
#: Setting -> MACE's option of the second stage. They are passed on if there is one.
STAGE_TWO_OPTION_OF: Final = {
    'stage_two_lr': 'stage_two_lr',
    'stage_two_energy_weight': 'stage_two_energy_weight',
    'stage_two_forces_weight': 'stage_two_forces_weight',
    'stage_two_stress_weight': 'stage_two_stress_weight',
}
#: Setting ``freeze`` -> MACE's option of that name. Other numbers do the same as these (0.3.16; negative ones nothing,
#: whatever its help says).
FREEZE: Final = {'embedding': 1, 'interactions': 5, 'products': 6}
#: MACE's option -> the setting that it follows from.
SETTING_OF: Final = {
    **{option: setting for setting, option in {**OPTION_OF, **STAGE_TWO_OPTION_OF}.items()},
    'E0s': 'e0s',
    'ema': 'ema_decay',
    'ema_decay': 'ema_decay',
    'distributed': 'gpus_per_member',
    'enable_cueq': 'enable_cueq',
    'freeze': 'freeze',
    'lora': 'lora',
    'lora_alpha': 'lora_alpha',
    'lora_rank': 'lora_rank',
    'pair_repulsion': 'pair_repulsion',
    'seed': 'seeds',
    'stage_two': 'stage_two_share',
    'start_stage_two': 'stage_two_share',
    'valid_fraction': 'valid_fraction',
}
_FILES: Final = 'the job writes the files itself, from the frames of `dataset` and `other_datasets`'
_FOLDERS: Final = 'each member has a folder of its own, and the parser looks for the files there'
_KEYS: Final = 'the job writes the labels under the names that it reads'
_CHECKPOINTS: Final = 'the model that is handed over is the checkpoint with the lowest validation loss'
_ACCELERATED: Final = 'accelerated kernels have been silently wrong (ACEsuit/mace#1298), so no raw option starts them'
_FOUNDATION: Final = 'give the model to start from as the input `foundation_model`, so that the provenance knows it'
_REPLAY: Final = 'give the frames to replay, as they are to be replayed, as the input `replay`'
#: MACE's option -> why nobody but the job may set it, and what to use instead.
REFUSED: Final = {
    'atomic_numbers': 'the elements of the model are those of the frames',
    'checkpoints_dir': _FOLDERS,
    'compute_forces': 'every frame is trained with forces; set `forces_weight`',
    'compute_stress': 'it follows from `loss`; set `loss` to `universal`',
    'config': 'give its options here, one by one',
    'downloads_dir': _FOLDERS,
    'dry_run': 'to try a training out, set `max_num_epochs` to 1',
    'enable_oeq': _ACCELERATED,
    'energy_key': _KEYS,
    'error_table': 'errors of all frames are in the output `results`',
    'eval_interval': 'each epoch is validated, so that the best one is found',
    'filter_type_pt': _REPLAY,
    'forces_key': _KEYS,
    'foundation_filter_elements': 'all weights of the foundation model are taken over',
    'foundation_head': 'it is the one that the model was imported for, `verdi data mlipal model import --head`',
    'foundation_model': _FOUNDATION,
    'foundation_model_elements': 'a model knows the elements of its frames, whose energies as atoms are known',
    'foundation_model_kwargs': _FOUNDATION,
    'force_mh_ft_lr': 'set `lr`, it is used as it is',
    'head_key': _KEYS,
    'heads': 'give each level of theory as one of the inputs `other_datasets`',
    'help': 'run `mace_run_train --help` on the computer of the code',
    'hidden_irreps': 'set `num_channels` and `max_L`',
    'keep_checkpoints': _CHECKPOINTS,
    'launcher': 'it follows from `gpus_per_member`',
    'log_dir': _FOLDERS,
    'model_dir': _FOLDERS,
    'multi_processed_test': _FILES,
    'multiheads_finetuning': _REPLAY,
    'name': 'members are called `member_00`, `member_01`, and so on',
    'num_samples_pt': _REPLAY,
    'only_cueq': _ACCELERATED,
    'patience': 'MACE announces a stop and goes on (ACEsuit/mace#1384); use the monitor `mlipal.training_plateau`',
    'plot': 'draw the output `history`',
    'plot_frequency': 'draw the output `history`',
    'plot_interaction_e': 'draw the output `history`',
    'pseudolabel_replay': _REPLAY,
    'pt_train_file': _REPLAY,
    'pt_valid_file': _REPLAY,
    'restart_latest': 'the job decides where a training begins',
    'results_dir': _FOLDERS,
    'save_all_checkpoints': _CHECKPOINTS,
    'save_cpu': 'models are always saved so that any machine can load them',
    'skip_evaluate_heads': 'errors of all frames are in the output `results`',
    'statistics_file': _FILES,
    'stress_key': _KEYS,
    'subselect_pt': _REPLAY,
    'test_dir': _FILES,
    'test_file': _FILES,
    'train_file': _FILES,
    'valid_file': _FILES,
    'virials_key': 'MACE ignores virials (ACEsuit/mace#1518); label frames with their stress',
    'weight_pt_head': _REPLAY,
    'work_dir': _FOLDERS,
}


def canonical(option: str) -> str:
    """Return the name of an option that MACE knows by two: it calls the second stage ``swa``, too."""
    return option.replace('swa', 'stage_two')


def check_raw_options(options: Mapping[str, Any]) -> list[str]:
    """Return why some raw options of MACE cannot be passed on, each with what to use instead.

    Whether the others exist is found out on the compute node.
    """
    problems = []
    for option, value in options.items():
        name = canonical(str(option))
        if not str(option).isidentifier():
            bare = str(option).lstrip('-').partition('=')[0].replace('-', '_')
            problems.append(f'`mace_options`: write `{bare}: value`, without dashes, got `{option}`.')
        elif name in SETTING_OF:
            problems.append(f'`mace_options`: `{option}` has a setting of its own; use `{SETTING_OF[name]}`.')
        elif name in REFUSED:
            problems.append(f'`mace_options`: `{option}` cannot be set: {REFUSED[name]}.')
        elif value is None:
            problems.append(f'`mace_options`: `{option}` has no value; leave it out for the default of MACE.')
    return problems
