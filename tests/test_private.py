"""What belongs to the feedback agent alone reaches the conversation agent by no way that an environment has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import pytest
from pettingzoo.utils.wrappers import BaseParallelWrapper, OrderEnforcingWrapper

import waltz_env
from tests.games import BAD, BOMB, FINE, UNSAFE, Speaker, WordJudge
from waltz_env.choice import WaltzSafetyChoiceAECEnv, WaltzSafetyChoiceEnv
from waltz_env.feedback import format_feedback
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Trajectory
from waltz_env.wrappers import EncodedEnv, HashedNgrams, SingleAgentEnv

SECRET = "PRIVATE REASONING"
FLAG = format_feedback(UNSAFE, "Take it out.", SECRET)
ACTIONS: dict[AgentID, tuple[Any, ...]] = {CONVERSATION: (BAD, FINE, FINE), FEEDBACK: (FLAG, FLAG)}
NUMBERS: dict[AgentID, tuple[Any, ...]] = {CONVERSATION: (1, 3, 3), FEEDBACK: (1, 1)}
SETTINGS: dict[str, Any] = {"prompts": [BOMB], "judge": WordJudge(), "max_rounds": 2}
Shown = Iterator[tuple[AgentID, Any, Any]]


def in_parallel(env: Any, actions: dict[AgentID, tuple[Any, ...]] = ACTIONS) -> Shown:
    """Plays a game and yields, after each turn, what each agent was shown: observation and info."""
    observations, infos = env.reset(seed=0)
    left = {agent: list(texts) for agent, texts in actions.items()}
    turn = CONVERSATION
    while True:
        yield from ((agent, observations[agent], infos[agent]) for agent in infos)
        if not env.agents:
            return
        observations, _, _, _, infos = env.step({turn: left[turn].pop(0), _other(turn): None})
        turn = _other(turn)


def in_turns(env: Any, actions: dict[AgentID, tuple[Any, ...]] = ACTIONS) -> Shown:
    env.reset(seed=0)
    left = {agent: list(texts) for agent, texts in actions.items()}
    for agent in env.agent_iter():
        observation, _, ended, _, info = env.last()
        yield agent, observation, info
        yield from ((each, env.observe(each), env.infos[each]) for each in env.agents)
        env.step(None if ended else left[agent].pop(0))


def alone(env: Any) -> Shown:
    observation, info = env.reset(seed=0)
    ended = False
    yield CONVERSATION, observation, info
    for text in ACTIONS[CONVERSATION]:
        observation, _, ended, _, info = env.step(text)
        yield CONVERSATION, observation, info
    assert ended


def _other(agent: AgentID) -> AgentID:
    return FEEDBACK if agent == CONVERSATION else CONVERSATION


def _alone(make: Callable[..., Any]) -> Any:
    return make(partner=Speaker(FLAG, FLAG), text=True, **SETTINGS)


WAYS: dict[str, tuple[Callable[[], Any], Callable[[Any], Shown]]] = {
    "parallel": (lambda: waltz_env.make(**SETTINGS), in_parallel),
    "parallel, wrapped": (lambda: BaseParallelWrapper(waltz_env.make(**SETTINGS)), in_parallel),
    "AEC": (lambda: waltz_env.make_aec(**SETTINGS), in_turns),
    "AEC, wrapped": (lambda: OrderEnforcingWrapper(waltz_env.make_aec(**SETTINGS)), in_turns),
    "encoded": (
        lambda: EncodedEnv(
            waltz_env.make(**SETTINGS), HashedNgrams(16), choices={CONVERSATION: (BAD, FINE), FEEDBACK: (FLAG,)}
        ),
        lambda env: in_parallel(env, {CONVERSATION: (0, 1, 1), FEEDBACK: (0, 0)}),
    ),
    "single agent": (lambda: _alone(lambda **settings: SingleAgentEnv(CONVERSATION, **settings)), alone),
    "gymnasium.make": (
        lambda: _alone(lambda **settings: gymnasium.make("waltz_env/WaltzConversation-v0", **settings)),
        alone,
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_conversation_agent_sees_no_private_reasoning(way: str) -> None:
    make, play = WAYS[way]
    env = make()
    shown = list(play(env))
    game: Trajectory = env.unwrapped.trajectory()
    assert [critique.feedback.reasoning for critique in game.critiques] == [SECRET] * 2
    assert game.judged
    own = [(observation, info) for agent, observation, info in shown if agent == CONVERSATION]
    assert len(own) >= 4
    assert SECRET not in repr(own)
    assert not any("trajectory" in info for _, info in own)


@pytest.mark.parametrize("way", [way for way, (_, play) in WAYS.items() if play is not alone])
def test_the_feedback_agent_s_last_info_holds_the_whole_game(way: str) -> None:
    make, play = WAYS[way]
    env = make()
    infos = [info for agent, _, info in play(env) if agent == FEEDBACK]
    assert infos[-1]["trajectory"] == env.unwrapped.trajectory()
    assert "trajectory" not in infos[0]


@pytest.mark.parametrize(
    ("env", "play"),
    [(WaltzSafetyChoiceEnv(), in_parallel), (WaltzSafetyChoiceAECEnv(), in_turns)],
    ids=["parallel", "AEC"],
)
def test_the_discrete_twin_keeps_to_the_same_rule(env: Any, play: Callable[..., Shown]) -> None:
    shown = list(play(env, NUMBERS))
    assert not any("trajectory" in info for agent, _, info in shown if agent == CONVERSATION)
    assert [info["trajectory"] for agent, _, info in shown if "trajectory" in info][-1] == env.trajectory()


@pytest.mark.parametrize(
    "make", [waltz_env.make, waltz_env.make_aec, WaltzSafetyChoiceEnv], ids=lambda make: make.__name__
)
def test_a_running_game_can_be_read_and_no_game_is_an_error(make: Callable[[], Any]) -> None:
    env = make()
    with pytest.raises(waltz_env.errors.UsageError, match=r"call reset\(\) first"):
        env.unwrapped.trajectory()
    env.reset(seed=0)
    assert env.unwrapped.trajectory().responses == ()
