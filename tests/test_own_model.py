"""``waltz train --model``: any chat model on any prompts, from the dry run to serving the pair."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from tests.tiny import ARCHITECTURES, save_tiny_model
from waltz_env.agents import LanguageModelPolicy, TransformersAgent, load_model
from waltz_env.algorithms.supervised import SupervisedConfig, fit
from waltz_env.cli import main, parse
from waltz_env.cli.serve import Serve
from waltz_env.errors import UsageError
from waltz_env.experiments import execute, read_recipe
from waltz_env.experiments.dry_run import too_malformed
from waltz_env.experiments.memory import at_once, needs
from waltz_env.game import Game
from waltz_env.presets import Workbench, preset, with_steps, workbench
from waltz_env.presets.chat import ChatOptions, outlined_agents
from waltz_env.presets.chat.examples import Example
from waltz_env.presets.chat.prompt_sets import gather
from waltz_env.presets.chat.templates import ANSWER_TEMPLATES
from waltz_env.presets.chat.warm_start import encoded
from waltz_env.prompts import PromptSet
from waltz_env.run_folder import RunFolder
from waltz_env.settings import encode
from waltz_env.types import AGENTS, CONVERSATION, Kind, Message, NoVerdict, Prompt

SMALL = ("--system-prompts", "short", "--max-new-tokens", "8", "--adapter-rank", "4")
STEPS = ("--stage-1.steps", "1", "--stage-2.steps", "1", "--loop.games", "4", "--learner.min-reward-std", "0")
MANY = 40
SENTENCE = "Mix it and wait until it is done."


def prompts_file(path: Path, *, count: int = MANY, start: int = 0, kinds: tuple[Kind, ...] = tuple(Kind)) -> str:
    """A file with prompts of the kinds in turn."""
    numbers = range(start, start + count)
    PromptSet([Prompt(f"request {n}", kinds[n % len(kinds)], id=str(n)) for n in numbers]).save(path)
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model("qwen", tmp_path_factory.mktemp("models") / "qwen"))


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that answers everything with the same sentence."""
    folder = save_tiny_model("qwen", tmp_path_factory.mktemp("models") / "talking")
    model, tokenizer = load_model(folder)
    observations = [Game(Prompt(f"request {n}", Kind.BENIGN)).observe(CONVERSATION) for n in range(800)]
    examples = encoded(
        tokenizer, [Example(each, SENTENCE) for each in observations], {CONVERSATION: ANSWER_TEMPLATES["short"]}
    )
    fit(model, examples, config=SupervisedConfig(steps=100, batch_size=8, learning_rate=1e-2))
    model.generation_config.eos_token_id = tokenizer.eos_token_id  # nothing else ends its turns
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def sets(tmp_path: Path) -> tuple[str, ...]:
    """Flags for prompts to train on and a test set that shares five of their texts."""
    train, test = prompts_file(tmp_path / "mine.jsonl"), prompts_file(tmp_path / "held.jsonl", count=6, start=35)
    return "--prompts", train, "--test", test


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_of_each_family_is_tried_trained_evaluated_and_served(
    name: str, sets: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = save_tiny_model(name, tmp_path / "model"), tmp_path / "run"
    given = ("--model", str(folder), *sets, *SMALL, *STEPS)
    assert main(["train", *given, "--dry-run"]) == 0
    capsys.readouterr()
    assert not run.exists()
    assert main(["train", *given, "--out", str(run)]) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["stage-1", "stage-2"]
    systems = json.loads((run / "results.json").read_text())["sets"]["held"]["systems"]
    assert list(systems) == ["baseline", "untrained_pair", "after_stage-1", "trained_pair"]
    printed = capsys.readouterr()
    assert printed.out.count("held-out prompts, final responses") == 3  # before training, after stage 1, at the end
    assert "0 of 6 critiques are well-formed: too few to learn from. Teach the format first" in printed.err
    assert json.loads((run / "results.json").read_text())["base"] == {
        "name": "",
        "license": "",
    }  # it is not from the hub
    assert lines[0]["feedback_0/kl"] == pytest.approx(0, abs=1e-6)
    for path in (tmp_path / "mine.jsonl", tmp_path / "held.jsonl"):
        path.unlink()  # the run keeps its prompts
    assert main(["evaluate", str(run), "--no-untrained", "--out", str(tmp_path / "again")]) == 0
    assert list(json.loads((tmp_path / "again" / "results.json").read_text())["sets"]) == ["held"]
    with closing(Serve(str(run), on_failure="fail_open").duet()) as duet:
        assert duet.respond([Message(role="user", content="Hello")]).text is not None


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["train", *arguments, "--dry-run"])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_dry_run_tells_what_there_is(
    model: str, sets: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    code, told, _ = dry_run(capsys, "--model", model, *sets, *SMALL)
    assert code == 0
    assert f"conversation_0: {model}, 35,424 parameters in float32; trained: an adapter of rank 4, 4,096" in told
    assert "Both roles share one base." in told
    rows = {line.split("  ")[1].strip(): line.split()[-4:] for line in told.splitlines() if "mine.jsonl" in line}
    # 40 prompts, of which five are in the test set: 35 to 39, three of them benign and two harmful or the reverse.
    (row,) = rows.values()
    assert sorted(row[:2]) == ["17", "18"]
    assert row[2:] == ["0", "5"]
    assert told.count("Sample game") == 3
    assert "How do I bake bread?" in told
    assert "system prompt 20; in the sample games, prompts" in told
    assert "0 of 8 critiques are well-formed: too few to learn from. Teach the format first: --warm-start" in told
    assert sorted(tmp_path.iterdir()) == before


class Silent:
    """A judge that has no verdict on anything, as one whose server does not answer."""

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[NoVerdict]:
        return [NoVerdict("asleep")] * len(responses)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (ChatOptions(), "--warm-start 300, and for a model of less than a billion parameters --system-prompts short"),
        (ChatOptions(system_prompts="short"), "Teach the format first: --warm-start 300."),
        (ChatOptions(warm_start=200), "A longer warm start teaches more of the format: --warm-start 400."),
        (None, "2 of 50 critiques are well-formed: too few to learn from."),
    ],
)
def test_what_to_do_about_malformed_feedback_depends_on_the_settings(
    options: ChatOptions | None, expected: str
) -> None:
    told = too_malformed(0.04, 50, options)
    assert told is not None
    assert expected in told
    assert too_malformed(0.2, 50, options) is None


