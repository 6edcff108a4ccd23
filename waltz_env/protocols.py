"""The extension points of the game, and the loop that uses them.

observations = [game.observe(agent_id) for game in games]      # whose turn it is
completions = agents[agent_id].act(observations)               # one batched call per role and phase
for game, completion in zip(games, completions): game.act(completion)
...                                                            # until no game has a turn left
judgements = judge.judge(prompts, responses)                   # one batched call
rewards = [score(trajectory, weights) for trajectory in trajectories]
learners[agent_id].update(samples)                             # waltz_env.algorithms.protocols.Learner
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from waltz_env.sampling_options import SamplingOptions
from waltz_env.types import Completion, Judgement, NoVerdict, Observation, Prompt


@runtime_checkable
class Agent(Protocol):
    """Anything that acts."""

    def act(self, observations: Sequence[Observation]) -> Sequence[Completion]:
        """One completion per observation, in order. Any text is legal.

        Agents are only asked when it is their turn: every observation has ``active == 1``.
        """
        ...


@runtime_checkable
class SamplingAgent(Agent, Protocol):
    """An agent that also lets its caller decide how it samples."""

    def act_with(
        self,
        observations: Sequence[Observation],
        options: Sequence[SamplingOptions],
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Sequence[Completion]:
        """Do the same as ``act``, each completion sampled by its own options.

        Args:
            observations: as in ``act``.
            options: one for each observation.
            should_stop: whether nobody waits for the completions any more. An agent that asks between tokens stops
                with an ``AgentError``; one that cannot stop ignores it.
        """
        ...


@runtime_checkable
class Reader(Agent, Protocol):
    """An agent that knows, without acting, what its model can read."""

    def check_readable(self, observations: Sequence[Observation]) -> object:
        """Checks that the model can read every observation.

        Raises:
            UnreadablePromptError: it cannot read some of them; the error names their positions.
        """
        ...


@runtime_checkable
class Judge(Protocol):
    """Anything that labels responses. It sees the original prompt and that single response, nothing else."""

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Sequence[Judgement | NoVerdict]:
        """Judges each response by itself, in order. ``NoVerdict`` says why there is no judgement on a response.

        Raises:
            JudgeError: there is no verdict on any of them, after the judge's own retries. Whoever asks through
                ``waltz_env.judging`` gets a ``NoVerdict`` with the message for each response instead.
        """
        ...


@runtime_checkable
class Stateful(Protocol):
    """An agent with a random state of its own, which an exact continuation needs."""

    def state_dict(self) -> Mapping[str, Any]:
        """The state of its random generators."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by ``state_dict``."""
        ...
