"""What a training run is made of: its settings (``Recipe``), and what a preset builds from them (``Workbench``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from accelerate import Accelerator

from waltz_env.agents.engines import TRANSFORMERS, server_urls, trains_elsewhere
from waltz_env.algorithms import LearnerConfig, LoopConfig, Stage, single_model_stage
from waltz_env.algorithms.protocols import needs_groups
from waltz_env.algorithms.registry import ALGORITHMS, ENTRY_POINTS, algorithm, with_settings
from waltz_env.algorithms.remote_learner import check_remote
from waltz_env.algorithms.supervised import SupervisedConfig
from waltz_env.algorithms.surrogate import SurrogateConfig
from waltz_env.algorithms.training.samples import compares
from waltz_env.branches import check_branches
from waltz_env.checks import check_choice, check_integer, check_settings
from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Agent
from waltz_env.resolve import locate
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID

Method = Literal["waltz", "single-model", "feedback-only"]


@runtime_checkable
class PresetOptions(Protocol):
    """Settings of a preset's own: a frozen dataclass, whose fields are flags of ``waltz train``."""

    def check(self) -> None:
        """Check what can be told before anything is loaded.

        Raises:
            UsageError: the settings cannot work.
        """
        ...


@runtime_checkable
class ServiceOptions(PresetOptions, Protocol):
    """Options of a preset whose models a service may hold and train."""

    def check_service(self) -> None:
        """Check what can be told before the service is asked for anything.

        Raises:
            UsageError: no service can follow the settings.
        """
        ...


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of a training run.

    Attributes:
        stages: what to train, in order.
        preset: name of the preset that builds models and prompts; ``preset`` fills it in.
        seed: seeds everything random.
        judge: judge of the responses, by name (see ``load_judge``).
        engine: what generates in training and in its evaluations, and may also train, by name (see
            ``agents.engines``).
        loop: settings of the training loop.
        test_samples: games on each held-out prompt.
        test_each_stage: whether to play the held-out prompts after each stage, and not only after the last one.
        track: trackers that show metrics and games, by name (see ``tracker``).
        shared_policy: whether both roles have the same weights. They then learn together, in every stage and with the
            same settings, so baselines must suit both (such as ``role-baseline``).
        shard: whether the processes of the run split all weights among them, block by block, where each would otherwise
            have a copy. One process alone has everything.
        options: settings of the preset's own, where it has any.
        distilled: settings of the supervised learning that takes the place of the stages, see ``with_distillation``.
    """

    stages: tuple[Stage, ...]
    preset: str = ""
    seed: int = 0
    judge: str = "rules"
    engine: str = TRANSFORMERS
    loop: LoopConfig = field(default_factory=LoopConfig)
    test_samples: int = 1
    test_each_stage: bool = False
    track: tuple[str, ...] = ()
    shared_policy: bool = False
    shard: bool = False
    options: PresetOptions | None = None
    distilled: SupervisedConfig | None = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.options is not None and not isinstance(self.options, PresetOptions):
            raise UsageTypeError(f"options must be settings with a method `check`; got {self.options!r}.")
        check_integer("seed", self.seed, at_least=0)
        server_urls(self.engine)
        check_integer("test_samples", self.test_samples, at_least=1)
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise UsageError(f"A recipe needs at least one stage, and stages need different names; got {names}.")

    def check(self) -> None:
        """Check what only the whole recipe shows.

        Raises:
            UsageError: an algorithm compares games on one prompt and each prompt is played once, the roles share a
                policy and a stage trains one of them alone, the preset's own settings cannot work, the engine is to
                train what it cannot, or the run has been distilled from another one.
        """
        if self.distilled is not None:
            raise UsageError("A distilled run has no stages to train. Its own command continues it: waltz distill.")
        if self.options is not None:
            self.options.check()
        if self.shard and trains_elsewhere(self.engine):
            raise UsageError(f"The engine {self.engine} has the weights, so there is nothing to split: no --shard.")
        if trains_elsewhere(self.engine):
            self._check_service()
        for stage in self.stages:
            check_branches(self.loop.branches, stage.rules)
            for agent, learner in stage.learners.items():
                if needs_groups(learner) and not compares(agent, self.loop.samples, self.loop.branches):
                    raise UsageError(
                        f"{type(learner).__name__}, the learner of {agent} in {stage.name}, compares games on one "
                        f"prompt, and with branches {self.loop.branches} its turns have nothing to be compared with. "
                        "Set --loop.branches 4 1 1, or --loop.samples.group labels."
                    )
            if self.shared_policy and stage.steps > 0 and stage.learners.keys() != {CONVERSATION, FEEDBACK}:
                raise UsageError(
                    f"With one policy for both roles both learn from the first step, and {stage.name} trains "
                    f"{', '.join(stage.learners)} alone. Leave the stage out: --{stage.name}.steps 0."
                )

    def _check_service(self) -> None:
        if not isinstance(self.options, ServiceOptions):
            raise UsageError(
                f"The engine {self.engine} trains models that it has, and the preset {self.preset} makes its own. Name "
                "one that the service has: --model NAME."
            )
        self.options.check_service()
        for stage in self.stages:
            for learner in stage.learners.values():
                check_remote(learner)

    @property
    def method(self) -> Method | Literal["distilled"]:
        """What the stages train: the pair, the conversation agent alone, or the feedback agent alone."""
        if self.distilled is not None:
            return "distilled"
        trained = {agent for stage in self.stages for agent in stage.learners}
        return _METHODS.get(frozenset(trained), "waltz")

    @property
    def rules(self) -> Rules:
        """Rules of the games that the result is evaluated with: the rules of the last stage."""
        return self.stages[-1].rules


_METHODS: Mapping[frozenset[AgentID], Method] = {
    frozenset({CONVERSATION}): "single-model",
    frozenset({FEEDBACK}): "feedback-only",
}


def with_method(recipe: Recipe, method: str) -> Recipe:
    """The recipe of a baseline of arXiv:2510.08240, sec. 5, made from a recipe for the pair.

    Args:
        recipe: trains the pair in stages.
        method: ``"waltz"``: the recipe as it is. ``"single-model"``: the conversation agent alone on R_c, without
            feedback, for the steps of the last stage that trains it. ``"feedback-only"``: the conversation agent stays
            frozen in every stage.

    Raises:
        UsageError: the method is unknown, or no stage trains the agent that it needs.
    """
    check_choice("method", method, get_args(Method))
    if method == "waltz":
        return recipe
    agent = CONVERSATION if method == "single-model" else FEEDBACK
    stages = [stage for stage in recipe.stages if agent in stage.learners]
    if not stages:
        raise UsageError(f"The method {method} needs a stage that trains {agent}; this recipe has none.")
    if method == "single-model":
        return replace(recipe, stages=(single_model_stage(stages[-1].learners[agent], steps=stages[-1].steps),))
    return replace(recipe, stages=tuple(replace(stage, learners={agent: stage.learners[agent]}) for stage in stages))


def with_distillation(recipe: Recipe, config: SupervisedConfig) -> Recipe:
    """The recipe of a conversation agent that answers alone, after supervised learning from the games of a run.

    Args:
        recipe: recipe of that run.
        config: settings of the supervised learning.
    """
    learners = [learner for stage in recipe.stages for learner in stage.learners.values()]
    rules = replace(recipe.rules, max_rounds=0)
    stage = replace(single_model_stage(learners[-1], steps=config.steps), name="distilled", rules=rules)
    return replace(recipe, stages=(stage,), distilled=config)


def with_algorithm(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another algorithm in place of every learner's.

    An included algorithm, and a class of your own, take over what all algorithms have, such as learning rate and KL
    weight, from the learner that they replace. If a learner has that algorithm already, all of its settings stay.
    Settings of your own (``package.module:CONFIG``) are used exactly as they are.

    Args:
        recipe: any recipe.
        name: name or dotted path of the algorithm, see ``algorithm``.

    Raises:
        UsageError: there is no such algorithm.
    """
    chosen = algorithm(name)
    located = locate("algorithm", name, known=ALGORITHMS, entry_points=ENTRY_POINTS)
    is_settings = name not in ALGORITHMS and not isinstance(located, type)

    def swapped(learner: LearnerConfig) -> LearnerConfig:
        if is_settings:
            return chosen
        if type(learner) is type(chosen) and chosen == type(chosen)():
            return learner
        shared = getattr(learner, "surrogate", None)
        takes_over = isinstance(shared, SurrogateConfig) and hasattr(chosen, "surrogate")
        return with_settings(chosen, surrogate=shared) if takes_over else chosen

    return with_learners(recipe, lambda stage, agent, learner: swapped(learner))


