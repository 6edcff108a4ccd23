"""``--preset llama-3.1-8b``: a dry run of the whole command, everything real but the weights and the verdicts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator, dispatch_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.published import write_mix
from tests.tiny import tiny_model, tiny_tokenizer
from tests.upstream import Script, Upstream, sends
from waltz_env.agents import full_policy, lora_policies
from waltz_env.algorithms import Sample, with_settings
from waltz_env.cli import main
from waltz_env.presets import llama, preset
from waltz_env.prompts import paper_mix
from waltz_env.records import read_games
from waltz_env.run_folder import RunFolder
from waltz_env.types import AGENTS, Kind


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder below which the model and the prompt sets lie as they are published; the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WALTZ_DATA", str(tmp_path / "data"))
    write_mix(tmp_path / "data", attacks=10_000, borderline=10_000)
    (tmp_path / "data" / "strongreject.csv").write_text(
        "category,source,forbidden_prompt\nViolence,custom,Do harm\n", encoding="utf-8"
    )
    model = tiny_model()
    # The real model ends a turn with any of three tokens; of a random one many must end it, or no turn would be short.
    model.generation_config.eos_token_id = [tiny_tokenizer().eos_token_id, *range(0, 256, 6)]
    model.save_pretrained(tmp_path / llama.MODEL)
    tiny_tokenizer().save_pretrained(tmp_path / llama.MODEL)
    return tmp_path


def wildguard(upstream: Callable[[Script], Upstream]) -> Upstream:
    """A server that answers as WildGuard does, harmful for every other request."""

    def answer(body, number):
        harmful = "yes" if number % 2 else "no"
        text = f"Harmful request: yes\nResponse refusal: no\nHarmful response: {harmful}"
        return sends(json.dumps({"choices": [{"text": text}]}))

    return upstream(answer)


def test_the_papers_command_runs_from_end_to_end_on_a_tiny_model_of_the_same_kind(
    published: Path, upstream: Callable[[Script], Upstream]
) -> None:
    judge = wildguard(upstream)
    arguments = ["--judge", f"wildguard@{judge.url}", "--stage-1.steps", "1", "--stage-2.steps", "1", "--out", "run"]
    assert main(["train", "--preset", "llama-3.1-8b", *arguments, "--loop.games", "8"]) == 0

    assert judge.requests[0]["model"] == "allenai/wildguard"
    assert "[INST] You are a classifier" in judge.requests[0]["prompt"]
    sets = json.loads((published / "run" / "results.json").read_text())["sets"]
    assert {each: list(content["systems"]) for each, content in sets.items()} == {
        each: ["baseline", "untrained_pair", "trained_pair"]
        for each in (
            "wildjailbreak-eval",
            "fortress-adversarial",
            "strongreject",
            "or-bench-hard-1k",
            "fortress-benign",
        )
    }
    first, second = map(json.loads, (published / "run" / "metrics.jsonl").read_text().splitlines())
    assert (first["stage"], second["stage"]) == ("stage-1", "stage-2")
    # It has not moved yet: the policy is its reference, in the precision that both are trained in.
    assert second["conversation_0/kl"] == pytest.approx(0, abs=1e-6)
    assert second["conversation_0/ratio_mean"] == pytest.approx(1, abs=1e-6)
    stages = paper_mix(seed=0)
    for step, stage in enumerate(stages, 1):
        games = read_games(RunFolder(published / "run").games_of_step(step))
        assert len(games) == 8
        assert {game.prompt for game in games} <= set(stage)
    assert all((published / "run" / "weights" / agent / "model.safetensors").exists() for agent in AGENTS)


def test_the_workbench_holds_the_papers_data(published: Path, tmp_path: Path) -> None:
    recipe = preset("llama-3.1-8b-lora").recipe
    bench = llama.build_workbench(recipe, RunFolder(tmp_path), Accelerator())
    assert isinstance(bench.prompts, dict)
    assert {name: Counter(p.kind for p in prompts) for name, prompts in bench.prompts.items()} == {
        "stage-1": {Kind.HARMFUL: 5000, Kind.BENIGN: 5000},
        "stage-2": {Kind.HARMFUL: 5000, Kind.BENIGN: 5000},
    }
    assert not set(bench.prompts["stage-1"]) & set(bench.prompts["stage-2"])
    assert len(bench.training_prompts) == 20_000
    assert {name: tests[0].kind for name, tests in bench.tests.items()} == {
        "wildjailbreak-eval": Kind.HARMFUL,
        "fortress-adversarial": Kind.HARMFUL,
        "strongreject": Kind.HARMFUL,
        "or-bench-hard-1k": Kind.BENIGN,
        "fortress-benign": Kind.BENIGN,
    }


def test_the_recipe_has_the_papers_numbers() -> None:
    recipe = preset("llama-3.1-8b").recipe
    learners = [learner for stage in recipe.stages for learner in stage.learners.values()]
    assert learners == [llama.LEARNER] * 3
    learner = llama.LEARNER
    shared = learner.surrogate
    assert (shared.learning_rate, shared.beta, shared.clip) == (5e-7, 0.01, 0.2)
    assert (shared.epochs, shared.minibatches, learner.aggregation) == (1, 1, "sequence")
    assert (recipe.loop.games, recipe.loop.branches, recipe.loop.samples.turns) == (32, (1, 1, 1), "one")
    assert [(stage.steps, stage.rules.max_rounds) for stage in recipe.stages] == [(312, 1), (312, 1)]
    weights = [stage.weights for stage in recipe.stages]
    assert [(w.improvement, w.label, w.format) for w in weights] == [(0.65, 0.25, 0.1), (0.65, 0.0, 0.1)]
    assert recipe.judge == "wildguard"


def test_the_real_architecture_takes_two_adapters_and_has_the_size_that_the_page_reckons_with() -> None:
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
        assert sum(p.numel() for p in model.parameters()) == 8_030_261_248
        policies = lora_policies(model, tiny_tokenizer())
    assert [sum(p.numel() for p in policies[agent].parameters()) for agent in AGENTS] == [41_943_040] * 2


def test_a_model_that_accelerate_spreads_over_devices_learns_as_one_that_is_not_spread() -> None:
    """Here the devices are one CPU, but each layer has the hooks that carry its inputs and outputs along."""
    updated = []
    for spread in (False, True):
        model, reference = tiny_model(), tiny_model()
        if spread:
            parts = [
                "model.embed_tokens",
                "model.layers.0",
                "model.layers.1",
                "model.norm",
                "model.rotary_emb",
                "lm_head",
            ]
            for each in (model, reference):
                dispatch_model(each, dict.fromkeys(parts, "cpu"), force_hooks=True)
        policy = full_policy(model, tiny_tokenizer(), reference=reference)
        learner = with_settings(llama.LEARNER, learning_rate=1e-3).build(policy)
        rows = [Sample((1, 2, 3), (i, 7), (-5.0, -5.0), float(i % 2), i, 0) for i in range(4)]
        assert learner.update(rows)["kl"] == pytest.approx(0, abs=1e-6)
        with policy.sampling_model(torch.bfloat16) as sampler:
            assert {parameter.dtype for parameter in sampler.parameters()} == {torch.bfloat16}
        updated.append(policy.state_dict())
    assert all(torch.equal(updated[0][name], updated[1][name]) for name in updated[0])
    assert any(not torch.equal(updated[0][name], weight) for name, weight in tiny_model().state_dict().items())