def base_model(folder: Path) -> Path:
    """A model without a chat template."""
    save_tiny_model("mistral", folder)
    (folder / "chat_template.jinja").unlink()
    return folder


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--model", "{tmp}/base"), "The tokenizer has no chat template. Use an instruction-tuned model"),
        (
            ("--judge", "tests.test_own_model:Silent"),
            "gave no verdict on a first question",
        ),
        (("--prompts", "{tmp}/benign.jsonl"), "All 40 prompts to train on are benign"),
        (("--context", "60"), "prompts are too long: the longest has"),
        (("--prompts", "{tmp}/mine.jsonl:41"), "asks for 41 prompts; the set has 40"),
        (("--prompts", "{tmp}/mine.json"), "mine.json"),
        (("--test", "{tmp}/mine.jsonl"), "No prompts to train on are left: all texts of"),
        (("--test", "builtin:test", "builtin:test:5"), "Two test sets would both be called builtin-test"),
        (("--model", "{tmp}/nothing"), "No causal LM could be loaded from"),
        (("--model", ""), "Name the model to train: --model"),
        (("--quantize", "4bit", "--all-weights"), "Quantized weights cannot be trained"),
        (("--dtype", "bfloat16", "--all-weights"), "Weights that are trained must be float32"),
        (("--quantize", "8bit"), "A quantized base needs bitsandbytes, which is not installed"),
    ],
)
def test_a_dry_run_finds_mistakes(
    arguments: tuple[str, ...], expected: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base_model(tmp_path / "base")
    prompts_file(tmp_path / "benign.jsonl", kinds=(Kind.BENIGN,))
    given = ("--prompts", prompts_file(tmp_path / "mine.jsonl"), "--test", "builtin:test:5")
    changed = (each.format(tmp=tmp_path) for each in arguments)
    code, _, error = dry_run(capsys, "--model", model, *SMALL, *given, *changed)
    assert code == 2
    assert expected in error


def tokenizer_alone(folder: Path) -> None:
    """All files of the model but its own."""
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / name).unlink()


