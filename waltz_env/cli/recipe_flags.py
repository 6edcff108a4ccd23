"""Flags for a recipe: one group per stage, whatever its algorithms are, and short forms for all stages at once.

``--stage-2.feedback.learning-rate`` is one setting of one learner. A flag without a stage is short for the same flag in
every stage that has it: ``--feedback.learning-rate``, ``--rules.max-rounds``; ``--learner.learning-rate`` is short for
the same flag of every learner. The longer flag wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any

import tyro

from waltz_env.algorithms import LoopConfig, Stage
from waltz_env.errors import UsageError, did_you_mean
from waltz_env.presets import Recipe
from waltz_env.rewards import RewardWeights
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID

ROLES: Mapping[str, AgentID] = {"feedback": FEEDBACK, "conversation": CONVERSATION}
LEARNER, RULES = "learner", "rules"


@dataclass(frozen=True)
class GeneralFlags:
    """Settings of the whole run.

    Attributes:
        seed: seeds everything random.
        judge: judge of the responses in training and evaluation, by name; see docs/judges.md.
        loop: settings of the training loop.
        test_samples: games on each held-out prompt.
        shared_policy: give both roles the same weights; they then learn together from the first step.
    """

    seed: int
    judge: str
    loop: LoopConfig
    test_samples: int
    shared_policy: bool


def flags_of(recipe: Recipe) -> tuple[type[Any], Any]:
    """A dataclass whose fields are the settings of ``recipe``, for tyro, and the object with the recipe's values."""
    values: dict[str, Any] = {each.name: getattr(recipe, each.name) for each in fields(GeneralFlags)}
    stages: list[tuple[str, Any, Any]] = []
    for stage in recipe.stages:
        kind, value = _stage_flags(stage)
        stages.append((_identifier(stage.name), Annotated[kind, tyro.conf.arg(name=stage.name)], field()))
        values[_identifier(stage.name)] = value
    kind = make_dataclass("RecipeFlags", stages, bases=(GeneralFlags,), frozen=True)
    kind.__doc__ = GeneralFlags.__doc__
    return kind, kind(**values)


def recipe_of(flags: Any, recipe: Recipe) -> Recipe:
    """``recipe`` with the values of flags that ``flags_of`` made from it."""
    stages = []
    for stage in recipe.stages:
        chosen = getattr(flags, _identifier(stage.name))
        learners = {agent: getattr(chosen, role) for role, agent in ROLES.items() if agent in stage.learners}
        stages.append(
            Stage(
                stage.name,
                chosen.steps,
                {agent: learners[agent] for agent in stage.learners},
                chosen.weights,
                chosen.rules,
            )
        )
    general = {each.name: getattr(flags, each.name) for each in fields(GeneralFlags)}
    return Recipe(stages=tuple(stages), preset=recipe.preset, **general)


def _stage_flags(stage: Stage) -> tuple[type[Any], Any]:
    learners = {role: stage.learners[agent] for role, agent in ROLES.items() if agent in stage.learners}
    names: list[tuple[str, Any, Any]] = [
        ("steps", int, field()),
        ("weights", RewardWeights, field()),
        ("rules", type(stage.rules), field()),
        *((role, type(learner), field()) for role, learner in learners.items()),
    ]
    kind = make_dataclass(f"{_identifier(stage.name)}_flags", names, frozen=True)
    kind.__doc__ = f"""Settings of {stage.name}.

    Attributes:
        steps: number of training steps; 0 skips the stage.
        weights: weights of the feedback agent's reward.
        rules: rules of the games.
        feedback: learner of the feedback agent.
        conversation: learner of the conversation agent.
    """
    return kind, kind(steps=stage.steps, weights=stage.weights, rules=stage.rules, **learners)


def _identifier(name: str) -> str:
    return name.replace("-", "_")


