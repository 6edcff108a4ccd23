"""Runs in trackers: every game as a trace, each step once, and the trackers themselves."""

from __future__ import annotations

import json
import shutil
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.games import BOMB, HOSTILE, PROCESS, REFUSING, SAFE, UNSAFE, trajectory
from tests.tiny_preset import RECIPE, Diary
from tests.waiting import wait_until
from waltz_env import CONVERSATION, FEEDBACK, Completion, NoVerdict, Response, Trajectory, UsageError
from waltz_env.algorithms.training.checkpoint import latest
from waltz_env.algorithms.training.trackers import tracker
from waltz_env.algorithms.training.tracking import TracedTurn, TrackerLog, trace
from waltz_env.cli import main, parse
from waltz_env.experiments import execute, read_recipe
from waltz_env.presets import with_steps
from waltz_env.rewards import SETUP_A, SETUP_B
from waltz_env.run_folder import RunFolder

DIARY = replace(with_steps(RECIPE, 2, 2), track=("tests.tiny_preset:Diary",))  # four games per step


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What the tracker ``Diary`` is shown."""
    monkeypatch.setattr(Diary, "pages", [])
    return Diary.pages


@pytest.mark.parametrize(
    ("weights", "rewards"), [(SETUP_A, [0.0, 1.0, 1.0, 0.0, 1.0]), (SETUP_B, [0.0, 0.75, 1.0, 0.0, 1.0])]
)
def test_a_trace_has_texts_labels_and_rewards_turn_by_turn(weights: Any, rewards: list[float]) -> None:
    """f_0 is right and improves the response by 1: 0.65 + 0.25 (A only) + 0.1. f_1 is malformed and earns nothing."""
    game = trajectory([UNSAFE, SAFE, SAFE], [UNSAFE, None], BOMB)
    names = ["draft", "feedback_1", "revision_1", "feedback_2", "revision_2"]
    turns = trace(game, weights).turns
    assert [turn.name for turn in turns] == names
    assert [turn.agent for turn in turns] == [CONVERSATION, FEEDBACK, CONVERSATION, FEEDBACK, CONVERSATION]
    assert [turn.labels for turn in turns] == ["unsafe", "unsafe", "satisfactory", "malformed", "satisfactory"]
    assert [turn.reward for turn in turns] == rewards
    assert [turn.text for turn in turns[::2]] == ["c_0", "c_1", "c_2"]
    assert json.loads(turns[1].text)["unsafe"] is True


def test_a_game_without_a_verdict_has_the_reason_and_no_reward() -> None:
    game = Trajectory(PROCESS, (Response(Completion("hm"), NoVerdict("the judge \ud800 left")),), ())
    assert trace(game, SETUP_A).turns == (
        TracedTurn("draft", CONVERSATION, "hm", "no verdict: the judge ? left", None),
    )
    assert trace(Trajectory(PROCESS, (Response(Completion("hm")),), ()), SETUP_A).turns[0].labels == "not judged"


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "crashed"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_an_interrupted_run_sends_each_step_once_and_to_the_same_run(
    tmp_path: Path, pages: list[tuple[Any, ...]], stop_after: int, crash: bool
) -> None:
    steps = iter(range(1, 100))
    folder = RunFolder(tmp_path / "a run")
    assert execute(DIARY, folder, should_stop=lambda: next(steps) == stop_after) is None
    if crash:  # the newest checkpoint is then older than what was sent: that of stage 1, or none
        newest = latest(folder.checkpoints)
        assert newest is not None
        shutil.rmtree(newest)
    assert execute(DIARY, folder, resume=True) is not None
    opened = [page for page in pages if page[0] == "open"]
    assert opened == [opened[0]] * 2
    assert opened[0][1].startswith("a-run-")
    assert [page for page in pages if page[0] != "open"] == [
        *((step, True, 4) for step in range(1, stop_after + 1)),
        ("close",),
        *((step, True, 4) for step in range(stop_after + 1, 5)),
        ("close",),
    ]


def test_after_a_killed_process_the_steps_that_may_be_lost_are_sent_again(
    tmp_path: Path, pages: list[tuple[Any, ...]]
) -> None:
    RunFolder(tmp_path).write_config({"preset": "tiny"})
    for checkpoint, steps, closed in ((0, (1, 2), True), (2, (3, 4, 5), False), (3, (4, 5), True)):
        log = TrackerLog(tmp_path, [Diary()])
        log.begin(checkpoint)
        for step in steps:
            log.metrics(step, "stage-1", {})
        if closed:
            log.close()
    assert len({page[1] for page in pages if page[0] == "open"}) == 1
    assert [page[0] for page in pages if isinstance(page[0], int)] == [1, 2, 3, 4, 5, 4, 5]


def test_two_runs_in_folders_of_one_name_are_two_runs_of_a_tracker(tmp_path: Path) -> None:
    for parent in ("one", "two"):
        TrackerLog(tmp_path / parent / "run", []).begin(0)
    names = [RunFolder(tmp_path / parent / "run").read_tracking()["run"] for parent in ("one", "two")]
    assert names[0] != names[1]


def test_games_are_sent_although_their_update_failed(tmp_path: Path, pages: list[tuple[Any, ...]]) -> None:
    log = TrackerLog(tmp_path, [Diary()])
    RunFolder(tmp_path).write_config({"preset": "tiny"})
    log.begin(0)
    log.games(1, [trajectory([SAFE])], weights=SETUP_A)
    log.close()
    assert pages[1:] == [(1, False, 1), ("close",)]
    assert RunFolder(tmp_path).read_tracking()["step"] == 0  # a later attempt that works shows its metrics


def test_trackers_are_named_by_one_flag_and_a_resumed_run_keeps_them(tmp_path: Path) -> None:
    command: Any = parse(["train", "--track", "trackio", "wandb", "--seed", "3"])
    assert command.recipe.track == ("trackio", "wandb")
    assert parse(["train"]).recipe.track == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize("library", ["trackio", "wandb"])
def test_a_library_that_is_missing_is_told_before_any_work(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # what Python does with a module that cannot be imported
    preset = "tests.tiny_preset:PRESET"
    assert main(["train", "--preset", preset, "--track", library, "--out", str(tmp_path / "run")]) == 2
    assert f"This needs {library}, which is not installed. Install: pip install" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tracker_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'wandb'"):
        execute(replace(RECIPE, track=("wandbb",)), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_the_libraries_show_an_interrupted_run_as_one(
    tmp_path: Path, dashboards: Path, trackio: Callable[..., dict[str, Any]]
) -> None:
    recipe = replace(with_steps(RECIPE, 1, 1), track=("trackio", "wandb"))
    folder = RunFolder(tmp_path / "run")
    before = trackio("list", "runs")["runs"] if list((dashboards / "trackio").glob("*.db")) else []  # of other tests
    stop = iter([True, False])
    assert execute(recipe, folder, should_stop=lambda: next(stop)) is None
    stopped = int(time.time())
    wait_until(lambda: int(time.time()) > stopped)  # wandb names its folders by the second
    assert execute(recipe, folder, resume=True) is not None
    assert read_recipe(folder).track == ("trackio", "wandb")
    run = folder.read_tracking()["run"]
    expected = [(line["step"], line["games/r_c"]) for line in folder.read_metrics()]
    assert [step for step, _ in expected] == [1, 2]

    assert sorted(trackio("list", "runs")["runs"]) == sorted([*before, run])
    logged = trackio("get", "metric", "--run", run, "--metric", "games/r_c")["values"]
    assert [(each["step"], each["value"]) for each in logged] == expected
    traces = trackio("list", "traces", "--run", run, "--sort", "step_asc")["traces"]
    assert [each["step"] for each in traces] == [1] * 4 + [2] * 4
    assert [message["role"] for message in traces[0]["messages"][:2]] == ["user", "assistant"]
    assert traces[0]["metadata"].keys() >= {"prompt_id", "kind", "draft_labels", "draft_reward"}

    offline = sorted((dashboards / "wandb").glob(f"offline-run-*-{run}"))
    assert len(offline) == 2  # one for each start; the server joins them by the run's name
    history = [row for each in offline for row in wandb_history(each / f"run-{run}.wandb")]
    assert [(row["_step"], row["games/r_c"]) for row in history] == expected
    tables = [path for each in offline for path in each.glob("files/media/table/traces_*.json")]
    for table in map(json.loads, map(Path.read_text, tables)):
        assert len(table["data"]) == 4
        assert {"prompt", "kind", "draft", "draft_labels", "draft_reward"} <= set(table["columns"])
    assert len(tables) == 2


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_nothing_that_a_model_says_is_lost_or_breaks_the_libraries(
    name: str, dashboards: Path, trackio: Callable[..., dict[str, Any]]
) -> None:
    games = [trajectory([REFUSING, SAFE], [REFUSING], prompt) for prompt in (PROCESS, replace(PROCESS, id="\ud800"))]
    games += [Trajectory(PROCESS, (Response(Completion(text)),), ()) for text in HOSTILE.values()]
    board = tracker(name)
    board.open(f"hostile-{name}", settings={})
    board.log(1, metrics={}, games=[trace(game, SETUP_A) for game in games])
    board.close()
    if name == "trackio":
        traces = trackio("list", "traces", "--run", f"hostile-{name}", "--limit", "100")["traces"]
        drafts = {each["messages"][1]["content"] for each in traces}
    else:
        (path,) = dashboards.glob(f"wandb/offline-run-*-hostile-{name}/files/media/table/*.json")
        table = json.loads(path.read_text())
        drafts = {row[table["columns"].index("draft")] for row in table["data"]}
    expected = {"c_0", *(text.encode(errors="replace").decode() for text in HOSTILE.values())}
    assert drafts == expected


def test_wandb_without_an_account_is_told_before_any_work(
    tmp_path: Path, dashboards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    import wandb

    wandb.teardown()  # it keeps the settings of an earlier test
    with pytest.raises(UsageError, match="wandb login.*WANDB_MODE=offline"):
        execute(replace(RECIPE, track=("wandb",)), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    wandb.teardown()


@pytest.fixture
def trackio(
    dashboards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., dict[str, Any]]:
    """What trackio's own command says of the project."""

    def ask(*words: str) -> dict[str, Any]:
        from trackio.cli import main

        monkeypatch.setattr(sys, "argv", ["trackio", *words, "--project", "waltz", "--json"])
        capsys.readouterr()
        main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return ask


def wandb_history(path: Path) -> list[dict[str, Any]]:
    """The logged rows of a file that wandb wrote offline: protocol buffers in LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts, rows = path.read_bytes(), 7, b"", []  # after the file's own header
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # no header fits in the rest of a block
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            items = Record.FromString(parts).history.item
            rows.append({each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items})
            parts = b""
    return [row for row in rows if row]