def gguf(folder: Path) -> None:
    tokenizer_alone(folder)
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF")


def adapter(folder: Path) -> None:
    tokenizer_alone(folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def run(folder: Path) -> None:
    tokenizer_alone(folder)
    (folder / "config.json").write_text('{"schema": 2}')
    (folder / "checkpoints").mkdir()


def without_tokenizer(folder: Path) -> None:
    for path in (*folder.glob("tokenizer*"), folder / "chat_template.jinja"):
        path.unlink()


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pointer_for_weights(folder: Path) -> None:
    """As a clone without Git LFS leaves it."""
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def deeper(folder: Path) -> None:
    """A configuration with more layers than there are weights."""
    shape = json.loads((folder / "config.json").read_text())
    more = {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
    (folder / "config.json").write_text(json.dumps(shape | more))


def classifier(folder: Path) -> None:
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(shape | {"model_type": "t5"}))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (tokenizer_alone, "Unrecognized model"),
        (gguf, "GGUF files are weights for other programs. Give the folder"),
        (adapter, "It holds an adapter. Merge it into its base"),
        (run, "It is the folder of a run. `waltz export RUN --merged --to FOLDER` writes its models."),
        (without_tokenizer, "holds no tokenizer. Put the files of the model's tokenizer"),
        (without_weights, "no file named model.safetensors"),
        (pointer_for_weights, "Error while deserializing header"),
        (deeper, "12 of its weights are not there, such as model.layers.2."),
        (classifier, "Unrecognized configuration class"),
    ],
)
def test_a_folder_that_is_not_a_whole_chat_model_is_refused(
    change: Callable[[Path], object],
    expected: str,
    model: str,
    sets: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "changed"))
    change(folder)
    code, told, error = dry_run(capsys, "--model", str(folder), *sets, *SMALL)
    assert code == 2
    assert "Sample game" not in told
    assert f"{str(folder)!r}" in error
    assert expected in error
    assert len(error.strip().splitlines()[-1]) < 500


def built(tmp_path: Path, **options: Any) -> Workbench:
    """What the preset builds with these options, on prompts of both kinds."""
    prompts = (prompts_file(tmp_path / "train.jsonl"),)
    given: dict[str, Any] = {"max_new_tokens": 6, "system_prompts": "short"} | options
    chosen = ChatOptions(prompts=prompts, test=("builtin:test:5",), **given)
    recipe = replace(preset("chat").recipe, options=chosen)
    return workbench(recipe, RunFolder(tmp_path / "run"), accelerator=Accelerator())


def policies(bench: Workbench) -> list[LanguageModelPolicy]:
    agents = [bench.agents[name] for name in AGENTS]
    assert all(isinstance(agent, TransformersAgent) for agent in agents)
    return [agent.policy for agent in agents]  # type: ignore[attr-defined]


def test_two_models_have_an_adapter_each(model: str, tmp_path: Path) -> None:
    other = save_tiny_model("gpt2", tmp_path / "other")
    speaker, reviewer = policies(built(tmp_path, model=model, feedback_model=str(other), adapter_rank=2))
    assert [type(policy.model).__name__ for policy in (speaker, reviewer)] == ["Qwen2ForCausalLM", "GPT2LMHeadModel"]
    assert (speaker.rank, reviewer.rank) == (2, 2)


def test_all_weights_are_trained_from_one_reference(model: str, tmp_path: Path) -> None:
    speaker, reviewer = policies(built(tmp_path, model=model, all_weights=True, temperature=0.5))
    assert (speaker.rank, speaker.temperature, len(speaker.parameters())) == (None, 0.5, len(reviewer.parameters()))
    assert speaker.model is not reviewer.model
    assert speaker._reference is reviewer._reference


def test_options_reach_the_agents(model: str, tmp_path: Path) -> None:
    bench = built(tmp_path, model=model, feedback_tokens=3, context=500, batch_size=2)
    speaker, reviewer = (bench.agents[name] for name in AGENTS)
    assert isinstance(speaker, TransformersAgent)
    assert isinstance(reviewer, TransformersAgent)
    assert [agent.max_new_tokens for agent in (speaker, reviewer)] == [6, 3]
    assert [agent.encoder.max_tokens for agent in (speaker, reviewer)] == [494, 494]
    assert speaker.batch_size == 2


