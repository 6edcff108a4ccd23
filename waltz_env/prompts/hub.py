"""Rows of data sets on the Hugging Face hub, or in a folder that is laid out like one, by the library ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from waltz_env.errors import DataError, UsageError
from waltz_env.prompts.rows import Row, Rows
from waltz_env.prompts.tables import NEEDS_DATA


@dataclass(frozen=True, slots=True)
class HubTable:
    """One split of a data set on the hub.

    Attributes:
        dataset: ``"owner/name"``.
        config: its configuration; empty: the default one.
        split: which split.
        options: what ``load_dataset`` must be told to read its files rightly.
    """

    dataset: str
    config: str = ""
    split: str = "train"
    options: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"hub:{self.dataset}:{self.config}:{self.split}"

    def rows(self) -> Rows:
        """Its rows; the files are downloaded once and kept by ``datasets``.

        Raises:
            UsageError: ``datasets`` is not installed.
            DataError: the data set cannot be loaded; the message says what to do where access must be asked for.
        """
        try:
            from datasets import load_dataset
            from datasets.exceptions import DatasetsError
        except ImportError as error:
            raise UsageError(f"{self} {NEEDS_DATA}.") from error
        try:
            table = load_dataset(self.dataset, self.config or None, split=self.split, **self.options)
        except (DatasetsError, OSError, ValueError) as error:
            raise DataError(
                f"Cannot load {self}: {error}\nIf access must be granted, ask for it at "
                f"https://huggingface.co/datasets/{self.dataset} and log in with `hf auth login`; without a network, "
                "give a local copy of its files (docs/data.md)."
            ) from error
        for number, cells in enumerate(table, 1):
            yield Row(number, f"{self}, row {number}", cells)
