"""Flags for a recipe: one group per stage, whatever its algorithms are, and short forms for all stages at once.

``--stage-2.feedback.learning-rate`` is one setting of one learner. A flag without a stage is short for the same flag in
every stage that has it: ``--feedback.learning-rate``, ``--rules.max-rounds``; ``--learner.learning-rate`` is short for
the same flag of every learner. The longer flag wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro
from docstring_parser import parse

from waltz_env.algorithms import LearnerConfig, LoopConfig, Stage, settings_of, with_settings
from waltz_env.errors import UsageError, did_you_mean
from waltz_env.presets import Recipe
from waltz_env.rewards import RewardWeights
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID

ROLES: Mapping[str, AgentID] = {"feedback": FEEDBACK, "conversation": CONVERSATION}
LEARNER, RULES = "learner", "rules"


@dataclass(frozen=True, slots=True)
class GeneralFlags:
    """Settings of the whole run.

    Attributes:
        seed: seeds everything random.
        judge: judge of the responses in training and evaluation, by name; see docs/judges.md.
        engine: engine that samples: transformers, vllm (in this process), running vLLM servers (vllm@URL,URL), or a
            Tinker service that also trains: tinker (the hosted one), tinker@URL.
        loop: settings of the training loop.
        test_samples: games on each held-out prompt.
        test_each_stage: play the held-out prompts after each stage, and not only after the last one.
        track: trackers that show metrics and games; TensorBoard files are always written.
        shared_policy: give both roles the same weights; they then learn together from the first step.
        shard: split all weights over the processes that torchrun or accelerate launch starts, one per GPU.
    """

    seed: int
    judge: str
    engine: str
    loop: LoopConfig
    test_samples: int
    test_each_stage: bool
    track: tuple[str, ...]
    shared_policy: bool
    shard: bool


def flags_of(recipe: Recipe, *, short: bool = False) -> tuple[type[Any], Any]:
    """A dataclass whose fields are the settings of ``recipe``, for tyro, and the object with the recipe's values.

    Args:
        recipe: the recipe.
        short: whether rules and learners have their short flags, as the help page shows them, and not those of each
            stage, as they are parsed.
    """
    names: list[tuple[str, Any, Any]] = []
    values: dict[str, Any] = {each.name: getattr(recipe, each.name) for each in fields(GeneralFlags)}
    for stage in recipe.stages:
        kind, value = _stage_flags(stage, short)
        names.append((_identifier(stage.name), Annotated[kind, tyro.conf.arg(name=stage.name)], field()))
        values[_identifier(stage.name)] = value
    if recipe.options is not None:
        names.append(("options", Annotated[type(recipe.options), tyro.conf.arg(name="")], field()))
        values["options"] = recipe.options
    if short:
        stage = recipe.stages[-1]
        learner = next(iter(stage.learners.values()))
        names.append((RULES, Annotated[type(stage.rules), tyro.conf.arg(help="Rules of the games.")], field()))
        kind, values[LEARNER] = _learner_flags(learner)
        names.append((LEARNER, Annotated[kind, tyro.conf.arg(help=_LEARNER_HELP)], field()))
        values[RULES] = stage.rules
    kind = make_dataclass("RecipeFlags", names, bases=(GeneralFlags,), frozen=True)
    kind.__doc__ = GeneralFlags.__doc__
    return kind, kind(**values)


_RESET_HELP = "Take the KL penalty to the weights that the stage starts from, as if the stage were a run of its own."
_LEARNER_HELP = (
    "Settings of the learners, for both agents and all stages. --feedback.X and --conversation.X hold for one agent, "
    "--STAGE.feedback.X for one agent in one stage. Defaults are those of the last stage."
)


def recipe_of(flags: Any, recipe: Recipe) -> Recipe:
    """``recipe`` with the values of flags that ``flags_of`` made from it."""
    stages = []
    for stage in recipe.stages:
        chosen = getattr(flags, _identifier(stage.name))
        learners = {
            agent: with_settings(learner, **vars(getattr(chosen, role)))
            for role, agent in ROLES.items()
            for learner in (stage.learners.get(agent),)
            if learner is not None
        }
        learners = {agent: learners[agent] for agent in stage.learners}  # in their order
        stages.append(Stage(stage.name, chosen.steps, learners, chosen.weights, chosen.rules, chosen.reset_reference))
    general = {each.name: getattr(flags, each.name) for each in fields(GeneralFlags)}
    return Recipe(stages=tuple(stages), preset=recipe.preset, options=getattr(flags, "options", None), **general)


def _stage_flags(stage: Stage, short: bool) -> tuple[type[Any], Any]:
    names: list[tuple[str, Any, Any]] = [
        ("steps", Annotated[int, tyro.conf.arg(help="Number of training steps; 0 skips the stage.")], field()),
        ("weights", Annotated[RewardWeights, tyro.conf.arg(help="Weights of the feedback agent's reward.")], field()),
        ("reset_reference", Annotated[bool, tyro.conf.arg(help=_RESET_HELP)], field()),
    ]
    values: dict[str, Any] = {
        "steps": stage.steps,
        "weights": stage.weights,
        "reset_reference": stage.reset_reference,
    }
    if not short:
        names.append((RULES, type(stage.rules), field()))
        values[RULES] = stage.rules
        for role, agent in ROLES.items():
            if agent in stage.learners:
                kind, values[role] = _learner_flags(stage.learners[agent])
                names.append((role, kind, field()))
    kind = make_dataclass(f"{_identifier(stage.name)}_flags", names, frozen=True)
    kind.__doc__ = f"Settings of {stage.name}."
    return kind, kind(**values)


def _learner_flags(learner: LearnerConfig) -> tuple[type[Any], Any]:
    """All settings of a learner side by side, its own and those of its ``surrogate``."""
    hints: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for part in (getattr(learner, "surrogate", None), learner):
        if is_dataclass(part):
            hints |= get_type_hints(type(part))
            texts |= {each.arg_name: each.description or "" for each in parse(type(part).__doc__ or "").params}
    values = settings_of(learner)
    names = [
        (name, Annotated[hints[name], tyro.conf.arg(help=texts.get(name, "").replace("``", ""))], field())
        for name in values
    ]
    kind = make_dataclass(type(learner).__name__, names, frozen=True)
    kind.__doc__ = f"Settings of {type(learner).__name__}."
    return kind, kind(**values)


def _identifier(name: str) -> str:
    return name.replace("-", "_")


def spell_out(arguments: Sequence[str], recipe: Recipe) -> list[str]:
    """``arguments`` with every short form replaced by the long flags that it stands for.

    Raises:
        UsageError: a learner or a stage has no such setting.
    """
    for_all: list[str] = []
    for_role: list[str] = []
    rest: list[str] = []
    for flag, values in _with_values(arguments):
        head, _, setting = flag.removeprefix("--").replace("_", "-").partition(".")
        if flag.startswith("--") and setting and head in (LEARNER, RULES, *ROLES):
            for long_flag in _in_every_stage(head, setting, recipe):
                (for_role if head in ROLES else for_all).extend([long_flag, *values])
        elif flag.startswith("--") and setting and head in [stage.name for stage in recipe.stages]:
            rest += [_in_one_stage(head, setting, recipe), *values]
        else:
            rest += [flag, *values]
    return for_all + for_role + rest  # the last flag wins


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
    return [f"--{prefix}.{_checked(setting, settings, prefix)}" for prefix, settings in targets]


def _in_one_stage(name: str, setting: str, recipe: Recipe) -> str:
    """A flag of one stage, if the stage has it."""
    (stage,) = (stage for stage in recipe.stages if stage.name == name)
    part, _, inner = setting.partition(".")
    if inner and part in ROLES and ROLES[part] not in stage.learners:
        raise UsageError(f"--{name}.{setting} would be ignored: {name} does not train the {part} agent.")
    if inner and (part == RULES or part in ROLES):
        settings = stage.rules if part == RULES else stage.learners[ROLES[part]]
        return f"--{name}.{part}.{_checked(inner, settings, f'{name}.{part}')}"
    return f"--{name}.{setting}"


def _checked(setting: str, settings: Any, where: str) -> str:
    """The setting, if there is one of that name."""
    known = list(_names(settings))
    if setting not in known:
        shown = [name for name in known if not name.startswith("no-")]
        raise UsageError(
            f"{where}, a {type(settings).__name__}, has no setting {setting!r}.{did_you_mean(setting, shown)} "
            f"Known: {', '.join(sorted(shown))}."
        )
    return setting


def _names(settings: Any) -> Iterator[str]:
    """The settings of a learner or of rules, as flags have them."""
    values = settings_of(settings) if isinstance(settings, LearnerConfig) else _fields(settings)
    for name, value in values.items():
        flag = name.replace("_", "-")
        yield flag
        if isinstance(value, bool):
            yield f"no-{flag}"
        if is_dataclass(value):
            yield from (f"{flag}.{inner}" for inner in _names(value))


def _fields(settings: Any) -> dict[str, Any]:
    return {each.name: getattr(settings, each.name) for each in fields(settings)}


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
