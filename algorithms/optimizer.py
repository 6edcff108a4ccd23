"""AdamW's state as a flat dict of tensors, for checkpoints without pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from waltz_env.errors import CheckpointError

_KEYS = ("exp_avg", "exp_avg_sq", "step")


def moments_of(optimizer: torch.optim.AdamW, parameters: Sequence[nn.Parameter]) -> dict[str, Tensor]:
    """Copies of the moments as ``"exp_avg.3"``, ... by the parameter's position; empty before the first step."""
    return {
        f"{key}.{i}": optimizer.state[parameter][key].detach().cpu().clone()
        for i, parameter in enumerate(parameters)
        if parameter in optimizer.state
        for key in _KEYS
    }


def load_moments(optimizer: torch.optim.AdamW, parameters: Sequence[nn.Parameter], state: Mapping[str, Tensor]) -> None:
    """Puts back what ``moments_of`` gave; other keys of ``state`` are left alone.

    Raises:
        CheckpointError: the moments are not those of ``parameters``.
    """
    shapes = {f"exp_avg.{i}": tuple(parameter.shape) for i, parameter in enumerate(parameters)}
    found = {name: tuple(tensor.shape) for name, tensor in state.items() if name.startswith("exp_avg.")}
    if found and found != shapes:
        raise CheckpointError(
            f"The optimiser's state is of {len(found)} parameters and this policy has {len(shapes)}, or their shapes "
            "differ. Build the policy with the settings of the checkpoint."
        )
    moments = {i: {key: state[f"{key}.{i}"].clone() for key in _KEYS} for i in range(len(parameters)) if found}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
