from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from accelerate import Accelerator

from tests.tiny_preset import RECIPE, tiny_pair
from tests.vllm_stand_in import StandIn
from waltz_env import FEEDBACK
from waltz_env.agents import FollowAdvice
from waltz_env.agents.engines import check_engine, on_engine, server_urls
from waltz_env.algorithms.training.loop import StepReport
from waltz_env.cli import main
from waltz_env.cli.serve import Serve
from waltz_env.errors import UsageError
from waltz_env.experiments.run import execute
from waltz_env.experiments.saved_run import load_run, read_recipe
from waltz_env.records import read_games
from waltz_env.run_folder import RunFolder
from waltz_env.settings import decode, encode

PRESET = "tests.tiny_preset:PRESET"


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    both = [StandIn(), StandIn()]
    yield both
    for server in both:
        server.die()


def engine_on(*servers: StandIn) -> str:
    return f"vllm@{','.join(server.url for server in servers)}"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("vlm", "Did you mean 'vllm'"),
        ("", "Unknown engine"),
        ("VLLM", "Unknown engine"),
        ("transformers@http://127.0.0.1:8000", "Unknown engine"),
        ("vllm:http://127.0.0.1:8000", "Unknown engine"),
        ("vllm@", "URLs such as"),
        ("vllm@127.0.0.1:8000", "URLs such as"),
        ("vllm@http://", "URLs such as"),
        ("vllm@http://a:8000,", "URLs such as"),
        ("vllm@http://a:8000 http://b:8000", "URLs such as"),
        ("vllm@http://a:8000/v1/chat", "URLs such as"),
        ("vllm@http://a:8000,http://a:8000/v1/", "different URLs"),
        ("vllm@ftp://a:8000", "URLs such as"),
    ],
)
def test_an_engine_that_cannot_be_is_told(name: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        server_urls(name)
    with pytest.raises(UsageError, match=problem):
        replace(RECIPE, engine=name)


def exit_code(arguments: list[str]) -> object:
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--preset", PRESET, "--out", "OUT"],
        ["benchmark", "--preset", PRESET, "--out", "OUT"],
        ["evaluate", "RUN", "--out", "OUT"],
        ["play", "RUN"],
        ["serve", "RUN", "--port", "0"],
    ],
)
def test_every_command_that_samples_checks_its_engine_first(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code([*command, "--engine", "vlm"]) == 2
    assert "Did you mean 'vllm'?" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_vllm_in_this_process_must_be_installed_and_alone() -> None:
    with pytest.raises(UsageError, match="pip install vllm"):
        check_engine("vllm")
    check_engine("vllm@http://127.0.0.1:8000", processes=8)
    check_engine("transformers", processes=8)


@pytest.mark.parametrize("command", [["play", "scripted"], ["serve", "scripted", "--port", "0"]])
def test_an_engine_for_agents_without_a_model_would_be_ignored(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code([*command, "--engine", "vllm@http://127.0.0.1:8000"]) == 2
    assert "--engine would be ignored" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match=f"{FEEDBACK} is a FollowAdvice"):
        on_engine(tiny_pair(0) | {FEEDBACK: FollowAdvice(1.0)}, "vllm@http://127.0.0.1:8000")


def test_roles_with_different_models_are_refused() -> None:
    agents = tiny_pair(0) | {FEEDBACK: tiny_pair(1)[FEEDBACK]}
    with pytest.raises(UsageError, match="models of their own"):
        on_engine(agents, "vllm@http://127.0.0.1:8000")


def test_settings_of_runs_before_there_were_engines_can_be_read() -> None:
    stored = encode(RECIPE)
    assert stored.pop("engine") == "transformers"
    assert decode(stored) == RECIPE


def test_agents_on_servers_act_as_those_without(servers: list[StandIn], tmp_path: Path) -> None:
    recipe = replace(RECIPE, engine=engine_on(*servers))
    agents = on_engine(tiny_pair(0), recipe.engine)
    for role, own in tiny_pair(0).items():
        moved = agents[role]
        for name in ("template", "max_new_tokens", "temperature"):
            assert getattr(moved, name) == getattr(own, name)
        assert (moved.state_dict()["generator"] == own.state_dict()["generator"]).all()  # type: ignore[attr-defined]


def test_a_run_goes_on_when_a_server_dies_and_is_evaluated_played_and_served_on_the_other(
    servers: list[StandIn], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(RECIPE, engine=engine_on(*servers))

    def dies_in_the_second_step(report: StepReport) -> None:
        if report.step == 1:
            servers[0].fails_at = servers[0].completed + 2
            died[:] = [servers[0].fails_at]  # twice: the second stage also begins after one step

    died: list[int] = []

    folder = RunFolder(tmp_path / "run")
    assert execute(recipe, folder, untrained=False, progress=dies_in_the_second_step)
    assert [servers[0].completed] == died
    assert read_recipe(folder).engine == recipe.engine
    versions: set[int] = set()
    for step, line in enumerate(folder.read_metrics(), start=1):
        for game in read_games(folder.games_of_step(step)):
            versions |= {critique.completion.version for critique in game.critiques}
        assert float(line[f"{FEEDBACK}/ratio_mean"]) == pytest.approx(1, abs=1e-4)  # pi_old of the servers is ours
    assert versions == {0, 1}

    left = engine_on(servers[1])
    before = servers[1].completed
    assert main(["evaluate", str(folder.path), "--out", str(tmp_path / "out"), "--engine", left]) == 0
    evaluated = servers[1].completed
    assert evaluated > before
    assert main(["play", str(folder.path), "--prompt", "Hello?", "--engine", left]) == 0
    assert servers[1].completed > evaluated
    duet = Serve(agents=str(folder.path), engine=left).duet()
    duet.close()
    _, bench = load_run(folder, Accelerator())
    assert {type(agent).__name__ for agent in bench.agents.values()} == {"TransformersAgent"}
