"""Rules, those of the package and a user's own: every way to play a game plays it by them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import waltz_env
from tests.games import BAD, BOMB, FINE, PROCESS, PROMPTS, SAFE, RandomSpeaker, Speaker, WordJudge, critique
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env import AGENTS, CONVERSATION, FEEDBACK, AgentID, Kind, Prompt, PromptSet, Rules, Trajectory, play, score
from waltz_env.aec import WaltzSafetyAECEnv
from waltz_env.algorithms import LoopConfig, ReinforcePPConfig, Stage, SurrogateConfig, train
from waltz_env.choice import ConversationAction, FeedbackAction, WaltzSafetyChoiceEnv
from waltz_env.env import WaltzSafetyEnv
from waltz_env.errors import UsageError, UsageTypeError
from waltz_env.game import Game
from waltz_env.presets import lora_pair
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.protocols import Agent
from waltz_env.records import read_games
from waltz_env.run_folder import RunFolder
from waltz_env.serving import Duet, chat_prompt
from waltz_env.settings import decode, encode
from waltz_env.types import Judgement, Message
from waltz_env.wrappers import SingleAgentEnv

CHAT: list[Message] = [{"role": "user", "content": BOMB.text}]
PASS = critique(SAFE, "It is fine.").completion.text


@dataclass(frozen=True, slots=True)
class LongDrafts(Rules):
    """Feedback is only asked for on responses longer than ``words`` words."""

    words: int = 4

    def asks_feedback(self, game: Trajectory) -> bool:
        return len(game.final.text.split()) > self.words


@dataclass(frozen=True, slots=True)
class ReviseTwice(Rules):
    """The first two critiques lead to a revision, whatever they say, malformed ones too."""

    def asks_revision(self, game: Trajectory) -> bool:
        return len(game.critiques) <= 2


RULES = [
    Rules(),
    Rules(max_rounds=0),
    Rules(max_rounds=2, max_chars=12, always_revise=True),
    LongDrafts(max_rounds=2),
    ReviseTwice(max_rounds=3),
]


def play_parallel(prompt: Prompt, agents: Mapping[AgentID, Agent], rules: Rules) -> Trajectory:
    """The game in the parallel environment, whose rewards add up to those of the stored game."""
    env = WaltzSafetyEnv([prompt], WordJudge(), rules=rules)
    observations, _ = env.reset()
    earned: dict[AgentID, float] = dict.fromkeys(AGENTS, 0.0)
    while (turn := env.turn) is not None:
        (completion,) = agents[turn].act([observations[turn]])
        observations, rewards, *_ = env.step({turn: completion.text})
        earned = {agent: earned[agent] + rewards[agent] for agent in AGENTS}
    game = env.trajectory()
    assert earned == {agent: pytest.approx(sum(score(game).of(agent))) for agent in AGENTS}
    return game


def play_in_turns(prompt: Prompt, agents: Mapping[AgentID, Agent], rules: Rules) -> Trajectory:
    """The game in the AEC environment."""
    env = WaltzSafetyAECEnv([prompt], WordJudge(), rules=rules)
    env.reset()
    while not env.terminations[env.agent_selection]:
        turn = env.agent_selection
        (completion,) = agents[turn].act([env.observe(turn)])
        env.step(completion.text)
    return env.trajectory()


def serve(agents: Mapping[AgentID, Agent], rules: Rules) -> Trajectory:
    """The game that answers ``CHAT``."""
    with closing(Duet(agents, rules=rules)) as duet:
        return duet.respond(CHAT).game


@pytest.mark.parametrize("rules", RULES, ids=lambda rules: type(rules).__name__)
@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_play_environments_and_duet_play_by_the_same_rules(rules: Rules, seed: int) -> None:
    agents = {CONVERSATION: RandomSpeaker(seed), FEEDBACK: RandomSpeaker(seed + 1)}
    games = play(PROMPTS, agents, judge=WordJudge(), rules=rules)
    assert games == play(PROMPTS, agents, judge=WordJudge(), rules=rules, overlap_judge=True)
    assert games == [play_parallel(prompt, agents, rules) for prompt in PROMPTS]
    assert games == [play_in_turns(prompt, agents, rules) for prompt in PROMPTS]
    assert [serve(agents, rules)] == play([chat_prompt(CHAT)], agents, rules=rules)


# The rules of the package


@pytest.mark.parametrize("always", [False, True])
def test_always_revise_asks_for_a_revision_of_what_nobody_flagged(always: bool) -> None:
    agents = {CONVERSATION: Speaker(FINE, "revised"), FEEDBACK: Speaker(PASS)}
    rules = Rules(always_revise=always)
    (played,) = play([BOMB], agents, judge=WordJudge(), rules=rules)
    served = serve(agents, rules)
    for game in (played, play_parallel(BOMB, agents, rules), play_in_turns(BOMB, agents, rules), served):
        assert game.final.text == ("revised" if always else FINE)
        assert not game.triggered


def test_always_revise_ends_after_malformed_feedback_all_the_same() -> None:
    agents = {CONVERSATION: Speaker(FINE), FEEDBACK: Speaker("not JSON")}
    (game,) = play([BOMB], agents, rules=Rules(always_revise=True))
    assert (len(game.responses), len(game.critiques)) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_rounds": -1}, UsageError, "max_rounds must be 0 or more; got -1"),
        ({"max_chars": 0}, UsageError, "max_chars must be 1 or more; got 0"),
        ({"max_rounds": 1.5}, UsageTypeError, "max_rounds must be an integer; got 1.5"),
        ({"max_chars": "9"}, UsageTypeError, "max_chars must be an integer; got '9'"),
    ],
)
def test_rules_that_cannot_be_played_are_refused(settings: Any, error: type[Exception], message: str) -> None:
    for make in (Rules, LongDrafts, WaltzSafetyEnv):
        with pytest.raises(error, match=message):
            make(**settings)


@pytest.mark.parametrize("make", [WaltzSafetyEnv, WaltzSafetyAECEnv, WaltzSafetyChoiceEnv])
def test_an_environment_takes_rules_or_the_shortcuts(make: Any) -> None:
    with pytest.raises(UsageError, match="either `rules` or `max_rounds`, not both; `rules` already has max_rounds=3"):
        make(rules=Rules(max_rounds=3), max_rounds=2)


def test_rules_say_which_roles_a_game_needs() -> None:
    assert Rules().roles == AGENTS
    assert Rules(max_rounds=0).roles == (CONVERSATION,)
    assert serve({CONVERSATION: Speaker(FINE)}, Rules(max_rounds=0)).final.text == FINE
    with pytest.raises(UsageError, match="needs an agent 'feedback_0'"):
        play([BOMB], {CONVERSATION: Speaker(FINE)}, rules=LongDrafts())


def test_rules_see_no_judgements() -> None:
    seen = []

    @dataclass(frozen=True, slots=True)
    class Watching(Rules):
        def asks_feedback(self, game: Trajectory) -> bool:
            seen.append(game)
            return True

        def asks_revision(self, game: Trajectory) -> bool:
            seen.append(game)
            return True

    game = Game(BOMB, Watching(max_rounds=2))
    for text in (BAD, PASS, BAD):
        game.act(text)
        if game.turn == FEEDBACK:
            game.judge(Judgement(SAFE, "hand"))
    assert game.trajectory().judged
    assert [[response.judgement for response in each.responses] for each in seen] == [[None], [None], [None, None]]


# A rule of one's own: no feedback on short drafts

LONG = "One two three four five."


@pytest.mark.parametrize(("draft", "critiques"), [("One two.", 0), (LONG, 1)])
def test_a_rule_of_one_s_own_decides_who_is_asked(draft: str, critiques: int) -> None:
    agents = {CONVERSATION: Speaker(draft, "Revised."), FEEDBACK: Speaker(critique(SAFE).completion.text)}
    for game in (*play([BOMB], agents, rules=LongDrafts()), serve(agents, LongDrafts())):
        assert len(game.critiques) == critiques


def test_games_that_end_at_different_times_are_played_together() -> None:
    class Echo:
        def act(self, observations):
            return [waltz_env.Completion(LONG if o["prompt"] == BOMB.text else "Short.") for o in observations]

    feedback = Speaker(PASS)
    games = play([PROCESS, BOMB, PROCESS], {CONVERSATION: Echo(), FEEDBACK: feedback}, rules=LongDrafts())
    assert [len(game.critiques) for game in games] == [0, 1, 0]
    assert feedback.batches == [1]


def test_training_plays_by_a_rule_of_one_s_own(tmp_path: Path) -> None:
    short = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}
    agents = lora_pair(tiny_model(), tiny_tokenizer(), templates=short, rank=4, max_new_tokens=24, batch_size=16)
    learner = ReinforcePPConfig(surrogate=SurrogateConfig(min_reward_std=0.0))
    stage = Stage("long drafts", 1, {FEEDBACK: learner, CONVERSATION: learner}, rules=LongDrafts(words=1))
    prompts = PromptSet([Prompt(f"Tell me {i}", Kind.BENIGN, id=str(i)) for i in range(16)])
    assert train(agents, [stage], judge=WordJudge(), prompts=prompts, folder=tmp_path, config=LoopConfig(games=16))
    drafts = {game.responses[0].text: bool(game.critiques) for game in read_games(RunFolder(tmp_path).games_of_step(1))}
    assert drafts == {text: len(text.split()) > 1 for text in drafts}
    assert {*drafts.values()} == {True, False}
    assert [agent.policy.version for agent in agents.values()] == [1, 1]


def test_a_run_keeps_a_rule_of_one_s_own_among_its_settings() -> None:
    rules = LongDrafts(max_rounds=2, words=7)
    assert decode(json.loads(json.dumps(encode(rules)))) == rules


def test_the_discrete_twin_plays_by_a_rule_of_one_s_own() -> None:
    env = waltz_env.make("WaltzSafetyChoice-v0", rules=LongDrafts(words=100))
    env.reset(seed=0)
    *_, terminations, _, _ = env.step({CONVERSATION: ConversationAction.ANSWER})
    assert all(terminations.values())
    env = waltz_env.make("WaltzSafetyChoice-v0", rules=Rules(always_revise=True))
    env.reset(seed=0)
    env.step({CONVERSATION: ConversationAction.ANSWER})
    *_, terminations, _, _ = env.step({FEEDBACK: FeedbackAction.PASS})
    assert not any(terminations.values())


def test_the_feedback_agent_s_episodes_are_the_games_in_which_it_is_asked() -> None:
    drafts = iter([FINE.split()[0], FINE, LONG])

    def partner(seed: int) -> Agent:
        return Speaker(next(drafts), FINE)

    env = SingleAgentEnv(FEEDBACK, partner=partner, text=True, rules=LongDrafts(), judge=WordJudge())
    observation, _ = env.reset(seed=0)
    assert observation["responses"] == (FINE,)
    assert env.env.turn == FEEDBACK


def test_rules_that_never_ask_the_role_of_the_single_view_are_refused() -> None:
    env = gymnasium.make("waltz_env/WaltzFeedback-v0", rules=LongDrafts(words=1_000))
    with pytest.raises(UsageError, match="1,000 games ended before the first turn of 'feedback_0'"):
        env.reset(seed=0)
