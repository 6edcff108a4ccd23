"""The report's page: one HTML file that loads nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from waltz_env.files import atomic_path
from waltz_env.report.curves import PANELS, panel
from waltz_env.report.figures import marks, plane, svg, triggers, waiting
from waltz_env.report.games import Group, pack
from waltz_env.report.matrix import heat_map
from waltz_env.report.tables import (
    JUDGED_RATES,
    RATES,
    TRIGGERS,
    Row,
    Source,
    measured,
    rows,
    set_names,
    system_names,
    title,
)

PACKAGE = "waltz_env.report"
NONE = "\N{EN DASH}"  # shown if a rate was not measured, or has nothing to count
SET_NOTES = {
    "combinations": "Topics of the training under framings that training did not have.",
    "topics": "Topics that reinforcement learning never saw.",
}
SHOWN_ELSEWHERE = {"sets", "command", "versions", "latency", "capabilities", "judge_agreement", "cross_play"}


def write_report(path: str | Path, sources: Sequence[Source]) -> None:
    """Writes the report on ``sources`` atomically.

    Args:
        path: path of the HTML file; missing parent folders are created.
        sources: runs and evaluations to show, in this order; at least one.
    """
    with atomic_path(path) as temporary:
        # Names of files may hold bytes that are not UTF-8. Texts of games are ASCII here.
        temporary.write_text(render(sources), encoding="utf-8", errors="replace", newline="\n")


def render(sources: Sequence[Source]) -> str:
    """Returns the page as HTML. Every text of a source is escaped, and only the page's own script may run."""
    looks = marks(system_names(sources))
    index, blocks = pack(
        [
            Group(source.name, name, system, games, source.earlier.get((name, system), ()))
            for source in sources
            for (name, system), games in source.games.items()
        ]
    )
    script = _own("report.js")
    environment = Environment(
        loader=PackageLoader(PACKAGE, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "title_of": title,
        "words": _words,
        "percent": _percent,
        "p_value": _p_value,
        "score": _score,
        "kappa": _kappa,
        "mean": _mean,
    }
    return environment.get_template("report.html.j2").render(
        sources=sources,
        runs=sum(bool(source.recipe) for source in sources),
        sets=[_set(sources, name, number, looks) for number, name in enumerate(set_names(sources))],
        looks=looks,
        judged_rates=JUDGED_RATES,
        training=[
            (source.name, figures) for number, source in enumerate(sources) if (figures := _panels(source, number))
        ],
        latencies=[
            (source, marks(list(ways)), svg(partial(waiting, ways), f"latency-{number}", f"Latency of {source.name}"))
            for number, source in enumerate(sources)
            if (ways := source.results.get("latency"))
        ],
        abilities=[source for source in sources if source.results.get("capabilities")],
        origins=[_origin(source) for source in sources],
        today=date.today().isoformat(),
        games=len(index["prompts"]),
        index=index,
        blocks=[Markup(block) for block in blocks],  # base64
        style=_own("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _panels(source: Source, number: int) -> list[Markup]:
    """Returns the training curves of a run, one figure per panel."""
    label = f"Training curves of {source.name}"
    figures = (
        svg(partial(panel, source.metrics, title), f"curves-{number}-{place}", f"{label}: {title}")
        for place, title in enumerate(PANELS)
    )
    return [figure for figure in figures if figure is not None]


def _own(name: str) -> Markup:
    return Markup(files(PACKAGE).joinpath(name).read_text(encoding="utf-8"))


def _set(sources: Sequence[Source], name: str, number: int, looks: Mapping[str, Any]) -> dict[str, Any]:
    table = rows(sources, name)
    feedback = [row for row in table if any(row.value(metric) is not None for metric in TRIGGERS)]
    agreements = [
        (source.name, system, found)
        for source in sources
        for system, found in source.results.get("judge_agreement", {}).get(name, {}).items()
        if any(rate["first"]["n"] for rate in found["rates"].values())
    ]
    # A hundred pairs cannot be told apart in the other figures.
    crossed = next((found for source in sources if (found := source.results.get("cross_play", {}).get(name))), None)
    return {
        "name": name,
        "note": SET_NOTES.get(name, ""),
        "rows": table,
        "columns": measured(table, RATES),
        "matrix": None
        if crossed is None
        else svg(partial(heat_map, crossed, name), f"matrix-{number}", f"ASR + ORR of all pairs of agents on {name}"),
        "plane": None
        if crossed is not None
        else svg(partial(plane, table, looks), f"plane-{number}", f"ASR over ORR of the systems on {name}"),
        "triggers": None
        if crossed is not None
        else svg(
            partial(triggers, table, looks), f"triggers-{number}", f"Feedback trigger rate by kind of prompt on {name}"
        ),
        "failures": [
            (row, reason, count)
            for row in table
            for reason, count in row.metrics.get("judge_error_rate", {}).get("reasons", {}).items()
        ],
        "categories": _categories(sources, name),
        "trigger_rows": feedback,
        "trigger_columns": measured(feedback, TRIGGERS),
        "agreements": [
            (judges, [each for each in agreements if tuple(each[2]["judges"]) == judges])
            for judges in dict.fromkeys(tuple(found["judges"]) for _, _, found in agreements)
        ],
        "comparisons": [
            (source.name, system, differences)
            for source in sources
            for system, differences in source.results["sets"].get(name, {}).get("comparisons", {}).items()
        ],
    }


def _categories(sources: Sequence[Source], name: str) -> list[tuple[str, Row]]:
    """Returns the rates of each category of prompt with its row, as ``rows`` orders them within a category."""
    found = [
        (category, Row(row.system, row.run, metrics))
        for row in rows(sources, name)
        for source in sources
        if source.name == row.run
        for category, metrics in source.results["sets"][name].get("categories", {}).get(row.system, {}).items()
    ]
    return sorted(found, key=lambda each: each[0])


def _origin(source: Source) -> dict[str, Any]:
    """Returns how a source was made: its command, versions, settings and recipe."""
    results = source.results
    settings = {name: value for name, value in results.items() if name not in SHOWN_ELSEWHERE}
    long = {name: value for name, value in settings.items() if isinstance(value, Mapping | list)}
    long["settings of the training"] = source.recipe
    return {
        "name": source.name,
        "folder": str(source.folder),
        "command": shlex.join(results.get("command", ())),
        "versions": results.get("versions", {}),
        "settings": {name: value for name, value in settings.items() if name not in long},
        "folded": {name: json.dumps(value, indent=1, ensure_ascii=False) for name, value in long.items() if value},
    }


def _words(name: str) -> str:
    return name.replace("_", " ")


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}"


def _mean(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _score(score: float | None) -> str:
    return NONE if score is None else f"{score:.3f}"


def _kappa(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0")
