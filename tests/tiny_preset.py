"""A preset on the tiny model, for what runs in other processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from accelerate import Accelerator

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents import TransformersAgent, full_policy
from waltz_env.algorithms import (
    Learner,
    LoopConfig,
    Policy,
    ReinforcePPConfig,
    SampleConfig,
    SurrogateConfig,
    waltz_stages,
)
from waltz_env.algorithms.training.tracking import GameTrace
from waltz_env.errors import UsageError
from waltz_env.judges import RefusalJudge
from waltz_env.presets import Preset, Recipe, Workbench, lora_pair, with_stages
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.presets.pair import AgentSettings, agents_of
from waltz_env.prompts import PromptSet
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Judgement, Kind, NoVerdict, Prompt, Trajectory

LEARNER = ReinforcePPConfig(surrogate=SurrogateConfig(learning_rate=1e-2, min_reward_std=0.0))
RECIPE = Recipe(
    stages=waltz_stages(LEARNER, LEARNER, steps=(1, 1)),
    preset="tests.tiny_preset:PRESET",
    loop=LoopConfig(games=4, branches=(2, 1, 1), samples=SampleConfig(turns="all")),
)


ACTING: AgentSettings = {
    "templates": {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages},
    "max_new_tokens": 5,
}


def tiny_pair(seed: int, *, shared: bool = False) -> dict[AgentID, TransformersAgent]:
    """Agents of both roles on one tiny model."""
    return lora_pair(
        tiny_model(),
        tiny_tokenizer(),
        seed=seed,
        rank=4,
        shared=shared,
        **ACTING,
    )


def build(recipe: Recipe, folder: RunFolder, accelerator: object) -> Workbench:
    """Everything small."""
    prompts = PromptSet([Prompt(f"prompt {kind}", kind, id=str(kind)) for kind in Kind])
    return Workbench(tiny_pair(recipe.seed, shared=recipe.shared_policy), prompts, prompts, {"mine": prompts})


def build_whole_models(recipe: Recipe, folder: RunFolder, accelerator: Accelerator) -> Workbench:
    """Two models whose weights are all trained, with one reference."""
    reference = tiny_model()
    policies = {agent: full_policy(tiny_model(), tiny_tokenizer(), reference=reference) for agent in AGENTS}
    settings: AgentSettings = {**ACTING, "process": accelerator.process_index}
    agents = agents_of(policies, seed=recipe.seed, **settings)
    return replace(build(recipe, folder, accelerator), agents=agents)


PRESET = Preset("for tests", RECIPE, build)
WHOLE_MODELS = Preset("for tests", RECIPE, build_whole_models)
APART = Preset("for tests", RECIPE, lambda recipe, *rest: build(replace(recipe, shared_policy=False), *rest))


def build_nothing(recipe: Recipe, folder: RunFolder, accelerator: object) -> Workbench:
    """A model that is not there."""
    raise UsageError("There is no such model.")


UNBUILDABLE = Preset("for tests", RECIPE, build_nothing)
DEAD = Preset("for tests", replace(RECIPE, judge="rubric@http://127.0.0.1:9/v1#nobody"), build)


@dataclass(frozen=True)
class Outside:
    """Settings of an algorithm from another package."""

    def build(self, policy: Policy, accelerator: object = None) -> Learner:
        """A learner."""
        return LEARNER.build(policy)


@dataclass(frozen=True)
class Broken:
    """Settings of an algorithm that does not work."""

    def build(self, policy: Policy, accelerator: object = None) -> Learner:
        """Nothing."""
        raise RuntimeError("planted")


class Switch:
    """A judge that sends Ctrl-C in the call in which ``left`` gets to 0."""

    def __init__(self) -> None:
        self.left = 0
        self.responses = 0  # how many it has been asked about
        self.inner = RefusalJudge()

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[Judgement | NoVerdict]:
        self.left -= 1
        self.responses += len(responses)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return self.inner.judge(prompts, responses)


SWITCH = Switch()


@dataclass(frozen=True)
class LongDraftsOnly(Rules):
    """A rule of one's own: the feedback agent is asked only about long drafts."""

    words: int = 3

    def asks_feedback(self, game: Trajectory) -> bool:
        """Whether the latest response has more than ``words`` words."""
        return len(game.final.text.split()) > self.words


@dataclass(frozen=True)
class Insistent(Rules):
    """A rule of one's own: every response is revised, whatever the feedback; a model without training flags nothing."""

    def asks_revision(self, game: Trajectory) -> bool:
        """Yes."""
        return True


INSISTENT = Preset("for tests", with_stages(RECIPE, rules=Insistent()), build)


class Diary:
    """A tracker that remembers what it is shown."""

    pages: ClassVar[list[tuple[Any, ...]]] = []

    def open(self, run: str, *, settings: Mapping[str, Any]) -> None:
        """The name of the run and its preset."""
        self.pages.append(("open", run, settings["preset"]))

    def log(self, step: int, *, metrics: Mapping[str, float], games: Sequence[GameTrace]) -> None:
        """The step, whether it has metrics, and the number of games."""
        self.pages.append((step, bool(metrics), len(games)))

    def close(self) -> None:
        """The end."""
        self.pages.append(("close",))


class Forgetful:
    """A judge that answers the first call and has no verdict on anything after it."""

    def __init__(self) -> None:
        self.calls = 0

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[Judgement | NoVerdict]:
        self.calls += 1
        return (
            RefusalJudge().judge(prompts, responses) if self.calls == 1 else [NoVerdict("forgotten")] * len(responses)
        )


@dataclass(frozen=True)
class Mortal:
    """Settings of ``Outside``, whose process dies where stage 2 begins, once: it leaves the file ``$MORTAL`` behind."""

    built: ClassVar[list[Policy]] = []

    def build(self, policy: Policy, accelerator: object = None) -> Learner:
        """A learner; the second one is the first one of stage 2."""
        self.built.append(policy)
        grave = Path(os.environ["MORTAL"])
        if len(self.built) == 2 and not grave.exists():
            grave.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return LEARNER.build(policy)
