"""The training loop on a tiny real model: what it leaves behind, who learns, exact continuation, stopping."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch

from tests.games import WordJudge
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env import (
    CONVERSATION,
    FEEDBACK,
    CheckpointError,
    JudgeError,
    Judgement,
    Kind,
    NoVerdict,
    Prompt,
    PromptSet,
    UsageError,
)
from waltz_env.agents import LanguageModelPolicy, NeverFlag, TransformersAgent
from waltz_env.algorithms import (
    LoopConfig,
    ReinforcePPConfig,
    SampleConfig,
    Stage,
    StepReport,
    SurrogateConfig,
    play_held_out,
    single_model_stage,
    train,
    with_settings,
)
from waltz_env.errors import DivergedError
from waltz_env.presets import lora_pair
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.records import read_games
from waltz_env.rewards import SETUP_A, SETUP_B, RewardWeights
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.types import Trajectory

LEARNER = ReinforcePPConfig(surrogate=SurrogateConfig(learning_rate=1e-2, min_reward_std=0.0))
BOTH = Stage("both", 4, {CONVERSATION: LEARNER, FEEDBACK: LEARNER}, SETUP_B)
FEEDBACK_ONLY = Stage("feedback", 2, {FEEDBACK: LEARNER}, SETUP_A)
CONFIG = LoopConfig(games=4, samples=SampleConfig(turns="all"), save_every=1, keep_checkpoints=10)
PROMPTS = PromptSet([Prompt(f"Tell me {i}", Kind.HARMFUL if i % 2 else Kind.BENIGN, id=str(i)) for i in range(6)])


SHORT = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}


Pair = dict[str, TransformersAgent]


def pair() -> Pair:
    return lora_pair(tiny_model(), tiny_tokenizer(), templates=SHORT, rank=4, max_new_tokens=6, batch_size=4, seed=3)


def run(folder: Path, stages: list[Stage], agents: Pair | None = None, *, resume: bool = False, **changes: Any) -> Pair:
    agents = agents or pair()
    arguments: dict[str, Any] = {"judge": WordJudge(), "prompts": PROMPTS, "config": CONFIG} | changes
    assert train(agents, stages, folder=folder, seed=5, resume=resume, **arguments)
    return agents


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return RunFolder(folder).read_metrics()


def weights(policy: LanguageModelPolicy) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in policy.state_dict().values()]).clone()


def test_only_the_agents_that_a_stage_names_learn(tmp_path: Path) -> None:
    a = pair()
    before = {name: weights(agent.policy) for name, agent in a.items()}
    run(tmp_path, [FEEDBACK_ONLY], a)
    assert torch.equal(weights(a[CONVERSATION].policy), before[CONVERSATION])
    assert not torch.equal(weights(a[FEEDBACK].policy), before[FEEDBACK])
    assert (a[CONVERSATION].policy.version, a[FEEDBACK].policy.version) == (0, 2)


def test_a_run_leaves_one_line_of_metrics_and_one_file_of_games_a_step(tmp_path: Path) -> None:
    run(tmp_path, [FEEDBACK_ONLY, replace(BOTH, steps=1)])
    lines = metrics_of(tmp_path)
    assert [(line["step"], line["stage"]) for line in lines] == [(1, "feedback"), (2, "feedback"), (3, "both")]
    assert sorted(path.name for path in (tmp_path / "games" / "training").iterdir()) == [
        f"step-0000{i}.jsonl" for i in (1, 2, 3)
    ]
    assert len(read_games(RunFolder(tmp_path).games_of_step(3))) == 4
    expected = {"games/r_c", "games/r_c_first", "games/format_rate", "reward/feedback", "reward/improvement"}
    for agent in (CONVERSATION, FEEDBACK):
        figures = ("kl", "entropy", "ratio_mean", "grad_norm", "act_tokens_per_second", "update_tokens_per_second")
        expected |= {f"{agent}/{name}" for name in figures}
    assert expected <= lines[-1].keys()
    assert any((tmp_path / "tensorboard").iterdir())


def test_first_step_is_on_policy_with_ratio_one_and_no_divergence(tmp_path: Path) -> None:
    run(tmp_path, [replace(BOTH, steps=1)])
    (line,) = metrics_of(tmp_path)
    for agent in (CONVERSATION, FEEDBACK):
        assert line[f"{agent}/ratio_mean"] == pytest.approx(1.0, abs=1e-4)
        assert line[f"{agent}/ratio_max"] == pytest.approx(1.0, abs=1e-3)
        assert line[f"{agent}/kl"] == pytest.approx(0.0, abs=1e-5)
        assert line[f"{agent}/staleness"] == 0


def forget_after(folder: Path, step: int) -> None:
    """Remove the checkpoints after ``step``, as if the run had been interrupted there."""
    for path in (folder / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


@pytest.mark.parametrize("steps_before", [1, 2, 3, 5])
def test_interrupted_training_continues_bit_for_bit(tmp_path: Path, steps_before: int) -> None:
    stages = [FEEDBACK_ONLY, BOTH]
    whole = run(tmp_path / "whole", stages)
    run(tmp_path / "parts", stages)
    forget_after(tmp_path / "parts", steps_before)
    continued = run(tmp_path / "parts", stages, resume=True)
    for name in whole:
        assert torch.equal(weights(whole[name].policy), weights(continued[name].policy))
        assert whole[name].policy.version == continued[name].policy.version
        assert torch.equal(whole[name].state_dict()["generator"], continued[name].state_dict()["generator"])
    assert _without_times(tmp_path / "whole") == _without_times(tmp_path / "parts")
    for path in RunFolder(tmp_path / "whole").training_games.iterdir():
        assert path.read_bytes() == (RunFolder(tmp_path / "parts").training_games / path.name).read_bytes()


def _without_times(folder: Path) -> list[dict[str, object]]:
    return [{name: value for name, value in line.items() if "second" not in str(name)} for line in metrics_of(folder)]


def test_training_that_is_told_to_stop_saves_after_the_step_and_goes_on_from_there(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", [BOTH])
    arguments: dict[str, Any] = {
        "prompts": PROMPTS,
        "judge": WordJudge(),
        "folder": tmp_path / "parts",
        "seed": 5,
        "config": replace(CONFIG, save_every=100),
    }
    answers = iter([False, True])
    assert not train(pair(), [BOTH], should_stop=lambda: next(answers), **arguments)
    assert [line["step"] for line in metrics_of(tmp_path / "parts")] == [1, 2]

    continued = pair()
    assert train(continued, [BOTH], resume=True, **arguments)
    assert torch.equal(weights(whole[FEEDBACK].policy), weights(continued[FEEDBACK].policy))


def test_training_works_in_a_thread_and_gives_the_same_weights(tmp_path: Path) -> None:
    stage = replace(BOTH, steps=1)
    main = run(tmp_path / "main", [stage])
    with ThreadPoolExecutor(1) as thread:
        other = thread.submit(run, tmp_path / "thread", [stage]).result()
    assert torch.equal(weights(main[CONVERSATION].policy), weights(other[CONVERSATION].policy))


def test_the_hooks_hear_of_every_step(tmp_path: Path) -> None:
    class Notebook:
        """A logger that remembers what it is told."""

        def __init__(self) -> None:
            self.said: list[tuple[str, int]] = []

        def begin(self, step: int) -> None:
            self.said.append(("begin", step))

        def games(self, step: int, games: Sequence[Trajectory], *, weights: RewardWeights) -> None:
            assert weights == {1: SETUP_A, 2: SETUP_B}[step]
            self.said.append((f"{len(games)} games", step))

        def metrics(self, step: int, stage: str, values: Mapping[str, float]) -> None:
            assert values["games/r_c"] >= 0
            self.said.append((stage, step))

        def close(self) -> None:
            self.said.append(("close", 0))

    loggers = [Notebook(), Notebook()]
    reports: list[StepReport] = []
    stages = [replace(FEEDBACK_ONLY, steps=1), replace(BOTH, steps=1)]
    run(tmp_path, stages, loggers=loggers, progress=reports.append)
    said = [("begin", 0), ("4 games", 1), ("feedback", 1), ("4 games", 2), ("both", 2), ("close", 0)]
    assert [logger.said for logger in loggers] == [said, said]
    assert [(report.stage.name, report.step_in_stage, report.step) for report in reports] == [
        ("feedback", 0, 0),
        ("feedback", 1, 1),
        ("both", 0, 1),
        ("both", 1, 2),
    ]
    assert [bool(report.metrics) for report in reports] == [False, True, False, True]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]  # loggers of one's own replace the files


def test_a_stage_without_steps_is_skipped(tmp_path: Path) -> None:
    reports: list[StepReport] = []
    run(tmp_path, [replace(FEEDBACK_ONLY, steps=0), replace(BOTH, steps=1)], progress=reports.append)
    assert {report.stage.name for report in reports} == {"both"}


def test_a_rule_of_ones_own_holds_in_training(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class FirstPromptsOnly(Rules):
        def asks_feedback(self, game: Trajectory) -> bool:
            return game.prompt.id in ("0", "1", "2")

    run(tmp_path, [replace(BOTH, steps=2, rules=FirstPromptsOnly())])
    games = [game for step in (1, 2) for game in read_games(RunFolder(tmp_path).games_of_step(step))]
    assert {bool(game.critiques): game.prompt.id in ("0", "1", "2") for game in games} == {True: True, False: False}


def test_evaluation_during_training_changes_nothing_else(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", [BOTH])
    config = replace(CONFIG, evaluate_every=2)
    watched = run(tmp_path / "watched", [BOTH], config=config, validation=PROMPTS)
    assert torch.equal(weights(plain[CONVERSATION].policy), weights(watched[CONVERSATION].policy))
    steps = [line["step"] for line in metrics_of(tmp_path / "watched") if "validation/asr" in line]
    assert steps == [2, 4]


def test_held_out_games_put_the_random_state_back() -> None:
    a = pair()
    before = a[CONVERSATION].state_dict()["generator"].clone()
    first = play_held_out(PROMPTS, a, judge=WordJudge())
    assert torch.equal(a[CONVERSATION].state_dict()["generator"], before)
    assert play_held_out(PROMPTS, a, judge=WordJudge()) == first


def test_single_model_training_plays_no_feedback(tmp_path: Path) -> None:
    run(tmp_path, [single_model_stage(LEARNER, steps=1)])
    games = read_games(RunFolder(tmp_path).games_of_step(1))
    assert all(len(game.responses) == 1 and not game.critiques for game in games)


def test_several_games_on_one_prompt_share_a_step(tmp_path: Path) -> None:
    run(tmp_path, [replace(FEEDBACK_ONLY, steps=1)], config=replace(CONFIG, games=4, branches=(2, 1, 1)))
    ids = [game.prompt.id for game in read_games(RunFolder(tmp_path).games_of_step(1))]
    assert len(ids) == 4
    assert len(set(ids)) == 2


def test_games_without_a_verdict_are_counted_and_left_out(tmp_path: Path) -> None:
    class HalfBlindJudge(WordJudge):
        def judge(self, prompts, responses):
            verdicts = super().judge(prompts, responses)
            return [NoVerdict("Unclear.") if p.harmful else v for p, v in zip(prompts, verdicts, strict=True)]

    run(tmp_path, [replace(FEEDBACK_ONLY, steps=1)], judge=HalfBlindJudge())
    (line,) = metrics_of(tmp_path)
    harmful = np.mean([game.prompt.harmful for game in read_games(RunFolder(tmp_path).games_of_step(1))])
    assert line["games/judge_error_rate"] == pytest.approx(harmful)
    assert 0 < harmful < 1


def test_a_judge_that_never_answers_ends_the_run_with_its_error(tmp_path: Path) -> None:
    class BlindJudge:
        def judge(self, prompts, responses):
            raise JudgeError("down")

    with pytest.raises(JudgeError, match="all 4 games of step 1: down"):
        run(tmp_path, [BOTH], judge=BlindJudge())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_model_ends_the_run_with_the_step_and_the_newest_checkpoint(value: float, tmp_path: Path) -> None:
    agents = pair()

    class Spoiler(WordJudge):
        """Spoils the frozen conversation agent while it judges the second step."""

        calls = 0

        def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
            self.calls += 1
            if self.calls == 2:
                with torch.no_grad():
                    agents[CONVERSATION].policy.parameters()[-1].fill_(value)
            return super().judge(prompts, responses)

    with pytest.raises(
        DivergedError, match=r"^Step 3: LlamaForCausalLM .* The newest good checkpoint is .*step-00001\.$"
    ):
        run(tmp_path, [replace(FEEDBACK_ONLY, steps=4)], agents, judge=Spoiler())
    assert not RunFolder(tmp_path).games_of_step(3).exists()


def test_resuming_with_other_settings_or_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No checkpoint"):
        run(tmp_path, [BOTH], resume=True)
    run(tmp_path, [replace(BOTH, steps=1)])
    with pytest.raises(CheckpointError, match="other settings of stages"):
        run(tmp_path, [BOTH], resume=True)


def test_a_stage_must_train_agents_that_have_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="trains no agent"):
        run(tmp_path, [Stage("none", 1, {})])
    with pytest.raises(UsageError, match="feedback_0 is not among `agents`"):
        run(tmp_path, [FEEDBACK_ONLY], {CONVERSATION: pair()[CONVERSATION]})
    with pytest.raises(UsageError, match="feedback_0 is a NeverFlag, which carries no policy"):
        run(tmp_path, [FEEDBACK_ONLY], {**pair(), FEEDBACK: NeverFlag()})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="no prompts for stage both; `prompts` has sets for first"):
        run(tmp_path, [BOTH], prompts={"first": PROMPTS})
    with pytest.raises(UsageError, match="different names"):
        run(tmp_path, [BOTH, BOTH])
    assert list(tmp_path.iterdir()) == []


def test_each_stage_may_have_prompts_of_its_own(tmp_path: Path) -> None:
    stages = [replace(FEEDBACK_ONLY, steps=1), replace(BOTH, steps=1)]
    run(tmp_path, stages, prompts={"feedback": PROMPTS.harmful, "both": PROMPTS.benign})
    kinds = [{game.prompt.kind for game in read_games(RunFolder(tmp_path).games_of_step(step))} for step in (1, 2)]
    assert kinds == [{Kind.HARMFUL}, {Kind.BENIGN}]


class Apart(TransformersAgent):
    """An agent with an engine of its own: a copy of the model for every batch."""

    def detach(self) -> TransformersAgent:
        agent = copy.copy(self)
        agent.policy = copy.deepcopy(self.policy)
        return agent


def apart() -> Pair:
    policies = {name: agent.policy for name, agent in pair().items()}
    settings: dict[str, Any] = {"max_new_tokens": 6, "batch_size": 4}
    return {name: Apart(policies[name], SHORT[name], seed=i, **settings) for i, name in SEEDS}


AHEAD = replace(CONFIG, max_staleness=1)
SEEDS = list(enumerate(SHORT))


def test_rows_played_ahead_are_one_update_old_and_say_so(tmp_path: Path) -> None:
    run(tmp_path, [FEEDBACK_ONLY, replace(BOTH, steps=3)], apart(), config=AHEAD)
    assert [line["feedback_0/staleness"] for line in metrics_of(tmp_path)] == [0, 1, 0, 1, 1]
    versions = [
        {critique.completion.version for game in read_games(path) for critique in game.critiques}
        for path in sorted(RunFolder(tmp_path).training_games.iterdir())
    ]
    assert versions == [{0}, {0}, {2}, {2}, {3}]  # nothing is played ahead of a stage


def test_playing_ahead_of_updates_that_change_nothing_changes_nothing(tmp_path: Path) -> None:
    still = with_settings(LEARNER, learning_rate=0.0)
    stages = [replace(BOTH, learners={CONVERSATION: still, FEEDBACK: still})]
    run(tmp_path / "plain", stages, apart())
    run(tmp_path / "ahead", stages, apart(), config=replace(AHEAD, overlap_judge=True))
    for step in range(1, 5):
        plain, ahead = (read_games(RunFolder(tmp_path / name).games_of_step(step)) for name in ("plain", "ahead"))
        assert [[r.text for r in g.responses] for g in plain] == [[r.text for r in g.responses] for g in ahead]
        assert [[r.judgement for r in g.responses] for g in plain] == [
            [r.judgement for r in g.responses] for g in ahead
        ]


def test_the_next_games_are_played_during_the_update(tmp_path: Path) -> None:
    acting, updating = Event(), Event()

    class WaitsForTheUpdate(Apart):
        def detach(self) -> TransformersAgent:
            agent = super().detach()
            act = agent.act

            def when_updating(observations):
                acting.set()
                assert updating.wait(60.0)
                return act(observations)

            agent.act = when_updating  # type: ignore[method-assign]
            return agent

    @dataclass(frozen=True)
    class WaitsForTheGames:
        def build(self, policy, accelerator=None):
            learner = LEARNER.build(policy, accelerator)
            update = learner.update

            def when_acting(samples):
                updating.set()
                assert acting.wait(60.0)
                return update(samples)

            learner.update = when_acting  # type: ignore[method-assign]
            return learner

    agents = apart()
    agent = WaitsForTheUpdate(agents[FEEDBACK].policy, feedback_messages, max_new_tokens=6)
    stage = Stage("feedback", 2, {FEEDBACK: WaitsForTheGames()})
    run(tmp_path, [stage], {**agents, FEEDBACK: agent}, config=AHEAD)


def test_games_played_ahead_are_part_of_a_checkpoint(tmp_path: Path) -> None:
    stages = [FEEDBACK_ONLY, BOTH]
    ahead: dict[str, Any] = {"config": replace(AHEAD, evaluate_every=2), "validation": PROMPTS}
    whole = run(tmp_path / "whole", stages, apart(), **ahead)
    run(tmp_path / "parts", stages, apart(), **ahead)
    for step in (5, 6):
        shutil.rmtree(tmp_path / "parts" / "checkpoints" / f"step-{step:05d}")
    continued = run(tmp_path / "parts", stages, apart(), resume=True, **ahead)
    for name in whole:
        assert torch.equal(weights(whole[name].policy), weights(continued[name].policy))
    assert _without_times(tmp_path / "whole") == _without_times(tmp_path / "parts")


def test_agents_that_act_with_the_updated_weights_cannot_play_ahead(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"conversation_0, feedback_0 \(TransformersAgent\) cannot"):
        run(tmp_path, [BOTH], config=AHEAD)
    with pytest.raises(UsageError, match="max_staleness must be 0 or 1; got 2"):
        replace(CONFIG, max_staleness=2)


def test_metrics_file_is_json_without_nan(tmp_path: Path) -> None:
    run(tmp_path, [FEEDBACK_ONLY])
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in metrics"))