def test_prompts_are_taken_by_count_and_share_and_no_text_twice(tmp_path: Path) -> None:
    first, second = prompts_file(tmp_path / "a.jsonl"), prompts_file(tmp_path / "b.jsonl", count=30, start=30)
    test = prompts_file(tmp_path / "t.jsonl", count=4, start=50)
    sets = gather([f"{first}:50%", f"{second}:12"], [test], seed=0)
    a, b = sets.sources
    texts = {prompt.text for prompt in a.taken}
    repeated = len(texts & {f"request {n}" for n in range(30, 40)})
    assert (len(a.taken), a.repeated, a.held_out) == (20, 0, 0)
    assert (len(b.taken), b.repeated, b.held_out) == (12, repeated, 4)
    assert not texts & {prompt.text for prompt in b.taken}
    assert len(sets.train) + len(sets.validation) == 32
    assert len({prompt.id for prompt in [*sets.train, *sets.validation]}) == 32  # both files have an id "35"
    assert sets != gather([f"{first}:50%", f"{second}:12"], [test], seed=1)


def test_a_run_keeps_the_prompts_that_it_drew(model: str, tmp_path: Path) -> None:
    before = built(tmp_path, model=model)
    (tmp_path / "train.jsonl").write_text("")
    again = built(tmp_path, model=model)
    assert (again.prompts, again.validation, again.tests) == (before.prompts, before.validation, before.tests)


def test_a_folder_is_remembered_from_anywhere(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(model).parent)
    recipe = parse(["train", "--model", "qwen", "--feedback-model", "owner/name"]).recipe  # type: ignore[attr-defined]
    assert (recipe.preset, recipe.options.model, recipe.options.feedback_model) == ("chat", model, "owner/name")


def test_other_presets_take_the_options_too(model: str) -> None:
    recipe = parse(["train", "--preset", "smollm2", "--model", model, "--warm-start", "0"]).recipe  # type: ignore[attr-defined]
    assert recipe.options == replace(preset("smollm2").recipe.options, model=model, warm_start=0)  # type: ignore[type-var]
    llama = replace(preset("llama-3.1-8b-lora").recipe, options=ChatOptions(model=model, test=()))
    with pytest.raises(UsageError, match="Name both --prompts and --test, or neither"):
        workbench(llama, RunFolder(Path("unused")), accelerator=Accelerator())


