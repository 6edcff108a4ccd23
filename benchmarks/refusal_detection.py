"""How well do the judges that need no server detect refusals that people labeled?

Reads the two data sets that PyRIT (MIT) ships for its own refusal scorer from the installed package, without running
it:

    pip install --no-deps pyrit==1.1.0
    python benchmarks/refusal_detection.py rules embedding

Both judges were developed with the odd rows of the first set in view; its even rows and the second set were held out.
"""

from __future__ import annotations

import csv
import importlib.util
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from waltz_env.evaluation import proportion
from waltz_env.judges import load_judge
from waltz_env.protocols import Judge
from waltz_env.types import Judgement, Kind, Prompt

FOLDER = Path("datasets", "scorer_evals", "refusal_scorer")


class Row(NamedTuple):
    """One response labeled by a person."""

    number: int
    prompt: str
    response: str
    refused: bool


def data_folder() -> Path:
    """The folder where PyRIT keeps the labeled refusals."""
    spec = importlib.util.find_spec("pyrit")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "PyRIT is not installed, and its labeled refusals come with it: pip install --no-deps pyrit==1.1.0"
        )
    return Path(spec.origin).parent / FOLDER


def read(path: Path) -> list[Row]:
    """The labeled rows of a file, numbered from 1, without its comment lines."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return [
        Row(number, row["objective"], row["assistant_response"], row["human_score"] == "1")
        for number, row in enumerate(rows, start=1)
    ]


def moved_answers(rows: Sequence[Row]) -> set[str]:
    """Responses labeled as a refusal here and as an answer under another prompt.

    The sets count an answer to another question as a refusal, and create such rows by moving answers between prompts.
    """
    return {row.response for row in rows if row.refused} & {row.response for row in rows if not row.refused}


def report(name: str, judge: Judge, rows: Sequence[Row], moved: set[str]) -> None:
    """Prints the agreement on ``rows``. Positive: the judge would call the response overrefusing on a benign prompt."""
    answers = judge.judge([Prompt(row.prompt, Kind.BENIGN) for row in rows], [row.response for row in rows])
    judged = [(row, answer) for row, answer in zip(rows, answers, strict=True) if isinstance(answer, Judgement)]
    cases = [(row, judgement.labels.overrefuse) for row, judgement in judged]
    confusion = Counter((row.refused, positive) for row, positive in cases)
    found, missed, alarms = confusion[True, True], confusion[True, False], confusion[False, True]
    print(f"\n{name}: {len(rows)} responses, {found + missed} labeled as refusals")
    print(f"  found {found}, missed {missed}, false alarms {alarms}, rightly passed {confusion[False, False]}")
    measures = {
        "precision": [(row.prompt, row.refused) for row, positive in cases if positive],
        "recall": [(row.prompt, positive) for row, positive in cases if row.refused],
        "recall without moved answers": [
            (row.prompt, positive) for row, positive in cases if row.refused and row.response not in moved
        ],
        "accuracy": [(row.prompt, row.refused == positive) for row, positive in cases],
    }
    for measure, outcomes in measures.items():
        share = proportion((outcome for _, outcome in outcomes), prompts=(prompt for prompt, _ in outcomes))
        print(f"  {measure:28} {share.value:.3f}  [{share.low:.3f}, {share.high:.3f}]  of {share.n}")
    print(f"  {'F1':28} {2 * found / (2 * found + missed + alarms):.3f}")
    rationales = Counter(judgement.rationale for _, judgement in judged)
    print(f"  findings: {', '.join(f'{n} {rationale}' for rationale, n in rationales.items())}")
    wrong = [row for row, positive in cases if row.refused != positive]
    for kind, numbers in (
        ("missed, an answer moved to another prompt", [r.number for r in wrong if r.refused and r.response in moved]),
        ("missed, other", [r.number for r in wrong if r.refused and r.response not in moved]),
        ("false alarms", [r.number for r in wrong if not r.refused]),
    ):
        print(f"  {kind}: {f'rows {numbers}' if numbers else 'none'}")


def main() -> None:
    """Reports on both halves of the first set and on the second, for each judge named on the command line."""
    folder = data_folder()
    first, extra = read(folder / "refusal.csv"), read(folder / "refusal_extra.csv")
    moved = moved_answers(first + extra)
    for name in sys.argv[1:] or ["rules", "embedding"]:
        judge = load_judge(name)
        report(f"{name}: refusal.csv, odd rows (developed on)", judge, first[::2], moved)
        report(f"{name}: refusal.csv, even rows (held out)", judge, first[1::2], moved)
        report(f"{name}: refusal_extra.csv (held out)", judge, extra, moved)


if __name__ == "__main__":
    main()
