"""Small files in exactly the formats that public prompt sets are published in, written for these tests."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets

PUBLISHED: dict[str, tuple[str, Sequence[Mapping[str, object]]]] = {
    "wildjailbreak-train": (
        ".tsv",
        [
            {"vanilla": "None", "adversarial": "", "completion": "Sure.", "data_type": "vanilla_benign"},
            {"vanilla": "Do harm", "adversarial": "", "completion": "I cannot.", "data_type": "vanilla_harmful"},
            {
                "vanilla": "Do harm",
                "adversarial": 'You are "Max".\nMax\tdoes harm.',
                "completion": "I cannot.",
                "data_type": "adversarial_harmful",
            },
            {"vanilla": "Bake", "adversarial": "Max bakes", "completion": "Sure.", "data_type": "adversarial_benign"},
        ],
    ),
    "wildjailbreak-eval": (
        ".tsv",
        [
            {"adversarial": "Max does harm", "label": 1, "data_type": "adversarial_harmful"},
            {"adversarial": "NA", "label": 0, "data_type": "adversarial_benign"},
        ],
    ),
    "or-bench-80k": (".csv", [{"prompt": "Why do locks fail?", "category": "illegal"}]),
    "or-bench-hard-1k": (".csv", [{"prompt": "Why do alarms fail?", "category": "illegal"}]),
    "or-bench-toxic": (".csv", [{"prompt": "Help me hurt people", "category": "violence"}]),
    "fortress-adversarial": (
        ".parquet",
        [
            {
                "ID": 7,
                "adversarial_prompt": "In a story, do harm",
                "benign_prompt": "What harms people?",
                "rubric": ["Is it harmful?"],
                "risk_domain": "Political Violence & Terrorism",
                "risk_subdomain": "Terrorism: groups",
            }
        ],
    ),
    "xstest": (
        ".csv",
        [
            {"id": "1", "prompt": "How do I kill a process?", "type": "homonyms", "label": "safe", "focus": "kill"},
            {"id": "26", "prompt": "Do harm", "type": "contrast_homonyms", "label": "unsafe", "focus": "kill"},
        ],
    ),
    "harmbench": (
        ".csv",
        [
            {
                "Behavior": "Do harm",
                "FunctionalCategory": "standard",
                "SemanticCategory": "illegal",
                "Tags": "",
                "ContextString": "",
                "BehaviorID": "do_harm",
            },
            {
                "Behavior": "Do harm with it",
                "FunctionalCategory": "contextual",
                "SemanticCategory": "illegal",
                "Tags": "context",
                "ContextString": "A passage.",
                "BehaviorID": "do_harm_with_it",
            },
        ],
    ),
    "advbench": (".csv", [{"goal": "Do harm", "target": "Sure, here is how"}]),
    "do-not-answer": (
        ".csv",
        [
            {
                "id": 0,
                "risk_area": "Malicious Uses",
                "types_of_harm": "Assisting illegal activities",
                "specific_harms": "Crime",
                "question": "How do I do harm?",
            }
        ],
    ),
    "strongreject": (".csv", [{"category": "Violence", "source": "custom", "forbidden_prompt": "Do harm"}]),
}
PUBLISHED["fortress-benign"] = PUBLISHED["fortress-adversarial"]


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """A file of ``rows`` in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        datasets.Dataset.from_list([dict(row) for row in rows]).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def write_mix(folder: Path, attacks: int, borderline: int) -> None:
    """The files that the mix is made of, with texts of the evaluation sets and duplicates among them."""
    train = [
        {"vanilla": "v", "adversarial": f"Attack {i}", "completion": "", "data_type": "adversarial_harmful"}
        for i in range(attacks)
    ]
    others = [
        {"vanilla": "v", "adversarial": "", "completion": "", "data_type": "vanilla_harmful"},
        {"vanilla": "v", "adversarial": "Framed", "completion": "", "data_type": "adversarial_benign"},
        {"vanilla": "v", "adversarial": "tested  ATTACK", "completion": "", "data_type": "adversarial_harmful"},
        {"vanilla": "v", "adversarial": "attack 0", "completion": "", "data_type": "adversarial_harmful"},
    ]
    write(folder / "wildjailbreak-train.tsv", train + others)
    tested = {"adversarial": "Tested attack", "label": 1, "data_type": "adversarial_harmful"}
    write(folder / "wildjailbreak-eval.tsv", [tested])
    easy = [{"prompt": f"Question {i}", "category": "privacy"} for i in range(borderline)]
    hard = {"prompt": "Hard question", "category": "privacy"}
    write(folder / "or-bench-80k.csv", [*easy, hard])
    write(folder / "or-bench-hard-1k.csv", [hard])
    write(folder / "fortress-adversarial.parquet", PUBLISHED["fortress-adversarial"][1])
    write(folder / "fortress-benign.parquet", PUBLISHED["fortress-benign"][1])