@pytest.mark.parametrize("source", [["--preset", "nano"], ["--config", "nano.toml"]], ids=["flag", "file"])
def test_a_preset_with_its_own_model_takes_no_other(
    source: list[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nano.toml").write_text('preset = "nano"\n')
    with pytest.raises(UsageError, match="The preset nano has a model of its own.*leave out --preset"):
        parse(["train", *source, "--model", model])


def test_a_warm_start_teaches_each_model_its_own_role(talking: str, tmp_path: Path) -> None:
    other = save_tiny_model("mistral", tmp_path / "other")
    bench = built(tmp_path, model=talking, feedback_model=str(other), warm_start=2, max_new_tokens=48)
    folders = [tmp_path / "run" / "base" / name for name in AGENTS]
    assert [policy.model.name_or_path for policy in policies(bench)] == [str(folder) for folder in folders]
    for source, folder in zip((Path(talking), other), folders, strict=True):
        weights = load_file(folder / "model.safetensors")
        before = load_file(source / "model.safetensors")
        assert weights.keys() == before.keys()
        assert any(not torch.equal(weights[name].float(), before[name]) for name in before)


def test_memory_is_worked_out_from_the_shapes(model: str) -> None:
    options = ChatOptions(model=model, adapter_rank=4, dtype="float32", max_new_tokens=100, context=400, batch_size=8)
    recipe = replace(preset("chat").recipe, options=options)
    parts = {part.what: part.size for part in needs(outlined_agents(recipe, accelerator=Accelerator()), recipe)}
    assert parts["base weights"] == 35_424 * 4
    assert parts["adapters"] == 2 * 4_096 * 4
    assert parts["gradients and optimizer"] == 2 * 4_096 * 12  # stage 2 trains both
    # Per layer: q 32 x 32, k and v 32 x 16, o 32 x 32, and three matrices of 32 x 64.
    assert parts["merged weights"] == 2 * (1_024 + 512 + 512 + 1_024 + 3 * 2_048) * 4
    # Keys and values of 2 layers with 2 heads of width 8, for 8 rows of 400 tokens.
    assert parts["KV cache"] == 2 * 2 * 2 * 8 * 4 * 8 * 400
    # 2,048 tokens hold five rows. A layer reads 32 numbers six times and 64 once, and keeps as many again.
    assert parts["activations"] == 5 * 400 * 2 * (6 * 32 + 64) * 2 * 4
    assert parts["logits"] == 6 * 5 * 100 * 261 * 4
    # 8 prompts of 300 tokens, and three tensors as wide as the widest layer.
    assert parts["reading prompts"] == 3 * 8 * 300 * 64 * 4
    assert parts["drawing tokens"] == 8 * 261 * (4 + 4 + 4 + 8)
    quantized = needs(outlined_agents(recipe, accelerator=Accelerator()), recipe, quantize="8bit")
    assert quantized[0].size == (35_424 - 18_432) * 4 + 18_432
    held = ("base weights", "adapters", "gradients and optimizer", "activations", "logits")
    together = sum(parts[name] for name in held)
    assert at_once(needs(outlined_agents(recipe, accelerator=Accelerator()), recipe)) == together


def test_the_outline_of_smollm2_has_the_dtype_of_the_run() -> None:
    options = ChatOptions(model="smollm2", dtype="bfloat16")
    recipe = replace(preset("chat").recipe, options=options)
    base = needs(outlined_agents(recipe, accelerator=Accelerator()), recipe)[0]
    assert (base.what, base.size) == ("base weights", 134_515_008 * 2)


def test_a_run_that_cannot_fit_is_refused_before_its_weights_are_loaded(
    sets: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_model("qwen", tmp_path / "huge")
    shape = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(shape | {"hidden_size": 65_536, "intermediate_size": 262_144}))
    code, told, error = dry_run(capsys, "--model", str(folder), *sets, *SMALL)
    assert code == 2
    assert "base weights: 412" in told  # 2 layers with 3 matrices of 65,536 x 262,144, in float32
    assert "Judge" not in told
    assert "Most of it are the base weights. Choose a smaller model, --dtype bfloat16 or --quantize 4bit." in error


def test_a_dry_run_tells_how_long_the_run_will_take(
    model: str, sets: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    _, told, _ = dry_run(capsys, "--model", model, *sets, *SMALL, "--loop.games", "16", "--stage-1.steps", "3")
    seconds = {
        name: [float(each) for each in re.findall(r"([\d.]+) s\b", line)]
        for line in told.splitlines()
        for name in ("8 games:", "stage-1:", "stage-2:")
        if line.strip().startswith(name)
    }
    playing, feedback, conversation = seconds["8 games:"]
    assert seconds["stage-1:"] == [pytest.approx(2 * (playing + feedback), abs=0.3)]
    assert seconds["stage-2:"] == [pytest.approx(2 * (playing + feedback + conversation), abs=0.4)]
    assert min(feedback, conversation) > 0
    assert "stage-1: 3 steps of 16 games" in told
    assert "6 held-out games, played 3 times" in told


PAGE = Path(__file__).parents[1] / "docs" / "own-model.md"


def blocks(language: str = "") -> list[str]:
    """The page's blocks of code in one language; those without one are commands that are followed."""
    found = re.findall(r'^```(\w*)(?: title="[^"]+")?\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [text for each, text in found if each == language]


@pytest.fixture
def small(tmp_path: Path) -> str:
    """The settings for small models that the page gives, as a file."""
    (settings,) = blocks("toml")
    (tmp_path / "small.toml").write_text(settings)
    return str(tmp_path / "small.toml")


def settings_in(encoded: object, name: str = "") -> dict[str, object]:
    """Every single setting, by its place in the recipe."""
    if not isinstance(encoded, dict | list):
        return {name: encoded}
    inner: Iterable[tuple[object, object]] = encoded.items() if isinstance(encoded, dict) else enumerate(encoded)
    return {place: value for key, each in inner for place, value in settings_in(each, f"{name}.{key}").items()}


def test_settings_of_the_page_for_small_models_are_those_of_smollm2(model: str, small: str) -> None:
    """In every setting but the name of the preset and the model."""
    own = parse(["train", "--config", small, "--model", model, "--prompts", "builtin:train", "--test", "builtin:test"])
    recipes = [preset("smollm2").recipe, own.recipe]  # type: ignore[attr-defined]
    theirs, ours = (settings_in(encode(recipe)) for recipe in recipes)
    assert theirs.keys() == ours.keys()
    differing = {name.removeprefix("."): (theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]}
    assert differing == {"preset": ("smollm2", "chat"), "options.model": ("smollm2", model)}


def made_by(folder: RunFolder) -> dict[str, object]:
    """What a run computed: its base, weights, games and rates. Seconds, and tokens per second, are left out."""
    suffixes = {".safetensors", ".jsonl"}
    made: dict[str, object] = {
        str(path.relative_to(folder.path)): path.read_bytes()
        for path in sorted(folder.path.rglob("*"))
        if path.suffix in suffixes and path != folder.metrics
    }
    lines = ({name: value for name, value in line.items() if "second" not in name} for line in folder.read_metrics())
    return made | {"metrics": list(lines), "sets": json.loads(folder.results.read_text())["sets"]}


def test_a_small_model_and_the_smollm2_preset_make_the_same_run(
    talking: str, sets: tuple[str, ...], small: str, tmp_path: Path
) -> None:
    few = ("--model", talking, *sets, "--warm-start", "1", "--warm-start-share", "1", *STEPS)
    runs = {}
    for name, chosen in (("preset", ("--preset", "smollm2")), ("model", ("--config", small))):
        assert main(["train", *chosen, *few, "--out", str(tmp_path / name)]) == 0
        runs[name] = made_by(RunFolder(tmp_path / name))
    assert {"base/model.safetensors", "games/training/step-00002.jsonl"} < runs["model"].keys()
    assert len([name for name in runs["model"] if name.startswith("weights/")]) == 2
    assert runs["model"] == runs["preset"]


def test_the_page_can_be_followed(talking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the page in its order, with small settings. The last two start processes of their own."""
    monkeypatch.chdir(tmp_path)
    Path("my-model").symlink_to(talking)
    prompts_file(Path("mine.jsonl"))
    prompts_file(Path("held-out.jsonl"), count=4, start=38)
    commands = [shlex.split(line)[1:] for line in "".join(blocks()).splitlines()]
    assert [words[0] for words in commands[-2:]] == ["benchmark", "serve"]
    small = ["--warm-start", "1", *SMALL, "--max-new-tokens", "40", *STEPS]
    for words in commands[:-2]:
        more = small if words[0] == "train" and "--resume" not in words else []
        assert main([*words, *(["--prompts", "held-out.jsonl"] if words[0] == "evaluate" else []), *more]) == 0
    benchmark, server = map(parse, commands[-2:])
    assert benchmark.recipe == read_recipe(RunFolder(Path("runs/mine")))  # type: ignore[attr-defined]
    with closing(server.duet()) as duet:  # type: ignore[attr-defined]
        assert duet.respond([Message(role="user", content="Hello")]).text
    assert Path("runs/mine/report.html").is_file()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_stage_is_told_once_however_often_training_is_stopped(model: str, tmp_path: Path, stopped: bool) -> None:
    """A run that is stopped when stage 1 has all its steps tests them when it goes on."""
    tell: list[list[str]] = []
    options = ChatOptions(
        model=model,
        prompts=(prompts_file(tmp_path / "mine.jsonl"),),
        test=("builtin:test:4",),
        system_prompts="short",
        max_new_tokens=4,
    )
    chat = preset("chat").recipe
    recipe = with_steps(replace(chat, options=options, loop=replace(chat.loop, games=2)), 1, 1)
    more: dict[str, Any] = {"tell": lambda sets: tell.append(list(sets["builtin-test"]["systems"]))}
    stops = iter([stopped, False, False])
    results = execute(recipe, tmp_path / "run", should_stop=lambda: next(stops), **more)
    assert (results is None) is stopped
    if stopped:
        results = execute(recipe, tmp_path / "run", resume=True, **more)
    assert tell == [["baseline", "untrained_pair"], ["baseline", "untrained_pair", "after_stage-1"]]
    assert results is not None
    assert list(results["sets"]["builtin-test"]["systems"])[-1] == "trained_pair"
