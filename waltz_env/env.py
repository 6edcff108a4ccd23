"""The game as a multi-agent environment: a PettingZoo ``ParallelEnv`` over ``Game``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
from gymnasium.utils import seeding
from pettingzoo import ParallelEnv

from waltz_env.checks import check_index, check_mapping, check_seed
from waltz_env.errors import JudgeError, UsageError, UsageTypeError, unknown_name
from waltz_env.game import Game
from waltz_env.judges import RuleJudge
from waltz_env.judging import consult
from waltz_env.lazy import lazy_attributes
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Judge
from waltz_env.rewards import RewardWeights, conversation_reward, early_reward, late_reward, setup
from waltz_env.rules import Rules, rules_of
from waltz_env.spaces import MAX_PROMPT_CHARS, UnicodeText, observation_space, state_space
from waltz_env.transcript import show, transcript
from waltz_env.types import (
    AGENTS,
    CONVERSATION,
    FEEDBACK,
    AgentID,
    Info,
    Labels,
    NoVerdict,
    Observation,
    Prompt,
    Response,
    Trajectory,
)
from waltz_env.views import FixedSpaces

RenderMode = Literal["ansi", "human"]


class WaltzSafetyEnv(FixedSpaces, ParallelEnv[AgentID, Any, str]):
    """Two agents and one user prompt: the conversation agent answers, the feedback agent criticizes, the first revises.

    | Import             | `waltz_env.make("WaltzSafety-v0")`     |
    |--------------------|----------------------------------------|
    | Agents             | `["conversation_0", "feedback_0"]`     |
    | Actions            | text                                   |
    | Action space       | `UnicodeText(max_chars)`               |
    | Observation space  | `Dict` of texts, see below             |
    | Parallel, AEC      | both (`waltz_env.make_aec`)            |

    The game comes from "The Alignment Waltz" (arXiv:2510.08240, sec. 3): p, c_0, f_0, c_1, f_1, ... It is positive-sum:
    both agents are paid for a final response that is safe and does not overrefuse.

    ### Turns
    Both agents live for the whole game. One of them is active in each step, the conversation agent first. The idle
    agent's action is ignored and may be left out. Under the default rules the game ends (both agents terminate) when
    the feedback agent flags nothing or writes malformed feedback, or after `max_rounds` rounds of feedback and
    revision.

    ### Actions
    Any string; one longer than `max_chars` is cut there. The feedback agent should write one JSON object
    (`waltz_env.feedback.JSON_SCHEMA`): `reasoning`, `unsafe`, `overrefuse`, `feedback`. The agents see only its
    `feedback` string.

    ### Observations
    The dict that agents take (`waltz_env.types.Observation`):

    | Key         | Space                    | Meaning                                                   |
    |-------------|--------------------------|-----------------------------------------------------------|
    | `agent`     | text                     | the agent whose observation this is                       |
    | `active`    | `Discrete(2)`            | 1: this agent's action counts in the next step            |
    | `prompt`    | text                     | what the user asks, without the prompt's kind             |
    | `history`   | sequence of role/content | earlier chat messages, oldest first                       |
    | `responses` | sequence of texts        | c_0 ... so far                                            |
    | `feedback`  | sequence of texts        | the `feedback` strings of f_0 ... so far                  |

    ### Rewards
    The conversation agent gets R_c(c_t), 1 for a satisfactory response, in its own step: c_t is judged there. The
    feedback agent gets lambda R_label + gamma R_format in its own step and alpha R_DIR R_label in the step of the
    revision. Over a game the rewards add up to `waltz_env.rewards.score(trajectory, weights)`.

    ### Infos
    | Key          | Meaning                                                                                      |
    |--------------|----------------------------------------------------------------------------------------------|
    | `active`     | as in the observation, as a bool                                                             |
    | `rewards`    | the parts of this agent's reward that the step decided: name to raw, unweighted value        |
    | `labels`     | the judge's `{"unsafe", "overrefuse"}` if a response was judged in the step, otherwise None  |
    | `truncated`  | whether this agent's action was cut at `max_chars`                                           |
    | `trajectory` | the whole judged game: the feedback agent's, in the last step only                           |

    The conversation agent's infos hold nothing that is private to the feedback agent: neither its reasoning nor its
    flags. Whoever runs the game, and is not one of the agents, reads it from `trajectory()`.

    ### Global state
    `state()`, within `state_space`, is a dict for centralized critics: `prompt`, `history`, `responses`, `critiques`
    (the raw texts with reasoning and flags) and `turn` (`""` once the game has ended).

    Args:
        prompts: a `PromptSet` or another sequence of prompts, `"builtin:train"`, `"builtin:test"`, or the path of a
            JSONL file. Each game draws one.
        judge: labels each response; `RuleJudge()` by default.
        weights: weights of the feedback agent's reward, or the name of a set-up in `waltz_env.rewards.SETUPS`.
        rules: decide when the game ends and how long an action may be; the paper's game by default.
        max_rounds: short for `rules=Rules(max_rounds=...)`: the largest number of rounds of feedback and revision.
        max_chars: short for `rules=Rules(max_chars=...)`: length at which an action is cut, in characters.
        render_mode: `"ansi"`: `render()` returns the game as text. `"human"`: each turn is printed as it is played.

    Raises:
        UsageError: a setting cannot work.
        DataError: the file of prompts cannot be read.
    """

    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]  # PettingZoo declares it on instances
        "name": "waltz_safety_v0",
        "render_modes": list(get_args(RenderMode)),
        "is_parallelizable": True,
    }

    def __init__(
        self,
        prompts: Sequence[Prompt] | str | Path = "builtin:train",
        judge: Judge | None = None,
        *,
        weights: RewardWeights | str = "A",
        rules: Rules | None = None,
        max_rounds: int | None = None,
        max_chars: int | None = None,
        render_mode: RenderMode | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise unknown_name("render mode", str(render_mode), self.metadata["render_modes"])
        self.prompts = PromptSet.load(prompts) if isinstance(prompts, str | Path) else PromptSet(prompts)
        if not len(self.prompts):
            raise UsageError("The environment needs at least one prompt; `prompts` is empty.")
        for prompt in self.prompts:
            _check_length(prompt)
        self.judge: Judge = RuleJudge() if judge is None else judge
        self._default_judge = self.judge if judge is None else None
        self.weights = setup(weights)
        if self.weights.length:
            raise UsageError(
                "Actions here are texts, which have no number of tokens, so a token cannot have a price; got weights "
                f"with length={self.weights.length:g}."
            )
        self.rules = rules_of(rules, max_rounds=max_rounds, max_chars=max_chars)
        self.render_mode = render_mode

        self.possible_agents = list(AGENTS)
        self.agents: list[AgentID] = []
        longest = self.rules.max_chars
        self.observation_spaces = {agent: observation_space(longest) for agent in AGENTS}
        self.action_spaces = {agent: UnicodeText(longest) for agent in AGENTS}
        self.state_space = state_space(longest)
        self._np_random: np.random.Generator | None = None
        self._game: Game | None = None
        self._printed = 0

    @property
    def max_rounds(self) -> int:
        """The largest number of rounds of feedback and revision."""
        return self.rules.max_rounds

    @property
    def max_chars(self) -> int:
        """Length at which an action is cut, in characters."""
        return self.rules.max_chars

    @property
    def turn(self) -> AgentID | None:
        """Whose action counts in the next step; None if no game is running."""
        return self._game.turn if self._game is not None and self.agents else None

    @property
    def has_default_judge(self) -> bool:
        """Whether nobody has chosen the judge: a wrapper may then choose one for its own texts."""
        return self.judge is self._default_judge

    def reset(
        self, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[AgentID, Observation], dict[AgentID, Info]]:
        """Starts a game.

        Args:
            seed: seeds the draws of prompts from this game on. With None the draws continue.
            options: ``"prompt"``, a ``Prompt`` or an index into ``prompts``, chooses the prompt instead of drawing it.
                Other keys are left to wrappers.

        Raises:
            UsageError: ``options["prompt"]`` is out of range, the prompt is too long for its space, or the seed is
                below 0.
            UsageTypeError: ``options["prompt"]`` is neither a ``Prompt`` nor an integer, ``options`` is no mapping, or
                the seed is no integer.
        """
        if options is not None:
            check_mapping("options", options, such_as='{"prompt": 0}')
        if seed is not None or self._np_random is None:
            self._np_random, _ = seeding.np_random(None if seed is None else check_seed(seed))
        if options is not None and options.get("prompt") is not None:
            prompt = self._chosen(options["prompt"])
        else:
            prompt = self.prompts[int(self._np_random.integers(len(self.prompts)))]
        self._game = Game(prompt, self.rules)
        self.agents = list(AGENTS)
        self._printed = 0
        if self.render_mode == "human":
            self.render()
        return _observations(self._game), {agent: _info(agent == CONVERSATION) for agent in AGENTS}

    def step(
        self, actions: Mapping[AgentID, str | None]
    ) -> tuple[
        dict[AgentID, Observation],
        dict[AgentID, float],
        dict[AgentID, bool],
        dict[AgentID, bool],
        dict[AgentID, Info],
    ]:
        """Plays one turn of the active agent.

        Args:
            actions: text per agent. The active agent's text is required; the idle agent's is ignored.

        Returns:
            Observations, rewards, terminations, truncations and infos, each a dict by agent.

        Raises:
            UsageError: no game is running, the active agent's action is missing, or an agent is unknown.
            UsageTypeError: the active agent's action is not a string.
            JudgeError: the judge gave no verdict. The game is lost: call ``reset`` before the next step.
        """
        game, acting = self._game, self.turn
        if game is None or acting is None:
            raise UsageError(
                "step() needs a running game: call reset() "
                + ("first." if game is None else "to start another one; this one has ended.")
            )
        game.act(_action(actions, acting))
        observations = _observations(game)
        if acting == CONVERSATION:
            self.agents = []  # if the judge raises, no game is running
            (outcome,) = consult(self.judge, [game.prompt], observations[acting]["responses"][-1:])
            if isinstance(outcome, NoVerdict):
                raise JudgeError(outcome.reason)
            game.judge(outcome)
        ended = game.turn is None
        self.agents = [] if ended else list(AGENTS)
        trajectory = game.trajectory()
        rewards, infos = (_after_response if acting == CONVERSATION else _after_critique)(trajectory, self.weights)
        if ended and acting == FEEDBACK:  # no revision follows, which settles the improvement
            infos[FEEDBACK]["rewards"]["improvement"] = 0.0
        for agent, info in infos.items():
            info["active"] = agent == game.turn
        if ended:
            infos[FEEDBACK]["trajectory"] = trajectory
        if self.render_mode == "human":
            self.render()
        return observations, rewards, dict.fromkeys(AGENTS, ended), dict.fromkeys(AGENTS, False), infos

    def trajectory(self) -> Trajectory:
        """The game so far, or the latest one, with judgements, raw texts and the prompt's kind.

        It is for whoever runs the game: it holds the feedback agent's private reasoning, and no agent may see it.

        Raises:
            UsageError: ``reset`` was never called.
        """
        return self._started("trajectory()").trajectory()

    def state(self) -> dict[str, Any]:  # type: ignore[override]  # PettingZoo declares an array; ours is in state_space
        """The whole game as all agents together see it, without the prompt's kind, for centralized critics.

        Raises:
            UsageError: ``reset`` was never called.
        """
        game = self._started("state()")
        trajectory = game.trajectory()
        return {
            "prompt": trajectory.prompt.text,
            "history": trajectory.prompt.history,
            "responses": tuple(response.text for response in trajectory.responses),
            "critiques": tuple(critique.completion.text for critique in trajectory.critiques),
            "turn": self.turn or "",
        }

    def render(self) -> str | None:
        """Returns the game so far with labels and rewards in mode ``"ansi"``, prints it in mode ``"human"``.

        In mode ``"human"`` ``reset`` and ``step`` print each turn once, without this call.

        Raises:
            UsageError: the environment has no render mode, or ``reset`` was never called.
        """
        if self.render_mode is None:
            raise UsageError('render() needs a render mode: make the environment with render_mode="ansi" or "human".')
        blocks = transcript(self._started("render()").trajectory(), self.weights)
        if self.render_mode == "ansi":
            return "\n".join(blocks)
        for block in blocks[self._printed :]:
            show(block)
        self._printed = len(blocks)
        return None

    def close(self) -> None:
        """Ends a running game. There is nothing else to release."""
        self.agents = []

    def _chosen(self, choice: Any) -> Prompt:
        if isinstance(choice, Prompt):
            _check_length(choice)
            return choice
        return self.prompts[check_index('options["prompt"], if not a Prompt,', choice, len(self.prompts))]

    def _started(self, call: str) -> Game:
        if self._game is None:
            raise UsageError(f"{call} needs a game: call reset() first.")
        return self._game


def _observations(game: Game) -> dict[AgentID, Observation]:
    return {agent: game.observe(agent) for agent in AGENTS}


def _info(active: bool = False) -> Info:
    return {"active": active, "rewards": {}, "labels": None, "truncated": False}


# A step pays what it settles: a response its own R_c and the improvement part of the critique before it, a critique its
# label and format parts. Over a game this adds up to ``score``.


def _after_response(trajectory: Trajectory, weights: RewardWeights) -> tuple[dict[AgentID, float], dict[AgentID, Info]]:
    """Rewards and infos of a step in which c_t was given and judged."""
    labels = _labels(trajectory.final)
    reward = conversation_reward(labels)
    rewards = {CONVERSATION: reward, FEEDBACK: 0.0}
    infos = {CONVERSATION: _info(), FEEDBACK: _info()}
    infos[CONVERSATION]["rewards"]["conversation"] = reward
    infos[CONVERSATION]["truncated"] = trajectory.final.completion.finish == "cut"
    for info in infos.values():
        info["labels"] = {"unsafe": labels.unsafe, "overrefuse": labels.overrefuse}
    if trajectory.critiques:
        before = _labels(trajectory.responses[-2])
        improvement = reward - conversation_reward(before)
        label = float(trajectory.critiques[-1].feedback.labels == before)
        infos[FEEDBACK]["rewards"]["improvement"] = improvement
        rewards[FEEDBACK] = late_reward(improvement, label, weights)
    return rewards, infos


def _after_critique(trajectory: Trajectory, weights: RewardWeights) -> tuple[dict[AgentID, float], dict[AgentID, Info]]:
    """Rewards and infos of a step in which f_t was given."""
    critique = trajectory.critiques[-1]
    label = float(critique.feedback.labels == _labels(trajectory.final))
    form = float(critique.feedback.well_formed)
    infos = {CONVERSATION: _info(), FEEDBACK: _info()}
    infos[FEEDBACK]["rewards"].update(label=label, format=form)
    infos[FEEDBACK]["truncated"] = critique.completion.finish == "cut"
    return {CONVERSATION: 0.0, FEEDBACK: early_reward(label, form, weights)}, infos


def _labels(response: Response) -> Labels:
    assert response.labels is not None, "the environment judges each response in its own step"
    return response.labels


def _action(actions: Mapping[AgentID, str | None], acting: AgentID) -> str:
    check_mapping("actions", actions, such_as=f'{{"{acting}": "..."}}')
    for agent in actions:
        if agent not in AGENTS:
            raise unknown_name("agent", str(agent), AGENTS)
    if acting not in actions:
        raise UsageError(
            f"It is the turn of {acting!r}, but `actions` has no action for it; got actions for "
            f"{', '.join(map(repr, actions)) or 'nobody'}."
        )
    action = actions[acting]
    if not isinstance(action, str):
        raise UsageTypeError(f"An action must be a string; {acting} gave {action!r} ({type(action).__name__}).")
    return action


def _check_length(prompt: Prompt) -> None:
    for text in (prompt.text, *(message["content"] for message in prompt.history)):
        if len(text) > MAX_PROMPT_CHARS:
            raise UsageError(
                f"Prompt {prompt.id!r} has a text of {len(text)} characters; the environment shows at most "
                f"{MAX_PROMPT_CHARS} and never cuts a prompt. Shorten it or leave it out."
            )


if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_attributes(__name__, renamed={"WaltzSafetyAECEnv": "waltz_env.aec.WaltzSafetyAECEnv"})
