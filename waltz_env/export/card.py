"""The model card of an export, written from the run's own files; what they do not tell is a dash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from waltz_env.agents.templates import TEMPLATES, chats
from waltz_env.agents.vllm_engine import max_lora_rank
from waltz_env.experiments.pairs import laboratory_note
from waltz_env.experiments.results import Rate, Results, read_results
from waltz_env.export.weights import BASE, ROLES, Export
from waltz_env.presets import Recipe
from waltz_env.report.tables import RATES, TRIGGERS, title
from waltz_env.types import Message

UNKNOWN = "-"
COLUMNS = {
    **{name: RATES[name] for name in ("asr", "orr", "asr_first", "orr_first")},
    "ftr": ("FTR", f"feedback trigger rate: share of first critiques that raise a flag, {TRIGGERS['ftr'][1]}"),
    **{name: RATES[name] for name in ("label_accuracy", "judge_error_rate")},
}
URL = "http://127.0.0.1:{port}/v1"

Chats = Mapping[str, Mapping[str, Sequence[Message]]]


def chats_of(export: Export) -> Chats:
    """What each role was trained to read on each of its turns; empty for runs that did not write it down."""
    players = read_results(export.run).get("players", {})
    found = {role: players.get(ROLES[role], {}).get("chats") for role in export.weights}
    return {role: turns for role, turns in found.items() if turns}


def write_card(export: Export, path: Path, *, name: str) -> None:
    """Write the model card.

    Args:
        export: what the card describes.
        path: file to write.
        name: title of the card.
    """
    results = read_results(export.run)
    prompts = chats_of(export)
    card = ModelCard.from_template(
        _header(export, results),
        template_path=str(Path(__file__).with_name("card.md.j2")),
        title=name,
        agents=" and ".join(f"{'a' if number else 'A'} {role} agent" for number, role in enumerate(export.weights)),
        facts={key: _cell(value) for key, value in _facts(export, results).items()},
        tables=_tables(results),
        legend=[f"{label}: {words}." for label, words in COLUMNS.values()],
        limits=_limits(export),
        program=_program(export),
        vllm=_vllm(export),
        serve=_serve(export, prompts),
        chats={f"{role} agent, {turn}": chat for role, turns in prompts.items() for turn, chat in turns.items()},
    )
    path.write_text(str(card), encoding="utf-8")


def _header(export: Export, results: Results) -> ModelCardData:
    base = _base_name(export, results)
    return ModelCardData(
        base_model=base,
        base_model_relation=None if base is None else "finetune" if export.merged or export.brings_base else "adapter",
        library_name="transformers" if export.merged else "peft",
        license=results.get("base", {}).get("license") or None,
        pipeline_tag="text-generation",
        tags=["waltz_env", "waltzrl", "safety", *([] if export.merged else ["lora"])],
    )


def _base_name(export: Export, results: Results) -> str | None:
    return export.base_name or results.get("base", {}).get("name") or None


def _facts(export: Export, results: Results) -> dict[str, str]:
    recipe = export.recipe
    prompts = results.get("training_prompts", {})
    players = {role: results.get("players", {}).get(ROLES[role], {}) for role in export.weights}
    versions = results.get("versions", {})
    base = _base_name(export, results) or UNKNOWN
    return {
        "base model": f"`{BASE}/`, made from: {base}" if export.brings_base else base,
        "license of the base model": results.get("base", {}).get("license") or UNKNOWN,
        "training prompts": ", ".join(f"{source or UNKNOWN} ({number})" for source, number in prompts.items())
        or UNKNOWN,
        "judge": recipe.judge,
        "preset, method, seed": f"{recipe.preset}, {recipe.method}, {recipe.seed}",
        **_stages(recipe),
        "sampling": "; ".join(
            f"{role}: temperature {about['temperature']:g}, at most {about['max_new_tokens']} tokens"
            for role, about in players.items()
            if about
        )
        or UNKNOWN,
        "weights": "whole models" if export.merged else "LoRA adapters in PEFT's format",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if name != "platform")
        or UNKNOWN,
    }


def _stages(recipe: Recipe) -> dict[str, str]:
    if (fit := recipe.distilled) is not None:
        return {
            "distilled": f"{fit.steps} steps of supervised learning on {fit.batch_size} responses, learning rate "
            f"{fit.learning_rate:g}"
        }
    rows = {}
    for stage in recipe.stages:
        learners = []
        for agent, learner in stage.learners.items():
            surrogate = getattr(learner, "surrogate", None)
            rates = f", learning rate {surrogate.learning_rate:g}, KL weight {surrogate.beta:g}" if surrogate else ""
            learners.append(f"{agent} by {type(learner).__name__.removesuffix('Config')}{rates}")
        weights = stage.weights
        rows[stage.name] = (
            f"{stage.steps} steps of {recipe.loop.games} games; {'; '.join(learners)}; weights of the feedback reward: "
            f"improvement {weights.improvement:g}, label {weights.label:g}, format {weights.format:g}"
        )
    return rows


def _tables(results: Results) -> dict[str, list[list[str]]]:
    """The rows of each held-out set, with a head."""
    head = ["system", *(label for label, _ in COLUMNS.values())]
    return {
        name: [
            head,
            ["---"] * len(head),
            *(
                [_cell(title(system)), *(_rate(rates.get(column)) for column in COLUMNS)]
                for system, rates in systems.items()
            ),
        ]
        for name, content in results.get("sets", {}).items()
        if (systems := content["systems"])
    }


def _rate(rate: Rate | None) -> str:
    value, low, high = (rate["value"], rate["low"], rate["high"]) if rate else (None, None, None)
    if value is None or low is None or high is None:
        return UNKNOWN
    return f"{100 * value:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def _limits(export: Export) -> list[str]:
    judge = export.recipe.judge
    limits = [
        f"The rates are those of the judge `{judge}` on these prompts, for one run. Other judges, prompts and seeds "
        "give other rates.",
        "The trained pair's rates are those of both agents together. The conversation agent alone has those of its "
        "drafts.",
        "Nobody has looked for what this training does not measure; the base model's own limits remain.",
    ]
    if judge in ("rules", "embedding"):
        limits.insert(1, f"The judge `{judge}` cannot see whether an answer does harm: no rate is evidence of safety.")
    note = laboratory_note(export.run)
    return [note, *limits] if note else limits


def _path(export: Export, role: str) -> str:
    """The folder of a role's weights, written so that nobody takes it for a name on the hub."""
    place = export.place(role)
    return place if place == "." else f"./{place}"


