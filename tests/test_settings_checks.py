"""Every field of every settings class in the package is checked when it is made, and takes NumPy's numbers."""

from __future__ import annotations

import importlib
import json
import math
import pkgutil
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from enum import Enum
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import waltz_env
from tests.test_imports import NOT_INSTALLED
from waltz_env.algorithms.critic import CriticConfig
from waltz_env.algorithms.grpo import GRPOConfig
from waltz_env.algorithms.ppo import PPOConfig
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.algorithms.rloo import RLOOConfig
from waltz_env.algorithms.role_baseline import RoleBaselineConfig
from waltz_env.algorithms.supervised import SupervisedConfig
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.training.loop import LoopConfig
from waltz_env.algorithms.training.samples import SampleConfig
from waltz_env.algorithms.training.stages import Stage
from waltz_env.checks import check_settings
from waltz_env.choice import Dynamics
from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.experiments.distillation import DistillConfig
from waltz_env.experiments.evaluation import EvaluationConfig
from waltz_env.experiments.servers import Servers
from waltz_env.presets import Recipe
from waltz_env.presets.chat import ChatOptions
from waltz_env.presets.chat.examples import Mixture as SmolMixture
from waltz_env.presets.chat.warm_start import Phase, WarmStart
from waltz_env.presets.nano.examples import Mixture as NanoMixture
from waltz_env.presets.nano.preset import NanoOptions
from waltz_env.presets.nano.warm_start import NanoConfig
from waltz_env.prompts.columns import Columns
from waltz_env.rewards import RewardWeights
from waltz_env.rules import Rules
from waltz_env.sampling_options import SamplingOptions
from waltz_env.scripted import AlwaysFlag, FollowAdvice, NeverFlag
from waltz_env.serving.http.limits import Limits
from waltz_env.settings import decode, encode
from waltz_env.types import CONVERSATION

STAGE = Stage("one", 1, {CONVERSATION: GRPOConfig()})
SETTINGS: list[Any] = [
    AlwaysFlag(),
    ChatOptions(model="hub/name", feedback_model="hub/other", feedback_tokens=64, context=1024),
    Columns(text=("question",), kind="label"),
    CriticConfig(),
    DistillConfig(),
    Dynamics(),
    EvaluationConfig(judge="rules", capability_limit=10, capabilities=("ifeval",)),
    FollowAdvice(),
    GRPOConfig(),
    Limits(),
    LoopConfig(),
    NanoConfig(),
    NanoMixture(),
    NanoOptions(),
    NeverFlag(),
    Phase(1, 1e-3, SmolMixture()),
    PPOConfig(),
    Recipe((STAGE,)),
    ReinforcePPConfig(),
    RewardWeights(),
    RLOOConfig(),
    RoleBaselineConfig(),
    Rules(),
    SampleConfig(),
    SamplingOptions(temperature=0.5, top_p=0.5, max_tokens=3, seed=3, stop=("x",)),
    Servers(conversation_url="http://127.0.0.1:9/v1", feedback_url="http://127.0.0.1:9/v1"),
    SmolMixture(),
    STAGE,
    SupervisedConfig(),
    SurrogateConfig(),
    WarmStart(),
]
# In these, too, every field has a default: an estimator, a position in training, and what a progress hook is told.
OTHERS = {"GRPO", "Position", "Done"}


def test_a_dataclass_that_is_made_without_arguments_is_settings_that_are_checked() -> None:
    known = {type(each) for each in SETTINGS}
    for module in pkgutil.walk_packages(waltz_env.__path__, "waltz_env."):
        if module.name in NOT_INSTALLED:
            continue
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, type) and is_dataclass(value) and value.__module__ == module.name:
                optional = all(
                    field.default is not MISSING or field.default_factory is not MISSING for field in fields(value)
                )
                command = module.name.startswith("waltz_env.cli.")
                assert value in known or not optional or command or name in OTHERS, f"Check the fields of {name}."


def hint_of(settings: Any, name: str) -> Any:
    return get_type_hints(type(settings))[name]


def options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; one hint otherwise."""
    return get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def wrong_values(hint: Any) -> list[Any]:
    """Values that cannot be meant where ``hint`` is declared."""
    choices = options(hint)
    wrong: list[Any] = [object(), 1j, b"x"]
    if type(None) not in choices:
        wrong.append(None)
    if bool not in choices:
        wrong.append(True)
    else:
        wrong += ["yes", "false", 2, 0.0]
    if not {int, float} & set(choices):
        wrong.append(3.5)
    if float in choices:
        wrong += [math.nan, np.float32("nan"), "0.5", [0.5]]
    if int in choices and float not in choices:
        wrong += [1.5, np.float64(3), "3", math.nan]
    if not any(choice is str or get_origin(choice) is Literal for choice in choices):
        wrong.append("word")
    if any(get_origin(choice) is tuple for choice in choices):
        wrong += [{}, (object(),)]
    return wrong


FIELDS = [
    pytest.param(each, field.name, id=f"{type(each).__name__}.{field.name}")
    for each in SETTINGS
    for field in fields(each)
]


@pytest.mark.parametrize(("settings", "name"), FIELDS)
def test_what_cannot_be_meant_is_an_error_that_names_the_field(settings: Any, name: str) -> None:
    for wrong in wrong_values(hint_of(settings, name)):
        with pytest.raises((UsageError, UsageTypeError), match=name):
            replace(settings, **{name: wrong})


def as_numpy(value: Any, hint: Any) -> Any:
    """The same value as NumPy and lists give it; None if the field has no numbers."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int) and int in options(hint):
        return np.int64(value)
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, tuple) and value and all(isinstance(item, float | str) for item in value):
        return [np.float64(item) if isinstance(item, float) else item for item in value]
    if isinstance(value, str) and not isinstance(value, Enum):
        return np.str_(value)
    return None


