"""Values of the command line that are one word there and an object in Python."""

from __future__ import annotations

from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from waltz_env.rewards import SETUPS, RewardWeights, setup

REGISTRY = ConstructorRegistry()


@REGISTRY.primitive_rule
def reward_weights(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[RewardWeights] | None:
    """``A``, ``B``, ``C``, ``dir-off`` or ``alpha,lambda,gamma`` for ``RewardWeights``."""
    if info.type is not RewardWeights:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join([*SETUPS, "ALPHA,LAMBDA,GAMMA"]),
        instance_from_str=lambda words: setup(words[0]),
        is_instance=lambda value: isinstance(value, RewardWeights),
        str_from_instance=lambda weights: [_word(weights)],
    )


def _word(weights: Any) -> str:
    names = [name for name, each in SETUPS.items() if each == weights]
    return names[0] if names else f"{weights.improvement:g},{weights.label:g},{weights.format:g}"