def _program(export: Export) -> str:
    folder = _path(export, next(iter(export.weights)))
    lines = [
        *([] if export.merged else ["from peft import PeftModel"]),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
        f'model = AutoModelForCausalLM.from_pretrained("{folder if export.merged else _base(export)}")',
        *([] if export.merged else [f'model = PeftModel.from_pretrained(model, "{folder}")']),
    ]
    return "\n".join(lines)


def _base(export: Export) -> str | None:
    return f"./{BASE}" if export.brings_base else export.base_name


def _vllm(export: Export) -> list[str]:
    """The command, or one for each role, that serves what was exported; ports count from 8000."""
    if not export.merged:
        modules = " ".join(f"{role}={_path(export, role)}" for role in export.weights)
        lora = f"--enable-lora --max-lora-rank {max_lora_rank(export.ranks())} --lora-modules {modules}"
        return [f"vllm serve {_base(export)} {lora} --generation-config vllm"]
    return [
        f"vllm serve {_path(export, role)} --served-model-name {role} --generation-config vllm --port {8000 + number}"
        for number, role in enumerate(export.weights)
    ]


def _serve(export: Export, prompts: Chats) -> str | None:
    """The command for the chat server in front of vLLM; None where it would send other prompts than in training."""
    usual = {role: chats(agent, TEMPLATES[agent]) for role, agent in ROLES.items()}
    if json.dumps(prompts, sort_keys=True) != json.dumps(usual, sort_keys=True):
        return None
    ports = {role: 8000 + number * export.merged for number, role in enumerate(ROLES)}
    roles = [f"--{role}-url {URL.format(port=ports[role])} --{role}-model {role}" for role in ROLES]
    return f"waltz serve --port 9000 {' '.join(roles)}"


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")
