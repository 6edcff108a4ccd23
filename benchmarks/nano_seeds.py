"""What do several seeds of the nano preset say together? Prints the tables of docs/tables/nano-seeds.md.

python benchmarks/paper_table.py --out runs/paper-table
python benchmarks/nano_seeds.py runs/paper-table/seed-?/trained_pair
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from waltz_env.experiments.results import read_sets
from waltz_env.run_folder import RunFolder

METRICS = ("asr", "orr", "ftr", "ftr_plain", "label_accuracy", "format_rate")


def main(runs: list[Path]) -> None:
    """Prints one Markdown table per held-out set: the median over runs, then each run's value, ordered by run name."""
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in sorted(runs):
        for name, content in read_sets(RunFolder(run)).items():
            for system, metrics in content["systems"].items():
                if system == "baseline" and "single_model_rl" in content["systems"]:
                    continue  # the same untrained model as in the run of the pair
                for metric in METRICS:
                    value = metrics[metric]["value"]
                    if value is not None:
                        values[name][system][metric].append(100 * value)
    for name, systems in values.items():
        print(f"\n`{name}`, %\n")
        print(f"| system | {' | '.join(METRICS)} |")
        print("|---" * (1 + len(METRICS)) + "|")
        for system, by_metric in systems.items():
            print(f"| {system} | {' | '.join(_cell(by_metric[metric]) for metric in METRICS)} |")


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"**{statistics.median(values):.1f}** ({', '.join(f'{value:.1f}' for value in values)})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    main(parser.parse_args().runs)
