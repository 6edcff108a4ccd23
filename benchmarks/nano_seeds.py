"""What do several seeds of the nano preset say together? Prints the tables of docs/tables/nano-seeds.md.

python benchmarks/paper_table.py --out runs/paper-table
python benchmarks/nano_seeds.py runs/paper-table/seed-?/{untrained,single_model_rl,trained_pair}
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from waltz_env.cli.results import read_sets

METRICS = ("asr", "orr", "ftr", "ftr_plain", "label_accuracy", "format_rate")


def main(runs: list[Path]) -> None:
    """Prints one Markdown table per held-out set: the median over runs, then each run's value, ordered by run name."""
    found: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in sorted(runs):
        for name, content in read_sets(run).items():
            for system, metrics in content["systems"].items():
                if system == "baseline" and "single_model_rl" in content["systems"]:
                    continue  # the same untrained model as in the run of the pair
                for metric in METRICS:
                    if metrics[metric]["value"] is not None:
                        found[name][system][metric].append(100 * metrics[metric]["value"])
    for name, systems in found.items():
        print(f"\n`{name}`, %\n")
        print(f"| system | {' | '.join(METRICS)} |")
        print("|---" * (1 + len(METRICS)) + "|")
        for system, metrics in systems.items():
            print(f"| {system} | {' | '.join(_cell(metrics[metric]) for metric in METRICS)} |")


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"**{statistics.median(values):.1f}** ({', '.join(f'{value:.1f}' for value in values)})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    main(parser.parse_args().runs)
