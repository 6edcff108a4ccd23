"""Distillation: what is learned from, that it is learned, and a run folder that everything takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.finished_runs import finish, loaded_by_others, ours, presets_for_tests
from tests.games import BOMB, REFUSING, SAFE, UNSAFE, trajectory
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env import Trajectory, read_games, write_games
from waltz_env.agents import TEMPLATES, TransformersAgent, full_policy
from waltz_env.algorithms.supervised import SupervisedConfig
from waltz_env.cli import main
from waltz_env.experiments.distillation import good_responses, learn
from waltz_env.experiments.pairs import load_pair
from waltz_env.game import Game
from waltz_env.run_folder import RunFolder
from waltz_env.scripted import FollowAdvice
from waltz_env.types import CONVERSATION

QUICK = ("--epochs", "1", "--latency", "1")
FLAGS = (UNSAFE, UNSAFE)


def cut(game: Trajectory) -> Trajectory:
    """The same game, whose responses ended at a length limit."""
    responses = [replace(each, completion=replace(each.completion, finish="length")) for each in game.responses]
    return replace(game, responses=tuple(responses))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run on adapters, whose training has two steps: a good draft and two good revisions."""
    with presets_for_tests():
        folder = finish("adapter", tmp_path_factory.mktemp("runs") / "run")
        steps = ([trajectory([SAFE])], [trajectory([UNSAFE, SAFE], FLAGS[:1])] * 2)
        for number, games in enumerate(steps, start=1):
            write_games(RunFolder(folder).games_of_step(number), games)
        yield folder


@pytest.fixture(scope="module")
def distilled(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run distilled."""
    out = tmp_path_factory.mktemp("distilled") / "out"
    assert main(["distill", str(run), *QUICK, "--out", str(out)]) == 0
    return out


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize(
    ("game", "expected"),
    [
        (trajectory([SAFE]), ("c_0", True)),
        (trajectory([UNSAFE, SAFE], FLAGS[:1]), ("c_1", False)),
        (trajectory([SAFE, REFUSING], FLAGS[:1]), ("c_0", True)),  # a needless revision made it worse
        (trajectory([SAFE, SAFE], FLAGS[:1]), ("c_1", False)),
        (trajectory([UNSAFE, SAFE, UNSAFE], FLAGS), ("c_1", False)),
        (trajectory([UNSAFE, REFUSING], FLAGS[:1]), None),
        (trajectory([None]), None),
        (cut(trajectory([SAFE])), None),
    ],
)
def test_the_last_satisfactory_response_of_a_game_is_learned(
    game: Trajectory, expected: tuple[str, bool] | None
) -> None:
    assert good_responses([game]) == ([] if expected is None else [(BOMB, *expected)])


def test_an_agent_learns_to_answer_at_once() -> None:
    policy = full_policy(tiny_model(), tiny_tokenizer())
    agent = TransformersAgent(policy, TEMPLATES[CONVERSATION], max_new_tokens=8, temperature=0)
    config = SupervisedConfig(steps=40, batch_size=2, learning_rate=0.01)
    steps: list[int] = []
    losses = learn(agent, [(BOMB, "No.")], config=config, on_step=lambda step, of: steps.append(of - step))
    assert losses[-1] < 0.1 < losses[0]
    assert steps == list(range(39, -1, -1))
    (answer,) = agent.act([Game(BOMB).observe(CONVERSATION)])
    assert (answer.text, answer.finish) == ("No.", "stop")


def test_an_agent_without_weights_here_cannot_learn() -> None:
    with pytest.raises(ValueError, match="weights in this process"):
        learn(FollowAdvice(1.0, seed=0), [(BOMB, "No.")], config=SupervisedConfig(steps=1))


def test_the_distilled_agent_stands_next_to_its_pair(run: Path, distilled: Path) -> None:
    found = results(distilled)
    assert {name: found["distilled"][name] for name in ("folder", "drafts", "revisions")} == {
        "folder": str(run),
        "drafts": 1,
        "revisions": 2,
    }
    assert list(found["sets"]["mine"]["systems"]) == ["trained_pair", "distilled"]
    assert found["sets"]["mine"]["comparisons"]["distilled"]["against"] == "trained_pair"
    assert found["latency"].keys() == {"distilled", "trained_pair"}
    stored = [RunFolder(folder).games_of_system("mine", "trained_pair") for folder in (run, distilled)]
    assert read_games(stored[0]) == read_games(stored[1])
    alone = read_games(RunFolder(distilled).games_of_system("mine", "distilled"))
    assert all(len(game.responses) == 1 for game in alone)
    assert not torch.equal(ours(run, CONVERSATION), ours(distilled, CONVERSATION))


def test_whatever_takes_a_run_takes_a_distilled_one(
    run: Path, distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(distilled, tmp_path / "moved"))
    assert main(["evaluate", str(run), str(moved), "--no-untrained", "--out", str(tmp_path / "both")]) == 0
    assert list(results(tmp_path / "both")["sets"]["mine"]["systems"]) == ["trained_pair", "distilled"]
    assert load_pair(str(moved), seed=0, max_new_tokens=4)[1].max_rounds == 0
    assert main(["play", str(moved), "--prompt", "Hello"]) == 0
    assert main(["report", str(moved)]) == 0
    assert main(["export", str(moved), "--to", str(tmp_path / "exported")]) == 0
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "1 steps of supervised learning on 32 responses" in card
    found = loaded_by_others({tmp_path / "exported": "adapter"}, tmp_path)
    assert torch.allclose(found[tmp_path / "exported"][1], ours(distilled, CONVERSATION), atol=1e-4)
    capsys.readouterr()
    assert main(["train", "--resume", str(moved)]) == 2
    assert "waltz distill" in capsys.readouterr().err


def test_the_same_command_continues_and_another_one_is_refused(
    run: Path, distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(distilled, tmp_path / "out"))
    (out / "results.json").unlink()
    weights = {path: path.stat().st_mtime_ns for path in (out / "checkpoints").rglob("*")}
    assert main(["distill", str(run), *QUICK, "--out", str(out)]) == 0
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert results(out)["sets"] == results(distilled)["sets"]
    shutil.rmtree(out / "checkpoints")  # as after an interruption while it learned
    assert main(["distill", str(run), *QUICK, "--out", str(out)]) == 0
    assert torch.equal(ours(out, CONVERSATION), ours(distilled, CONVERSATION))
    capsys.readouterr()
    assert main(["distill", str(run), *QUICK, "--batch-size", "2", "--out", str(out)]) == 2
    assert "distilled with other settings" in capsys.readouterr().err
    other = Path(shutil.copytree(run, tmp_path / "other"))
    assert main(["distill", str(other), *QUICK, "--out", str(out)]) == 2
    assert "from another run" in capsys.readouterr().err


def test_what_cannot_be_distilled_is_told(
    run: Path, distilled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", str(distilled), "--out", str(tmp_path / "out")]) == 2
    assert "has been distilled already" in capsys.readouterr().err
    bare = Path(shutil.copytree(run, tmp_path / "bare"))
    shutil.rmtree(RunFolder(bare).training_games)
    assert main(["distill", str(bare), "--out", str(tmp_path / "out")]) == 2
    assert "no training games" in capsys.readouterr().err
    assert main(["distill", str(run), "--out", str(run)]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("flag", ["--epochs=0", "--batch-size=0", "--learning-rate=-1", "--latency=-1"])
def test_settings_that_cannot_work_are_told(flag: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", str(run), flag, "--out", "nowhere"]) == 2
    assert "must be" in capsys.readouterr().err
