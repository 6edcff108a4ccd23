"""``waltz export``: what is written works without the run folder, in other people's libraries, and says what it is."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from tests.finished_runs import finish, loaded_by_others, ours, presets_for_tests
from tests.tiny import tiny_tokenizer
from waltz_env.agents.lora import CONFIG_FILE
from waltz_env.agents.templates import TEMPLATES, chats
from waltz_env.cli import main
from waltz_env.export.weights import ROLES
from waltz_env.presets import PRESETS
from waltz_env.presets.nano.templates import TEMPLATES as NANO
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of finished runs: ``adapter``, ``bfloat16``, ``whole`` and ``nano``."""
    folder = tmp_path_factory.mktemp("runs")
    with presets_for_tests():
        for name in ("adapter", "bfloat16", "whole", "nano"):
            finish(name, folder / name)
        yield folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run with adapters, to damage."""
    return Path(shutil.copytree(finished / "adapter", tmp_path / "run"))


def export(*words: object) -> int:
    return main(["export", *map(str, words)])


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def header(folder: Path) -> dict[str, Any]:
    return ModelCard.load(folder / "README.md").data.to_dict()


def test_exports_are_used_by_others_from_another_folder_after_the_run_is_gone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    kinds: dict[Path, str] = {}
    expected: dict[Path, torch.Tensor] = {}
    for name in ("adapter", "bfloat16", "whole", "nano"):
        shutil.copytree(finished / name, name)
        for merged in (False, True):
            if name == "whole" and not merged:
                continue
            to = f"exported/{name}-{'merged' if merged else 'adapters'}"
            assert export(name, "--to", to, *(["--merged"] if merged else [])) == 0
            for agent in AGENTS:
                folder = Path(to, agent.removesuffix("_0")).resolve()
                kinds[folder] = "whole" if merged else "adapter"
                expected[folder] = ours(Path(name), agent)
        shutil.rmtree(name)
    loaded = loaded_by_others(kinds, tmp_path)
    for folder, (text, logits) in loaded.items():
        # A weight that is merged in bfloat16 is rounded to 8 bits, an adapter beside it is not.
        rounded = {"rtol": 0, "atol": 0.1} if "bfloat16-adapters" in str(folder) else {}
        torch.testing.assert_close(logits, expected[folder], **rounded)  # type: ignore[arg-type]
        assert text
    tiny = loaded[Path("exported/adapter-merged/feedback").resolve()]
    assert tiny[0] == tiny_tokenizer().apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    first, second = (
        loaded[Path(f"exported/adapter-adapters/{role}").resolve()] for role in ("conversation", "feedback")
    )
    assert not torch.equal(first[1], second[1])


def test_one_role_is_the_folder_itself_and_a_merged_model_keeps_the_precision_of_its_base(
    finished: Path, tmp_path: Path
) -> None:
    assert export(finished / "bfloat16", "--to", tmp_path / "one", "--role", "feedback", "--merged") == 0
    assert json.loads((tmp_path / "one" / "config.json").read_text())["dtype"] == "bfloat16"
    assert {path.name for path in tmp_path.joinpath("one").iterdir() if path.is_dir()} == set()
    card = (tmp_path / "one" / "README.md").read_text()
    assert "A feedback agent, trained" in card
    assert "conversation agent, draft" not in card
    assert json.loads((tmp_path / "one" / "prompts.json").read_text()).keys() == {"feedback"}


def test_whoever_may_read_the_folder_may_read_every_file(finished: Path, tmp_path: Path) -> None:
    assert export(finished / "nano", "--to", tmp_path / "out") == 0
    (tmp_path / "probe").touch()
    usual = stat.S_IMODE((tmp_path / "probe").stat().st_mode)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*") if path.is_file()} == {usual}


@pytest.mark.parametrize(
    ("recorded", "arguments", "named", "copied"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", [], "meta-llama/Llama-3.1-8B-Instruct", False),
        (None, ["--base", "meta-llama/Llama-3.1-8B-Instruct"], "meta-llama/Llama-3.1-8B-Instruct", False),
        (None, [], "OUT/base", True),
        ("/gone/moved/run/base", [], "OUT/base", True),
    ],
    ids=["on the hub", "named", "kept by the run", "run was moved"],
)
def test_adapters_name_a_base_that_others_find(
    recorded: str | None, arguments: list[str], named: str, copied: bool, run: Path, tmp_path: Path
) -> None:
    for agent in AGENTS:
        if recorded is not None:
            change(run / "weights" / agent / CONFIG_FILE, base_model_name_or_path=recorded)
    assert export(run, "--to", tmp_path / "out", *arguments) == 0
    named = named.replace("OUT", str(tmp_path / "out"))
    for role in ROLES:
        assert json.loads((tmp_path / "out" / role / CONFIG_FILE).read_text())["base_model_name_or_path"] == named
    assert (tmp_path / "out" / "base" / "model.safetensors").exists() == copied
    relation = header(tmp_path / "out")["base_model_relation"]
    assert relation == ("finetune" if copied else "adapter")  # on a base of one's own it is no adapter of the original
    card = (tmp_path / "out" / "README.md").read_text()
    base = "./base" if copied else named
    assert (
        f"vllm serve {base} --enable-lora --max-lora-rank 8 "
        "--lora-modules conversation=./conversation feedback=./feedback --generation-config vllm"
    ) in card
    assert f'AutoModelForCausalLM.from_pretrained("{base}")' in card


def test_a_base_elsewhere_goes_along_without_what_is_no_model(run: Path, tmp_path: Path) -> None:
    base = Path(shutil.move(run / "base", tmp_path / "models"))
    (base / "pickled.bin").write_bytes(b"")
    (base / "LICENSE").write_text("terms")
    (base / "original").mkdir()
    for agent in AGENTS:
        change(run / "weights" / agent / CONFIG_FILE, base_model_name_or_path=str(base))
    assert export(run, "--to", tmp_path / "out") == 0
    copied = {path.name for path in (tmp_path / "out" / "base").iterdir()}
    assert copied == {path.name for path in base.iterdir()} - {"pickled.bin", "original"}
    assert "LICENSE" in copied


def test_a_run_that_trained_one_agent_exports_that_one(finished: Path, tmp_path: Path) -> None:
    run = finish("adapter", tmp_path / "run", stages=PRESETS["adapter"].recipe.stages[:1])  # the feedback agent alone
    assert export(run, "--to", tmp_path / "out") == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "out" / "conversation").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("adaptr", [], "Did you mean 'adapter'?"),
        ("whole", [], "Export them with --merged"),
        ("whole", ["--role", "feedback"], "Export them with --merged"),
        ("unfinished", [], "waltz train --resume"),
        (
            "feedback-only",
            ["--role", "conversation"],
            "has not trained the conversation agent; it has trained: feedback",
        ),
        ("no-steps", [], "it has trained: none"),
        ("baseless", [], "holds no safetensors"),
        ("baseless", ["--merged", "--base", "someone/tiny"], "holds no safetensors"),
        ("two-bases", [], "Export one at a time, with --role"),
    ],
)
def test_what_cannot_be_exported_is_told_and_nothing_is_written(
    name: str, arguments: list[str], said: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for each in ("adapter", "whole"):
        (tmp_path / each).symlink_to(finished / each)
    if name not in ("adaptr", "whole"):
        run = RunFolder(shutil.copytree(finished / "adapter", tmp_path / name))
        config = run.read_config()
        if name == "unfinished":
            shutil.rmtree(run.weights)
        elif name == "feedback-only":
            run.write_config(config | {"stages": config["stages"][:1]})
        elif name == "no-steps":
            run.write_config(config | {"stages": [stage | {"steps": 0} for stage in config["stages"]]})
        elif name == "baseless":
            (run.base / "model.safetensors").unlink()
        else:
            change(run.weights / FEEDBACK / CONFIG_FILE, base_model_name_or_path="someone/tiny")
    assert export(tmp_path / name, "--to", tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


def test_a_place_that_is_taken_is_left_alone_and_an_empty_folder_is_used(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path / "taken", tmp_path / "file"):
        (tmp_path / "file").touch()
        (tmp_path / "taken").mkdir(exist_ok=True)
        (tmp_path / "taken" / "mine").touch()
        assert export(finished / "adapter", "--to", place) == 2
        assert "choose another --to" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine"]
    (tmp_path / "empty").mkdir()
    assert export(finished / "adapter", "--to", tmp_path / "empty") == 0
    assert (tmp_path / "empty" / "README.md").exists()


def test_the_card_tells_what_the_run_wrote_down(run: Path, tmp_path: Path) -> None:
    rate = {"value": 0.125, "low": 0.1, "high": 0.204, "n": 80}
    unknown = {"value": None, "low": None, "high": None, "n": 0}
    results = json.loads((run / "results.json").read_text())
    results["sets"] = {"mine": {"systems": {"trained_pair": {"asr": rate, "orr": unknown}}, "comparisons": {}}}
    results["training_prompts"] = {"wildjailbreak": 5000, "or-bench": 4000}
    (run / "results.json").write_text(json.dumps(results))
    assert export(run, "--to", tmp_path / "pair") == 0
    assert header(tmp_path / "pair") == {
        "base_model": "someone/tiny",
        "base_model_relation": "finetune",
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["waltz_env", "waltzrl", "safety", "lora"],
    }
    card = (tmp_path / "pair" / "README.md").read_text()
    assert "# pair\n" in card
    for line in (
        "| trained pair | 12.5 (10-20) | - | - | - | - | - | - |",
        "| base model | `base/`, made from: someone/tiny |",
        "| license of the base model | apache-2.0 |",
        "| training prompts | wildjailbreak (5000), or-bench (4000) |",
        "| judge | rules |",
        "| preset, method, seed | adapter, waltz, 0 |",
        "| stage-1 | 1 steps of 4 games; feedback_0 by ReinforcePP, learning rate 0.01, KL weight 0.01; weights of the "
        "feedback reward: improvement 0.65, label 0.25, format 0.1 |",
        "- The judge `rules` cannot see whether an answer does harm: no rate is evidence of safety.",
    ):
        assert line in card
    assert str(tmp_path) not in card
    assert json.loads((tmp_path / "pair" / "prompts.json").read_text()) == {
        agent.removesuffix("_0"): chats(agent, NANO[agent]) for agent in AGENTS
    }
    assert "waltz serve" not in card  # which would send other prompts
    assert json.loads((tmp_path / "pair" / "recipe.json").read_text()) == RunFolder(run).read_config() | {"schema": 2}


def test_what_is_not_known_is_a_dash(run: Path, tmp_path: Path) -> None:
    (run / "results.json").unlink()
    assert export(run, "--to", tmp_path / "pair") == 0
    assert "license" not in header(tmp_path / "pair")
    card = (tmp_path / "pair" / "README.md").read_text()
    for name in ("license of the base model", "training prompts", "sampling", "versions"):
        assert f"| {name} | - |" in card
    assert "## Results\n\n-\n" in card
    assert card.endswith("## Prompts\n\n-\n")
    assert not (tmp_path / "pair" / "prompts.json").exists()


@pytest.mark.parametrize(("merged", "ports"), [(False, (8000, 8000)), (True, (8000, 8001))])
def test_the_card_of_a_pair_on_the_usual_prompts_shows_its_chat_server(
    merged: bool, ports: tuple[int, int], run: Path, tmp_path: Path
) -> None:
    results = json.loads((run / "results.json").read_text())
    for agent in AGENTS:
        results["players"][agent]["chats"] = chats(agent, TEMPLATES[agent])
    (run / "results.json").write_text(json.dumps(results))
    assert export(run, "--to", tmp_path / "out", *(["--merged"] if merged else [])) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert (
        f"waltz serve --port 9000 --conversation-url http://127.0.0.1:{ports[0]}/v1 --conversation-model conversation "
        f"--feedback-url http://127.0.0.1:{ports[1]}/v1 --feedback-model feedback"
    ) in card
    for message in chats(CONVERSATION, TEMPLATES[CONVERSATION])["draft"]:
        assert message["content"] in card


@pytest.mark.parametrize(
    ("name", "base", "license"),
    [
        ("smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", "llama3.1"),
        ("llama-3.1-8b-lora", "meta-llama/Llama-3.1-8B-Instruct", "llama3.1"),
    ],
)
def test_presets_name_their_base_and_its_license(name: str, base: str, license: str) -> None:
    assert (PRESETS[name].base, PRESETS[name].license) == (base, license)