@pytest.mark.parametrize(("settings", "name"), FIELDS)
def test_numbers_of_numpy_are_made_plain(settings: Any, name: str) -> None:
    value = getattr(settings, name)
    given = as_numpy(value, hint_of(settings, name))
    if given is None:
        assert value is None or is_dataclass(value) or isinstance(value, Mapping | tuple | Enum)
        return
    made = replace(settings, **{name: given})
    assert made == settings
    if not isinstance(value, str):
        assert type(getattr(made, name)) is type(value)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda each: type(each).__name__)
def test_settings_are_kept_with_a_run_and_read_back_equal(settings: Any) -> None:
    given = {
        field.name: numpy
        for field in fields(settings)
        if (numpy := as_numpy(getattr(settings, field.name), hint_of(settings, field.name))) is not None
    }
    stored = json.loads(json.dumps(encode(replace(settings, **given))))
    assert decode(stored) == settings


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (EvaluationConfig(), {"samples": 0}),
        (EvaluationConfig(), {"latency": -1}),
        (EvaluationConfig(), {"capability_limit": 0}),
        *((Limits(), {field.name: wrong}) for field in fields(Limits) for wrong in (0, -1)),
        (Limits(), {"body_seconds": math.inf}),
        *((RewardWeights(), {name: math.inf}) for name in ("improvement", "label", "format")),
        *((Dynamics(), {field.name: wrong}) for field in fields(Dynamics) for wrong in (-0.1, 1.1, math.inf)),
        *((mixture, {field.name: 1.1}) for mixture in (NanoMixture(), SmolMixture()) for field in fields(mixture)),
        *((mixture, {"draft": 0.9}) for mixture in (NanoMixture(), SmolMixture())),
        *((NanoConfig(), {name: 0}) for name in ("width", "layers", "heads", "feed_forward", "batch_size")),
        *((NanoConfig(), {name: -1}) for name in ("steps", "learning_rate", "prompt_weight")),
        (NanoConfig(), {"heads": 3}),
        *((WarmStart(), {name: 0}) for name in ("batch_size", "rank", "answer_tokens", "tries")),
        (WarmStart(), {"warmup_steps": -1}),
        (WarmStart(), {"phases": ()}),
        (Phase(1, 1e-3, SmolMixture()), {"steps": -1}),
        (Phase(1, 1e-3, SmolMixture()), {"learning_rate": -1.0}),
        *((FollowAdvice(), {name: 1.5}) for name in ("probability", "answers")),
        (Columns(text=("question",), kind="label"), {"text": ()}),
        (Columns(text=("question",), kind="label"), {"text": "question"}),
        (STAGE, {"learners": {"conversation": GRPOConfig()}}),
        (STAGE, {"weights": "B"}),
        (Recipe((STAGE,)), {"stages": ()}),
        (Recipe((STAGE,)), {"stages": (STAGE, STAGE)}),
        (Rules(), {"max_rounds": -1}),
        (Rules(), {"always_revise": "no"}),
        (SamplingOptions(), {"stop": "word"}),
        (SamplingOptions(), {"stop": ("",)}),
        (SamplingOptions(), {"temperature": math.inf}),
    ],
    ids=repr,
)
def test_what_is_out_of_range_is_refused(settings: Any, changes: dict[str, Any]) -> None:
    with pytest.raises((UsageError, UsageTypeError)):
        replace(settings, **changes)


def test_a_rule_of_one_s_own_is_checked_even_where_its_types_are_known_to_its_function_alone() -> None:
    class Local:
        pass

    @dataclass(frozen=True)
    class Mine(Rules):
        local: Local | None = None
        words: int = 20

    assert Mine(max_rounds=np.int64(2)).max_rounds == 2  # type: ignore[arg-type]
    with pytest.raises(UsageTypeError, match="max_rounds"):
        Mine(max_rounds="two")  # type: ignore[arg-type]


def test_lists_become_tuples_and_other_objects_are_left_alone() -> None:
    @dataclass(frozen=True)
    class Mine:
        pairs: tuple[tuple[int, float], ...]
        anything: object = None

    thing = object()
    made = Mine([[1, 2.0], (np.int8(3), np.float32(0.5))], thing)  # type: ignore[arg-type]
    check_settings(made)
    assert made == Mine(((1, 2.0), (3, 0.5)), thing)
    with pytest.raises(UsageError, match="Each of pairs must have 2 values"):
        check_settings(Mine(((1,),)))  # type: ignore[arg-type]