def with_learners(recipe: Recipe, change: Callable[[Stage, AgentID, LearnerConfig], LearnerConfig]) -> Recipe:
    """The recipe with each learner's settings replaced by what ``change`` returns for its stage and agent."""
    return replace(
        recipe,
        stages=tuple(
            replace(stage, learners={agent: change(stage, agent, each) for agent, each in stage.learners.items()})
            for stage in recipe.stages
        ),
    )


def with_stages(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with the same changes made to every stage, such as ``rules=Rules(max_rounds=2)``."""
    return replace(recipe, stages=tuple(replace(stage, **changes) for stage in recipe.stages))


def with_steps(recipe: Recipe, *steps: int) -> Recipe:
    """The recipe with other numbers of steps, one per stage.

    Raises:
        UsageError: there are more or fewer numbers than stages.
    """
    if len(steps) != len(recipe.stages):
        raise UsageError(f"The recipe has {len(recipe.stages)} stages; got {len(steps)} numbers of steps.")
    pairs = zip(recipe.stages, steps, strict=True)
    return replace(recipe, stages=tuple(replace(stage, steps=count) for stage, count in pairs))


@dataclass(frozen=True, slots=True)
class PromptSource:
    """A set that prompts to train on were taken from.

    Attributes:
        name: the set, as it was named.
        taken: the prompts that were taken.
        repeated: number of prompts left out because their text had occurred before.
        held_out: number of prompts left out because their text is in a test set.
    """

    name: str
    taken: PromptSet
    repeated: int
    held_out: int


@dataclass(frozen=True, slots=True)
class Workbench:
    """What a preset builds: everything that a training run and an evaluation need, except the judge.

    Attributes:
        agents: who plays. Agents that can be trained carry their weights.
        prompts: prompts to train on: one set for all stages, or one for each stage by its name.
        validation: held-out prompts that settings may be chosen on.
        tests: held-out prompts for the results, by the name of the set.
        sources: sets that the prompts to train on were gathered from, where the preset has just gathered them.
    """

    agents: Mapping[AgentID, Agent]
    prompts: PromptSet | Mapping[str, PromptSet]
    validation: PromptSet
    tests: Mapping[str, PromptSet]
    sources: Sequence[PromptSource] = ()

    @property
    def training_prompts(self) -> PromptSet:
        """All prompts to train on, as one set."""
        if isinstance(self.prompts, PromptSet):
            return self.prompts
        return PromptSet([prompt for prompts in self.prompts.values() for prompt in prompts])


@dataclass(frozen=True, slots=True)
class Preset:
    """A named way to train.

    Attributes:
        summary: one line for lists and help.
        recipe: its default settings.
        build: builds the workbench for a recipe. A base model that is made on the spot goes to ``RunFolder.base``.
        threads: number of CPU threads with which commands run this preset; None leaves the number to torch.
        base: name on the Hugging Face hub of the model that training begins with, for model cards; empty: it has none.
        license: license of that model, as the hub writes it; empty: not known.
    """

    summary: str
    recipe: Recipe
    build: Callable[[Recipe, RunFolder, Accelerator], Workbench]
    threads: int | None = None
    base: str = ""
    license: str = ""
