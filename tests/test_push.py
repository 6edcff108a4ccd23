"""``waltz push`` against a real HTTP server that stands in for the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from huggingface_hub import HfApi, ModelCard

from tests.finished_runs import finish, presets_for_tests
from tests.games import BAD, BOMB, Speaker, WordJudge
from tests.hub import TOKEN, Hub, Repo, hub
from waltz_env import CONVERSATION, FEEDBACK, Completion, Judgement, Labels, NoVerdict, play, write_games
from waltz_env.errors import UsageError
from waltz_env.export.parquet import WARNING, write_parquet
from waltz_env.export.push import push_run
from waltz_env.run_folder import RunFolder
from waltz_env.types import Response, Trajectory

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunFolder]:
    with presets_for_tests():
        yield RunFolder(finish("adapter", tmp_path_factory.mktemp("runs") / "mine"))


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as server:
        yield server


@pytest.fixture
def api(server: Hub) -> HfApi:
    return HfApi(server.url, token=TOKEN)


def test_whole_models_and_their_card_arrive_in_a_private_repository(run: RunFolder, server: Hub, api: HfApi) -> None:
    assert push_run(run, "me/pair", merged=True, api=api) == [f"{server.url}/me/pair"]
    assert list(server.repos) == [("models", "me/pair")]
    repo = server.repos["models", "me/pair"]
    assert repo.private
    assert {"README.md", "prompts.json", "recipe.json", "conversation/model.safetensors"} <= repo.files.keys()
    card = ModelCard(repo.files["README.md"].decode())
    assert card.data.to_dict()["base_model"] == "someone/tiny"
    assert "hf download me/pair --local-dir ." in card.content


def test_adapters_go_with_the_name_that_the_hub_has_for_their_base(run: RunFolder, server: Hub, api: HfApi) -> None:
    push_run(run, "me/one", role="feedback", base_name="someone/tiny", api=api)
    files = server.repos["models", "me/one"].files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "someone/tiny"
    assert "base/model.safetensors" not in files
    assert b"/tmp/" not in files["README.md"]


@pytest.mark.parametrize("public", [False, True])
def test_nothing_is_public_unless_that_is_asked_for(public: bool, run: RunFolder, server: Hub, api: HfApi) -> None:
    push_run(run, "me/pair", merged=True, games=True, public=public, api=api)
    assert {key: repo.private for key, repo in server.repos.items()} == {
        ("models", "me/pair"): not public,
        ("datasets", "me/pair-games"): not public,
    }


@pytest.mark.parametrize("open_one", [("models", "me/pair"), ("datasets", "me/pair-games")])
def test_a_repository_that_is_public_already_gets_nothing_by_accident(
    open_one: tuple[str, str], run: RunFolder, server: Hub, api: HfApi
) -> None:
    server.repos[open_one] = Repo(private=False)
    with pytest.raises(UsageError, match="exists and is public. Add --public"):
        push_run(run, "me/pair", merged=True, games=True, api=api)
    assert all(repo.files == {} for repo in server.repos.values())
    push_run(run, "me/pair", merged=True, games=True, public=True, api=api)
    assert all(repo.files for repo in server.repos.values())


def test_a_second_push_replaces_the_first(run: RunFolder, server: Hub, api: HfApi) -> None:
    for _ in range(2):
        push_run(run, "me/pair", merged=True, api=api)
        server.repos["models", "me/pair"].files["mine.txt"] = b"kept"
    assert {"README.md", "mine.txt"} <= server.repos["models", "me/pair"].files.keys()


@pytest.mark.parametrize(
    ("to", "settings", "said"),
    [
        ("pair", {"merged": True}, "USER/NAME; got 'pair'"),
        ("me/of/three", {"merged": True}, "USER/NAME"),
        ("me/odd name", {"merged": True}, "USER/NAME"),
        ("me/two..dots", {"merged": True}, "The hub does not accept this name"),
        ("me/pair", {}, "Push whole models with --merged"),
        ("me/pair", {"role": "judge"}, "has not trained the judge agent"),
    ],
)
def test_what_cannot_be_pushed_is_told_before_the_hub_is_asked(
    to: str, settings: dict[str, object], said: str, run: RunFolder, server: Hub, api: HfApi
) -> None:
    with pytest.raises(UsageError, match=said):
        push_run(run, to, api=api, **settings)  # type: ignore[arg-type]
    assert server.repos == {}


def test_a_hub_that_refuses_or_is_not_there_is_one_sentence(run: RunFolder, server: Hub) -> None:
    with pytest.raises(UsageError, match="refused .401.: Invalid credentials. Log in with a token that may write"):
        push_run(run, "me/pair", merged=True, api=HfApi(server.url, token="hf_of_somebody_else"))
    with pytest.raises(UsageError, match="The hub cannot be reached"):
        push_run(run, "me/pair", merged=True, api=HfApi("http://127.0.0.1:9", token=TOKEN))


def test_the_command_warns_of_the_games_and_prints_where_they_are(run: RunFolder, server: Hub) -> None:
    program = "import sys; from waltz_env.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["push", str(run.path), "--to", "me/pair", "--merged", "--games"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert WARNING in done.stderr
    assert done.stdout.splitlines() == [f"{server.url}/me/pair", f"{server.url}/me/pair-games"]
    assert {"training.parquet", "held-out.parquet", "README.md"} == server.repos[
        "datasets", "me/pair-games"
    ].files.keys()


def odd_games() -> list[Trajectory]:
    """A game that was judged, one that was not, and one with texts and scores that files find hard."""
    (judged,) = play([BOMB], {CONVERSATION: Speaker(BAD), FEEDBACK: Speaker("no JSON")}, judge=WordJudge())
    odd = Judgement(Labels(unsafe=True, overrefuse=False), "mine", scores={"harm": float("nan"), "x": 0.25})
    response = Response(Completion("lone \ud800 surrogate"), odd)
    unknown = Response(Completion("silence"), NoVerdict("The judge refused."))
    return [judged, Trajectory(BOMB, (response,), ()), Trajectory(BOMB, (unknown,), ()), Trajectory(BOMB, (), ())]


def test_games_as_parquet_load_by_the_card_s_own_names_with_every_column(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_games(folder.games_of_step(1), odd_games())
    write_games(folder.games_of_step(2), odd_games()[2:])
    write_games(folder.games_of_system("mine", "baseline"), odd_games()[:1])
    (tmp_path / "out").mkdir()
    assert [path.name for path in write_parquet(folder, tmp_path / "out")] == ["training.parquet", "held-out.parquet"]
    assert pq.ParquetFile(tmp_path / "out" / "training.parquet").num_row_groups == 2
    training = load_dataset(str(tmp_path / "out"), "training", split="train", cache_dir=str(tmp_path / "cache"))
    assert training["step"] == [1, 1, 1, 1, 2, 2]
    odd, unknown = training[1]["responses"][0], training[2]["responses"][0]
    assert odd["text"] == "lone ? surrogate"
    assert odd["labels"] == {"unsafe": True, "overrefuse": False}
    assert odd["scores"] == [{"name": "harm", "value": None}, {"name": "x", "value": 0.25}]
    assert (unknown["labels"], unknown["no_verdict"]) == (None, "The judge refused.")
    assert training[0]["critiques"][0]["text"] == "no JSON"
    held_out = load_dataset(str(tmp_path / "out"), "held-out", split="test", cache_dir=str(tmp_path / "cache"))
    assert (held_out["set"], held_out["system"]) == (["games"], ["mine-baseline"])  # no results name them
    assert WARNING in (tmp_path / "out" / "README.md").read_text()


def test_a_run_without_games_says_so(run: RunFolder, tmp_path: Path, server: Hub, api: HfApi) -> None:
    bare = RunFolder(tmp_path / "bare")
    bare.path.mkdir()
    for name in ("config.json", "weights", "base"):
        (bare.path / name).symlink_to(run.path / name)
    with pytest.raises(UsageError, match="holds no games"):
        push_run(bare, "me/pair", merged=True, games=True, api=api)
    assert server.repos == {}
