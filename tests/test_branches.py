"""Trees of games: what is played once, what counts once, and what shares a baseline."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

import numpy as np
import pytest
import torch

from tests.games import BAD, BOMB, FINE, PROCESS, SAFE, UNSAFE, WordJudge, own_turn, trajectory
from tests.learners import toy_config
from tests.test_trainer import AHEAD, BOTH, CONFIG, apart, forget_after, metrics_of, run, weights
from tests.tiny_preset import RECIPE, Insistent, LongDraftsOnly
from waltz_env.algorithms import LoopConfig, SampleConfig, UpdateBatch
from waltz_env.algorithms.probes.games import SAID, KeywordJudge, TokenAgent
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.training.rollout_worker import RolloutWorker
from waltz_env.algorithms.training.samples import samples
from waltz_env.algorithms.update_batch import SampleFacts
from waltz_env.branches import Branches, games_at_equal_tokens, parse_branches, repeats
from waltz_env.errors import UnreadablePromptError, UsageError
from waltz_env.experiments.saved_run import claim, read_recipe
from waltz_env.feedback import format_feedback
from waltz_env.presets import with_algorithm, with_stages
from waltz_env.protocols import Agent
from waltz_env.records import read_games, write_games
from waltz_env.rewards import SETUP_A, RewardWeights
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.types import (
    AGENTS,
    CONVERSATION,
    FEEDBACK,
    Completion,
    Judgement,
    Kind,
    Labels,
    Observation,
    Prompt,
    Trajectory,
)

OVERREFUSE = Labels(False, True)


class Counted:
    """Says another text each time, of one token, so that a turn that is played twice is seen."""

    def __init__(self, *, approve_every: int = 0, bad_every: int = 2) -> None:
        self.batches: list[int] = []
        self.said = 0
        self.approve_every = approve_every
        self.bad_every = bad_every

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        self.batches.append(len(observations))
        return [self._say(each) for each in observations]

    def _say(self, observation: Observation) -> Completion:
        self.said += 1
        flags = SAFE if self.approve_every and self.said % self.approve_every == 0 else UNSAFE
        text = format_feedback(flags, f"advice {self.said}")
        if observation["agent"] == CONVERSATION:
            text = f"{FINE if self.said % self.bad_every else BAD} {own_turn(observation)} {self.said}"
        return Completion(text, "stop", (1,), (self.said,), (-0.5,))


class CountingJudge(WordJudge):
    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        self.asked.update(responses)
        return super().judge(prompts, responses)


def grow(branches: Branches, prompts: Sequence[Prompt] = (BOMB, PROCESS), **changes: Any) -> list[Trajectory]:
    return play(
        prompts, {CONVERSATION: Counted(), FEEDBACK: Counted()}, judge=WordJudge(), branches=branches, **changes
    )


@pytest.mark.parametrize("overlap_judge", [False, True])
def test_what_games_share_is_generated_and_judged_once_in_one_batch_per_phase(overlap_judge: bool) -> None:
    conversation, feedback, judge = Counted(), Counted(), CountingJudge()
    games = play(
        [BOMB, PROCESS],
        {CONVERSATION: conversation, FEEDBACK: feedback},
        judge=judge,
        branches=(2, 3, 2),
        overlap_judge=overlap_judge,
    )
    assert (conversation.batches, feedback.batches) == ([4, 24], [12])
    assert len(judge.asked) == judge.asked.total() == 28
    assert [game.branch for game in games] == [(d, k, m) for d in range(4) for k in range(3) for m in range(2)]
    assert [game.prompt for game in games] == [BOMB] * 12 + [PROCESS] * 12
    assert all(game.judged for game in games)
    assert len({(game.branch[:1], game.responses[0]) for game in games}) == 4
    assert len({(game.branch[:2], game.critiques[0]) for game in games}) == 12
    assert len({game.final for game in games}) == 24


def test_without_branches_games_are_what_they_were() -> None:
    assert grow((1, 1, 1)) == play([BOMB, PROCESS], {CONVERSATION: Counted(), FEEDBACK: Counted()}, judge=WordJudge())
    assert grow((3, 1, 1)) == grow((1, 1, 1), prompts=[BOMB] * 3 + [PROCESS] * 3)
    assert {game.branch for game in grow((3, 1, 1))} == {()}


def test_an_approved_draft_ends_its_game_which_stands_in_the_tree_as_often_as_if_it_had_gone_on() -> None:
    conversation, feedback = Counted(), Counted(approve_every=3)
    games = play([BOMB], {CONVERSATION: conversation, FEEDBACK: feedback}, judge=WordJudge(), branches=(1, 3, 2))
    assert (conversation.batches, feedback.batches) == ([1, 4], [3])
    assert [len(game.responses) for game in games] == [2, 2, 2, 2, 1, 1]
    assert replace(games[4], branch=()) == replace(games[5], branch=())


def test_where_all_critiques_approve_nothing_is_revised() -> None:
    conversation, feedback = Counted(), Counted(approve_every=1)
    games = play([BOMB], {CONVERSATION: conversation, FEEDBACK: feedback}, judge=WordJudge(), branches=(1, 4, 4))
    assert (conversation.batches, feedback.batches, len(games)) == ([1], [4], 16)
    assert len(take(games, FEEDBACK, (1, 4, 4))) == 4
    assert len(take(games, CONVERSATION, (1, 4, 4))) == 1


def test_a_rule_may_end_games_at_the_draft() -> None:
    games = grow((2, 2, 2), rules=LongDraftsOnly(words=99))
    assert len(games) == 16
    assert {len(game.critiques) for game in games} == {0}
    assert len(take(games, CONVERSATION, (2, 2, 2))) == 4


def test_later_rounds_do_not_branch() -> None:
    conversation, feedback = Counted(), Counted()
    agents = {CONVERSATION: conversation, FEEDBACK: feedback}
    games = play([BOMB], agents, judge=WordJudge(), branches=(2, 2, 2), rules=Rules(max_rounds=2))
    assert (conversation.batches, feedback.batches) == ([2, 8, 8], [4, 8])
    assert Counter(row.turn for row in take(games, FEEDBACK, (2, 2, 2))) == {0: 4, 1: 8}
    assert Counter(row.turn for row in take(games, CONVERSATION, (2, 2, 2))) == {0: 2, 1: 8, 2: 8}


class CannotRead:
    """Reads no advice with an odd number."""

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        odd = [row for row, each in enumerate(observations) if each["feedback"] and int(each["feedback"][0][-1]) % 2]
        if odd:
            raise UnreadablePromptError("Too long.", kind="too_long", rows=odd, partial=())
        return [Completion(FINE) for _ in observations]


def test_games_that_cannot_be_read_are_left_out_of_their_tree(caplog: pytest.LogCaptureFixture) -> None:
    agents: dict[str, Agent] = {CONVERSATION: CannotRead(), FEEDBACK: Counted()}
    with caplog.at_level(logging.WARNING):
        games = play([BOMB], agents, judge=WordJudge(), branches=(1, 4, 2), exclude_unreadable=True)
    assert [game.branch for game in games] == [(0, 1, 0), (0, 1, 1), (0, 3, 0), (0, 3, 1)]
    assert "4 of 8 games are left out" in caplog.text


def test_a_file_keeps_which_turns_games_share(tmp_path: Path) -> None:
    games = grow((1, 2, 2))
    write_games(tmp_path / "games.jsonl", games)
    assert read_games(tmp_path / "games.jsonl") == games
    write_games(tmp_path / "alone.jsonl", grow((2, 1, 1)))
    assert not any("branch" in json.loads(line) for line in (tmp_path / "alone.jsonl").read_text().splitlines())


def test_trackers_show_a_game_that_ended_early_once() -> None:
    agents = {CONVERSATION: Counted(), FEEDBACK: Counted(approve_every=3)}
    games = play([BOMB], agents, branches=(1, 3, 2))
    assert [repeats(game) for game in games] == [False] * 5 + [True]
    drafts = grow((1, 2, 2), prompts=[BOMB], rules=LongDraftsOnly(words=99))
    assert [repeats(game) for game in drafts] == [False, True, True, True]


def take(
    games: Sequence[Trajectory],
    agent: str,
    branches: Branches,
    *,
    weights: RewardWeights = SETUP_A,
    group: str = "prompt",
    responses: str = "both",
) -> list[Sample]:
    config = SampleConfig(turns="all", group=group, responses=responses)  # type: ignore[arg-type]
    return samples(games, agent, weights=weights, rng=np.random.default_rng(0), config=config, branches=branches)


def leaf(*branch: int, verdicts: Sequence[Labels | None], flags: Labels = UNSAFE, prompt: Prompt = BOMB) -> Trajectory:
    flagged = [flags] * (1 if len(verdicts) > 1 or flags == SAFE else 0)
    return replace(trajectory(verdicts, flagged, prompt, tokens=True), branch=branch)


def test_a_critique_is_one_row_paid_the_mean_over_its_revisions_and_a_draft_is_paid_for_itself() -> None:
    """Set-up A: right flags .25, format .1, improvement .65 if the flags are right: 1, .35, .35 and .35 - .65 / 3."""
    fixed, failed = leaf(0, 0, 0, verdicts=[UNSAFE, SAFE]), leaf(0, 0, 1, verdicts=[UNSAFE, UNSAFE])
    games = [fixed, failed, replace(failed, branch=(0, 0, 2)), leaf(1, 0, 0, verdicts=[SAFE], flags=SAFE)]
    first, second = take(games, FEEDBACK, (2, 1, 3))
    assert first.reward == pytest.approx((1 + 0.35 + 0.35) / 3)
    assert second.reward == pytest.approx(0.35)
    rows = take(games, CONVERSATION, (2, 1, 3))
    assert [(row.turn, row.reward) for row in rows] == [(0, 0.0), (1, 1.0), (1, 0.0), (1, 0.0), (0, 1.0)]


def test_revisions_without_a_verdict_are_left_out_of_the_mean_and_of_nothing_else() -> None:
    games = [leaf(0, 0, 0, verdicts=[UNSAFE, None]), leaf(0, 0, 1, verdicts=[UNSAFE, SAFE])]
    (row,) = take(games, FEEDBACK, (1, 1, 2))
    assert row.reward == pytest.approx(1.0)
    assert [row.turn for row in take(games, CONVERSATION, (1, 1, 2))] == [0, 1]
    assert take([leaf(0, 0, 0, verdicts=[None, SAFE])], FEEDBACK, (1, 1, 2)) == []


@pytest.mark.parametrize(("responses", "turns"), [("drafts", {0: 2}), ("revisions", {1: 8}), ("both", {0: 2, 1: 8})])
def test_a_shared_draft_is_one_row_whichever_responses_are_learned_from(responses: str, turns: dict[int, int]) -> None:
    rows = take(grow((1, 2, 2)), CONVERSATION, (1, 2, 2), responses=responses)
    assert Counter(row.turn for row in rows) == turns


def groups(rows: Sequence[Sample], turn: int) -> list[int]:
    return sorted(Counter(row.group for row in rows if row.turn == turn).values())


@pytest.mark.parametrize(
    ("branches", "group", "drafts", "critiques", "revisions"),
    [
        ((2, 3, 2), "prompt", [2, 2], [3] * 4, [2] * 12),
        ((2, 3, 2), "labels", [2, 2], [3] * 4, [2] * 12),
        ((1, 4, 1), "prompt", [1, 1], [4, 4], [4, 4]),
        ((1, 4, 1), "labels", [2], [4, 4], [4, 4]),  # one bad draft and one good one
        ((1, 1, 3), "prompt", [1, 1], [1, 1], [3, 3]),
        ((4, 1, 1), "prompt", [4, 4], [4, 4], [4, 4]),
    ],
)
def test_a_turn_that_branches_is_compared_where_its_agent_had_seen_the_same(
    branches: Branches, group: str, drafts: list[int], critiques: list[int], revisions: list[int]
) -> None:
    games = grow(branches)
    of_conversation = take(games, CONVERSATION, branches, group=group)
    assert groups(of_conversation, 0) == drafts
    assert groups(take(games, FEEDBACK, branches, group=group), 0) == critiques
    assert groups(of_conversation, 1) == revisions


def test_equal_texts_are_the_same_state_and_what_an_agent_cannot_see_is_not_part_of_it() -> None:
    """Two equal drafts: their critiques compare with each other. Reasoning and flags stay hidden from a revision."""
    games = [leaf(d, k, 0, verdicts=[UNSAFE, SAFE], flags=UNSAFE if k else OVERREFUSE) for d in (0, 1) for k in (0, 1)]
    assert groups(take(games, FEEDBACK, (2, 2, 1)), 0) == [4]
    doubled = [replace(game, branch=(*game.branch[:2], m)) for game in games for m in (0, 1)]
    assert groups(take(doubled, CONVERSATION, (2, 2, 2)), 1) == [8]
    other = replace(BOMB, history=({"role": "user", "content": "Hello."},))
    asked_before = [leaf(2, k, 0, verdicts=[UNSAFE, SAFE], prompt=other) for k in (0, 1)]
    assert groups(take([*games, *asked_before], FEEDBACK, (2, 2, 1)), 0) == [2, 4]


PROBED = Labels(unsafe=True, overrefuse=False)
KEEP, STOP = (SAID.index(format_feedback(PROBED, advice)) for advice in ("help", "refuse"))


def probe_agents(seed: int) -> dict[str, TokenAgent]:
    """Drafts help or refuse, critiques advise to help or to refuse, all evenly; advice is followed 3 times in 4."""
    start, advised, shown = len(SAID), len(SAID) + 1, len(SAID) + 4
    table = torch.full((shown + 6, shown + 6), -math.inf)
    table[start, :2] = 0.0
    table[advised:shown, :2] = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [0.0, math.log(3)]])
    table[shown:, [KEEP, STOP]] = 0.0
    return {name: TokenAgent(ToyPolicy(table), seed=seed + i) for i, name in enumerate(AGENTS)}


@pytest.mark.parametrize(("branches", "of_384"), [((4, 1, 1), 15), ((2, 2, 1), 9.5), ((1, 4, 1), 7), ((1, 4, 2), 4)])
def test_the_variance_of_the_gradient_falls_as_computed_by_hand(branches: Branches, of_384: float) -> None:
    """A harmful prompt, four critiques, RLOO; a critique is paid R_c of its revision minus R_c of its draft.

    What a critique can win depends on its draft: b = -R_c(c_0) is 0 or -1 with variance 1/4. Its score s (of the logit
    of STOP) is 1/2 or -1/2, and R = b + s/2 + e with a constant left out: e is the luck of the revision, of variance
    3/16 over m. RLOO's estimate from a group of n is the sample covariance of s and R, so its mean is Var(s)/2 = 1/8
    for all branches, and its variance is Var(S_ss)/4 + Var(b) Var(s)/(n - 1) + Var(e) Var(s)/(n - 1), where Var(S_ss)
    is 1/96 for n = 4 and 1/16 for n = 2. For groups of n = 4 this is (1 + 8 + 6/m)/384; critiques of one draft have
    no term 8. With (2, 2, 1) two equal drafts make one group of 4, 7/384; otherwise there are two of n = 2 without b,
    (6 + 18)/384 each, and their mean has 12/384.
    """
    prompts = [Prompt("attack", Kind.HARMFUL, id=str(i)) for i in range(1000)]
    games = play(prompts, probe_agents(seed=7), judge=KeywordJudge(), branches=branches)
    rows = take(games, FEEDBACK, branches, weights=RewardWeights(1.0, 0.0, 0.0, gated=False))
    assert len(rows) == 4 * len(prompts)
    facts = [SampleFacts.of(row) for row in rows]
    logprobs = torch.tensor([row.logprobs for row in rows])
    batch = UpdateBatch(facts, facts, torch.ones(len(rows), 1, dtype=torch.bool), logprobs)
    advantages = toy_config("rloo", beta=0.0).estimator().advantages(batch).squeeze(1)
    scores = torch.tensor([float(row.token_ids[0] == STOP) - 0.5 for row in rows])
    estimates = (advantages * scores).reshape(-1, 4).mean(1).tolist()
    assert fmean(estimates) == pytest.approx(1 / 8, abs=0.015)
    assert 384 * pvariance(estimates) == pytest.approx(of_384, rel=0.15)


def test_branches_that_make_no_sense_are_refused_before_anything_is_played() -> None:
    agents = {CONVERSATION: Counted(), FEEDBACK: Counted()}
    with pytest.raises(UsageError, match=r"repeat critiques or revisions, and rules with max_rounds=0 allow none"):
        play([BOMB], agents, branches=(2, 2, 1), rules=Rules(max_rounds=0))
    with pytest.raises(UsageError, match="number of critiques must be 1 or more; got 0"):
        play([BOMB], agents, branches=(1, 0, 1))
    with pytest.raises(UsageError, match=r"games \(32\) must be a multiple of 12: .* 2 x 3 x 2 games of each prompt"):
        LoopConfig(branches=(2, 3, 2), samples=SampleConfig(turns="all"))
    with pytest.raises(UsageError, match=r"turns='one' draws one turn .* \(--loop.samples.turns all\)"):
        LoopConfig(branches=(1, 2, 1))
    for text in ("1,2", "1,2,x", "0,1,1", ""):
        with pytest.raises(UsageError, match="branches"):
            parse_branches(text)
    single = with_stages(replace(RECIPE, loop=replace(RECIPE.loop, branches=(1, 2, 1))), rules=Rules(max_rounds=0))
    with pytest.raises(UsageError, match="max_rounds=0 allow none"):
        single.check()


def test_a_baseline_by_group_needs_something_to_compare() -> None:
    recipe = with_algorithm(RECIPE, "grpo")
    for branches, lone in (((1, 1, 1), FEEDBACK), ((1, 1, 4), FEEDBACK), ((1, 4, 1), CONVERSATION)):
        with pytest.raises(UsageError, match=f"the learner of {lone} in .* nothing to be compared with"):
            replace(recipe, loop=replace(RECIPE.loop, branches=branches)).check()
    for branches in ((4, 1, 1), (2, 2, 1), (2, 1, 2)):
        replace(recipe, loop=replace(RECIPE.loop, branches=branches)).check()


TREE = replace(CONFIG, games=16, branches=(2, 2, 2))
TREE_STAGE = replace(BOTH, steps=2, rules=Insistent())


def test_training_on_trees_learns_from_each_turn_once_and_counts_its_tokens_once(tmp_path: Path) -> None:
    run(tmp_path, [replace(TREE_STAGE, steps=1)], config=TREE)
    games = read_games(RunFolder(tmp_path).games_of_step(1))
    assert sorted(game.branch for game in games) == [(d, k, m) for d in range(4) for k in (0, 1) for m in (0, 1)]
    (line,) = metrics_of(tmp_path)
    assert (line["conversation_0/rows"], line["feedback_0/rows"]) == (4 + 16, 8)
    for agent in AGENTS:
        sampled = line[f"{agent}/act_seconds"] * line[f"{agent}/act_tokens_per_second"]
        assert sampled == pytest.approx(line[f"{agent}/tokens"])


def test_drafts_are_counted_over_all_processes_as_they_were_dealt_out() -> None:
    drafts = []
    for process in (0, 1):
        agents = {CONVERSATION: Counted(), FEEDBACK: Counted()}
        with RolloutWorker(agents, WordJudge(), branches=(1, 2, 1), process=(process, 2)) as worker:
            games = worker.step(lambda: [BOMB, PROCESS], rules=Rules(), last=True).games
        drafts.append([game.branch[0] for game in games])
    assert drafts == [[0, 0, 2, 2], [1, 1, 3, 3]]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_training_on_trees_continues_bit_for_bit(tmp_path: Path, is_ahead: bool) -> None:
    config = replace(AHEAD if is_ahead else CONFIG, games=8, branches=(2, 2, 2))
    whole = run(tmp_path / "whole", [TREE_STAGE], apart(), config=config)
    run(tmp_path / "parts", [TREE_STAGE], apart(), config=config)
    forget_after(tmp_path / "parts", 1)
    continued = run(tmp_path / "parts", [TREE_STAGE], apart(), resume=True, config=config)
    for name in whole:
        assert torch.equal(weights(whole[name].policy), weights(continued[name].policy))
    last = [RunFolder(tmp_path / name).games_of_step(2).read_bytes() for name in ("whole", "parts")]
    assert last[0] == last[1]


def test_a_run_of_an_earlier_version_is_read_with_its_games_per_prompt(tmp_path: Path) -> None:
    claim(RunFolder(tmp_path), RECIPE)
    config = json.loads((tmp_path / "config.json").read_text())
    (config["loop"]["games_per_prompt"], _, _) = config["loop"].pop("branches")
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_recipe(RunFolder(tmp_path)) == RECIPE


def test_games_for_equal_tokens_follow_from_what_turns_cost() -> None:
    """Mean tokens: draft 2, critique 3, revision 1 (half of the games have one, of 2). 8 trees cost 8 * 6 = 48."""

    def said(game: Trajectory, *tokens: int) -> Trajectory:
        draft, *revised = (
            replace(each, completion=replace(each.completion, token_ids=(0,) * count))
            for each, count in zip(game.responses, tokens[::2], strict=True)
        )
        (critique,) = game.critiques
        critiques = (replace(critique, completion=replace(critique.completion, token_ids=(0,) * tokens[1])),)
        return replace(game, responses=(draft, *revised), critiques=critiques)

    games = [
        said(trajectory([UNSAFE, SAFE], [UNSAFE], tokens=True), 1, 2, 2),
        said(trajectory([SAFE], [SAFE], tokens=True), 3, 4),
    ]
    expected = {(1, 1, 1): 8, (4, 1, 1): 8, (1, 4, 1): 12, (2, 2, 1): 8, (1, 2, 2): 16, (9, 9, 9): 729}
    # 48 / 6 = 8; 48 / 24 = 2; 48 / 18 = 2.67; 48 / 20 = 2.4; 48 / 12 = 4; less than one tree is one tree
    assert {
        branches: games_at_equal_tokens(games, count=8, played=(1, 1, 1), branches=branches) for branches in expected
    } == expected
    with pytest.raises(UsageError, match="nobody knows how many tokens"):
        games_at_equal_tokens([trajectory([SAFE])], count=8, played=(1, 1, 1), branches=(1, 2, 1))
