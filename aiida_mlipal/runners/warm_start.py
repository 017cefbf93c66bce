"""Start the training of a model from the weights of an earlier one, in place of random weights.

MACE can do something like it with ``--foundation_model``, but what becomes of scale, shift and E0s then depends on
elements and heads. Here all of them stay: a model that goes on predicts at first what it predicted at last.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiida_mlipal.runners.main import StartRefused

__all__ = ('install', 'take_over')

#: What must be the same in both models, beside the shapes of all weights.
_SAME = {'atomic_numbers': 'elements', 'r_max': 'cutoff', 'atomic_energies_fn.atomic_energies': 'energies of the atoms'}


def install(run_train: Any, path: Path) -> None:
    """Make ``run_train``, MACE's module, begin with the weights in the model file ``path``, in this process.

    :raises StartRefused: when the training begins, if the weights are those of another kind of model.
    """
    configure = run_train.configure_model

    def configure_model(*arguments: Any, **more: Any) -> Any:
        model, *others = configure(*arguments, **more)
        take_over(model, path)
        return model, *others

    run_train.configure_model = configure_model


def take_over(model: Any, path: Path) -> None:
    """Give ``model`` the weights in ``path``, and all else that its predictions depend on: scale, shift, mean number of
    neighbours.

    :raises StartRefused: if they are those of another kind of model.
    """
    import torch

    earlier = torch.load(path, map_location='cpu', weights_only=False)
    state, wanted = earlier.state_dict(), model.state_dict()
    problems = []
    if list(earlier.heads) != list(model.heads):
        problems.append(f'heads {list(earlier.heads)} instead of {list(model.heads)}')
    unlike = [name for name in wanted if name not in state or state[name].shape != wanted[name].shape]
    for name, what in _SAME.items():
        if name not in unlike and not torch.allclose(state[name].double(), wanted[name].cpu().double(), rtol=1e-6):
            problems.append(f'{what} {state[name].tolist()} instead of {wanted[name].tolist()}')
    if unlike:
        problems.append(f'no weights of the right shape for {len(unlike)} of {len(wanted)} parts ({unlike[0]} first)')
    if problems:
        raise StartRefused(f'the model to start from has {"; ".join(problems)}: train from scratch.')
    model.load_state_dict({name: state[name] for name in wanted})
    for new, old in zip(model.interactions, earlier.interactions, strict=True):
        new.avg_num_neighbors = old.avg_num_neighbors
