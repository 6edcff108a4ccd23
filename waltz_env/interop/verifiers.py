"""The game as a ``verifiers`` v1 environment with three seats: draft, feedback and revision.

Each turn is a run of its seat, so it is a trace with its own reward: R_c for drafts and revisions, R_f for critiques.
Estimators that keep a baseline per seat, such as RAE, compare turns of one kind. Written for verifiers 0.4.

A verifiers environment has one policy, which plays all seats that have no model of their own: this evaluates pairs, and
trains one policy in both roles, or one role against a frozen other. It cannot train two policies; ``waltz train`` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import verifiers.v1 as vf
from openai import AsyncOpenAI, OpenAIError
from verifiers.v1.dialects.chat import message_to_wire

from waltz_env.agents.templates import TEMPLATES
from waltz_env.errors import AgentError
from waltz_env.interop.one_game import play_one
from waltz_env.judges import load_judge
from waltz_env.prompts import PromptSet
from waltz_env.rewards import setup as reward_weights
from waltz_env.rules import Rules
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Completion, Observation, Prompt

__all__ = ["WaltzEnv", "WaltzHarness", "WaltzTaskset"]

HERE = {"type": "subprocess"}  # a seat runs no code, so it needs no sandbox


class WaltzData(vf.TaskData):  # type: ignore[misc]  # verifiers is not checked
    """A prompt; ``request`` holds the fields of ``waltz_env.Prompt``."""

    request: dict[str, Any]


class WaltzTask(vf.Task[WaltzData]):  # type: ignore[misc]
    """One game."""


class WaltzTasksetConfig(vf.TasksetConfig):  # type: ignore[misc]
    """Which prompts are played; ``prompts`` is a name or path as for ``PromptSet.load``."""

    prompts: str = "builtin:test"


class WaltzTaskset(vf.Taskset[WaltzTask, WaltzTasksetConfig]):  # type: ignore[misc]
    """One task per prompt."""

    def load(self) -> Iterator[WaltzTask]:
        """The tasks, in the order of the prompts."""
        for prompt in PromptSet.load(self.config.prompts):
            yield WaltzTask(WaltzData(name=prompt.id, request=asdict(prompt)))


class WaltzHarness(vf.Harness[vf.HarnessConfig]):  # type: ignore[misc]
    """One chat completion from this process, through the server on which verifiers records it."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Ask once; what went wrong is told as a program's error."""
        messages = [message_to_wire(message) for message in data.prompt]
        try:
            async with AsyncOpenAI(base_url=endpoint, api_key=secret, max_retries=0) as client:
                await client.chat.completions.create(model=ctx.model, messages=messages)
        except OpenAIError as error:
            return vf.ProgramResult(exit_code=1, stdout="", stderr=str(error))
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


class WaltzEnvConfig(vf.EnvConfig):  # type: ignore[misc]
    """Seats and game.

    A seat with a model of its own (``--env.feedback.model``) is not trained.

    Attributes:
        draft, feedback, revision: the seats.
        judge: name of the judge.
        weights: set-up of the feedback agent's reward, or its weights, as for ``--stage-1.weights``.
        max_rounds: rounds of feedback and revision per game, at most.
    """

    draft: vf.AgentConfig = vf.AgentConfig(runtime=HERE)
    feedback: vf.AgentConfig = vf.AgentConfig(runtime=HERE)
    revision: vf.AgentConfig = vf.AgentConfig(runtime=HERE)
    judge: str = "rules"
    weights: str = "A"
    max_rounds: int = 1


class WaltzEnv(vf.Env[WaltzEnvConfig]):  # type: ignore[misc]
    """One game per episode.

    Raises:
        UsageError: there is no such judge or set-up, or the number of rounds is not positive.
    """

    def __init__(self, config: WaltzEnvConfig) -> None:
        super().__init__(config)
        self._rules = Rules(max_rounds=config.max_rounds)
        self._judge = load_judge(config.judge)
        self._weights = reward_weights(config.weights)

    async def setup(self, agents: vf.Agents) -> None:
        """Whether each seat is trained."""
        for name in ("draft", "feedback", "revision"):
            getattr(agents, name).trainable = getattr(self.config, name).model is None

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Play, judge and score one game.

        Raises:
            AgentError: the model of a seat failed; why stands on its trace. Nothing is scored.
            JudgeError: the judge has no verdict. Nothing is scored.
        """
        traces: dict[AgentID, list[vf.Trace]] = {CONVERSATION: [], FEEDBACK: []}

        async def ask(observation: Observation) -> Completion:
            role = observation["agent"]
            seat = agents.feedback if role == FEEDBACK else agents.revision if traces[CONVERSATION] else agents.draft
            data = vf.TaskData(idx=task.data.idx, name=task.data.name, prompt=TEMPLATES[role](observation))
            trace = await seat.run(vf.Task(data))
            if not trace.ok:
                raise AgentError(f"The {role} agent did not answer: {trace.last_error and trace.last_error.message}")
            traces[role].append(trace)
            text = trace.assistant_messages[-1].content or ""
            return Completion(text, finish="length" if trace.is_truncated else "stop")

        _, rewards = await play_one(
            Prompt(**task.data.request),
            {CONVERSATION: ask, FEEDBACK: ask},
            judge=self._judge,
            weights=self._weights,
            rules=self._rules,
        )
        for role, found in traces.items():
            for trace, reward in zip(found, rewards.of(role), strict=True):
                trace.record_reward("waltz", reward)
        for trace, improvement, label, form in zip(
            traces[FEEDBACK], rewards.improvement, rewards.label, rewards.format, strict=True
        ):
            trace.record_metrics({"improvement": improvement, "label": label, "format": form})