def spell_out(arguments: Sequence[str], recipe: Recipe) -> list[str]:
    """``arguments`` with every short form replaced by the long flags that it stands for.

    Raises:
        UsageError: a learner or a stage has no such setting.
    """
    short, rest = [], []
    for flag, values in _with_values(arguments):
        head, _, setting = flag.removeprefix("--").replace("_", "-").partition(".")
        if flag.startswith("--") and setting and head in (LEARNER, RULES, *ROLES):
            for long_flag in _in_every_stage(head, setting, recipe):
                short += [long_flag, *values]
        elif flag.startswith("--") and setting and head in [stage.name for stage in recipe.stages]:
            rest += [_in_one_stage(head, setting, recipe), *values]
        else:
            rest += [flag, *values]
    return short + rest  # the last flag wins


def _with_values(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each flag, or word that is not one, with the values that follow it."""
    result: list[tuple[str, list[str]]] = []
    for word in arguments:
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            result.append((flag, [value] if equals else []))
        elif result and result[-1][0].startswith("--"):
            result[-1][1].append(word)
        else:
            result.append((word, []))
    return result


def _in_every_stage(head: str, setting: str, recipe: Recipe) -> list[str]:
    """The long flags of a short form."""
    if head == RULES:
        targets: list[tuple[str, Any]] = [(f"{stage.name}.{RULES}", stage.rules) for stage in recipe.stages]
    else:
        roles = ROLES if head == LEARNER else {head: ROLES[head]}
        targets = [
            (f"{stage.name}.{role}", stage.learners[agent])
            for stage in recipe.stages
            for role, agent in roles.items()
            if agent in stage.learners
        ]
    if not targets:
        raise UsageError(f"--{head}.{setting} would be ignored: no stage of this recipe trains the {head} agent.")
    return [f"--{prefix}.{_path(setting, settings, prefix)}" for prefix, settings in targets]


def _in_one_stage(name: str, setting: str, recipe: Recipe) -> str:
    """A flag of one stage, with the path that the setting has in its dataclass."""
    (stage,) = (stage for stage in recipe.stages if stage.name == name)
    part, _, inner = setting.partition(".")
    if inner and part in ROLES and ROLES[part] not in stage.learners:
        raise UsageError(f"--{name}.{setting} would be ignored: {name} does not train the {part} agent.")
    if inner and (part == RULES or part in ROLES):
        settings = stage.rules if part == RULES else stage.learners[ROLES[part]]
        return f"--{name}.{part}.{_path(inner, settings, f'{name}.{part}')}"
    return f"--{name}.{setting}"


def _path(setting: str, settings: Any, where: str) -> str:
    """The path of a setting within ``settings``; those of ``surrogate``, which all algorithms have, need no prefix."""
    paths = _paths(settings)
    if setting not in paths:
        known = [name for name in paths if not name.startswith(("no-", "surrogate."))]
        raise UsageError(
            f"{where}, a {type(settings).__name__}, has no setting {setting!r}.{did_you_mean(setting, known)} "
            f"Known: {', '.join(sorted(known))}."
        )
    return paths[setting]


def _paths(settings: Any) -> dict[str, str]:
    paths: dict[str, str] = {}
    for each in fields(settings):
        name, value = each.name.replace("_", "-"), getattr(settings, each.name)
        paths[name] = name
        if isinstance(value, bool):
            paths[f"no-{name}"] = f"no-{name}"
        if is_dataclass(value):
            inner = {sub: f"{name}.{path}" for sub, path in _paths(value).items()}
            paths |= {f"{name}.{sub}": path for sub, path in inner.items()}
            if name == "surrogate":
                paths = inner | paths
    return paths


def flags_in(content: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The settings of a TOML file as flags: a table is a prefix, and underscores and hyphens are the same.

    >>> flags_in({"seed": 3, "loop": {"games": 64, "overlap_judge": True}})
    ['--seed', '3', '--loop.games', '64', '--loop.overlap-judge']
    """
    flags = []
    for key, value in content.items():
        name = key.replace("_", "-")
        if isinstance(value, Mapping):
            flags += flags_in(value, f"{prefix}{name}.")
        elif isinstance(value, bool):
            flags.append(f"--{prefix}{name if value else f'no-{name}'}")
        else:
            flags += [f"--{prefix}{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    return flags
