"""Rows of data sets on the Hugging Face hub, or in a folder with the layout of one, by the library ``datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from waltz_env.errors import DataError, UsageError
from waltz_env.prompts.rows import TableRow, TableRows
from waltz_env.prompts.tables import NEEDS_DATA


@dataclass(frozen=True, slots=True)
class HubTable:
    """One split of a data set on the hub.

    Attributes:
        dataset: name of the data set, ``"owner/name"``, or path of a folder.
        config: name of its configuration; empty for the default one.
        split: name of the split.
        options: arguments that ``load_dataset`` needs to read its files correctly.
    """

    dataset: str
    config: str = ""
    split: str = "train"
    options: Mapping[str, object] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"hub:{self.dataset}:{self.config}:{self.split}"

    def rows(self) -> TableRows:
        """The rows of the split; ``datasets`` downloads the files once and keeps them.

        Raises:
            UsageError: ``datasets`` is not installed.
            DataError: the data set cannot be loaded; the message says how to request access.
        """
        try:
            from datasets import load_dataset
            from datasets.exceptions import DatasetsError
        except ImportError as error:
            raise UsageError(f"{self} {NEEDS_DATA}") from error
        try:
            table = load_dataset(self.dataset, self.config or None, split=self.split, **self.options)
        except (DatasetsError, OSError, ValueError) as error:
            raise DataError(
                f"Cannot load {self}: {error}\nIf the data set is gated, request access at "
                f"https://huggingface.co/datasets/{self.dataset} and log in with `hf auth login`. Without a network, "
                "use a local copy of its files (docs/data.md)."
            ) from error
        for number, cells in enumerate(table, 1):
            yield TableRow(number, f"{self}, row {number}", cells)
