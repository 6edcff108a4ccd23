"""What a run or an evaluation found: games of each system on each held-out set, and ``results.json``."""

from __future__ import annotations

import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from waltz_env.agents.templates import chats
from waltz_env.errors import UsageError
from waltz_env.evaluation import bounds, compare, no_verdict_reasons, paired, rates, rates_by_category
from waltz_env.evaluation.metrics import or_none
from waltz_env.judges.spec import without_noise
from waltz_env.records import read_games, write_games
from waltz_env.results_file import Rate, Results, SetResults, read_results
from waltz_env.run_folder import RunFolder
from waltz_env.types import Trajectory

if TYPE_CHECKING:
    from waltz_env.presets import Recipe, Workbench

__all__ = [
    "Rate",
    "Results",
    "SetResults",
    "about_run",
    "add_systems",
    "made_by",
    "players",
    "read_results",
    "read_sets",
    "reference",
    "stored_systems",
]

# Systems that others are compared with, the best choice first; names of systems that runs have trained.
REFERENCES = ("trained_pair", "feedback_only", "single_model_rl")


def read_sets(folder: RunFolder) -> dict[str, SetResults]:
    """The results of each held-out set in ``folder``; empty if there are none yet."""
    return read_results(folder).get("sets", {})


def stored_systems(paths: Sequence[Path]) -> dict[str, dict[str, list[Trajectory]]]:
    """The games in ``paths`` by set and system.

    A file in a run folder has the set and system that the results beside it give it; any other file is a system, named
    after the file, of the set ``games``.

    Raises:
        UsageError: two files are of the same set and system.
    """
    sets: dict[str, dict[str, list[Trajectory]]] = {}
    for path in paths:
        name, system = _set_and_system(path)
        if system in sets.setdefault(name, {}):
            raise UsageError(f"{path} is the second file of the system {system!r} on {name!r}; give one of each.")
        sets[name][system] = read_games(path)
    return sets


def made_by(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """How the trained systems in ``paths`` were made, as the results beside them say."""
    folders = dict.fromkeys(path.parent.parent.parent for path in paths)
    runs: dict[str, dict[str, Any]] = {}
    for folder in map(RunFolder, folders):
        if folder.results.exists():
            runs |= read_results(folder).get("runs", {})
    return runs


def _set_and_system(path: Path) -> tuple[str, str]:
    folder = RunFolder(path.parent.parent.parent)
    if path.parent == folder.held_out_games and folder.results.exists():
        for name, content in read_sets(folder).items():
            for system in content["systems"]:
                if folder.games_of_system(name, system) == path:
                    return name, system
    return "games", path.stem


def add_systems(
    folder: RunFolder,
    sets: Mapping[str, Mapping[str, Sequence[Trajectory]]],
    about: Results | None = None,
    *,
    expected: Mapping[str, int] | None = None,
    compared: bool = True,
) -> Results:
    """Write games and add their rates to the results in ``folder``; other sets and systems there stay.

    Every system of a set is compared with its ``reference``, prompt by prompt, on the prompts that both were played on.

    Args:
        folder: folder of the run or the evaluation.
        sets: games by the names of the set and of the system.
        about: how they were made. Earlier entries of other names stay.
        expected: number of games that each set has if none is left out.
        compared: whether systems are compared; where there are a hundred, no single one is the reference.
    """
    earlier = read_results(folder)
    results = dict(earlier.get("sets", {}))
    for name, systems in sets.items():
        content = results.setdefault(name, {"systems": {}, "comparisons": {}})
        for system, games in systems.items():
            write_games(folder.games_of_system(name, system), games, tokens=False)
            content["systems"][system] = _metrics(games)
            by_category = {
                category: {metric: cast(Rate, rate.as_dict()) for metric, rate in found.items()}
                for category, found in rates_by_category(games).items()
            }
            if by_category:
                content.setdefault("categories", {})[system] = by_category
            excluded = {**content.get("excluded", {}), system: (expected or {}).get(name, len(games)) - len(games)}
            content["excluded"] = {each: number for each, number in excluded.items() if number}
            if not content["excluded"]:
                del content["excluded"]
        if not compared:
            continue
        runs = (about or {}).get("runs", earlier.get("runs", {}))
        against = reference(list(content["systems"]), runs)
        content["comparisons"], content["not_compared"] = _comparisons(
            folder, name, systems, systems_of_set=list(content["systems"]), against=against
        )
        if not content["not_compared"]:
            del content["not_compared"]
    merged: Results = {
        **earlier,
        "sets": results,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": _versions(),
        **(about or {}),
    }
    folder.write_results(cast(dict[str, Any], merged))
    return merged


def _metrics(games: Sequence[Trajectory]) -> dict[str, Rate]:
    metrics = {name: cast(Rate, rate.as_dict()) for name, rate in rates(games).items()}
    for name, (low, high) in bounds(games).items():
        metrics[name]["at_least"], metrics[name]["at_most"] = or_none(low), or_none(high)
    metrics["judge_error_rate"]["reasons"] = no_verdict_reasons(games)
    return metrics


def reference(systems: Sequence[str], runs: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The system that the others are compared with: a trained pair, if there is one, whatever the order of files.

    >>> reference(["trained_pair", "baseline", "untrained_pair"])
    'trained_pair'

    Args:
        systems: names of all systems of a set.
        runs: how each trained system was made, as ``results.json`` has it. Of several pairs the last one counts.
    """
    methods = {name: about.get("method") for name, about in (runs or {}).items()}
    for method, usual in zip(("waltz", "feedback-only", "single-model"), REFERENCES, strict=True):
        trained = [name for name in methods if methods[name] == method and name in systems]
        if trained or usual in systems:
            return trained[-1] if trained else usual
    return systems[-1]


def _comparisons(
    folder: RunFolder,
    name: str,
    known: Mapping[str, Sequence[Trajectory]],
    *,
    systems_of_set: Sequence[str],
    against: str,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Differences by system, and why the other systems cannot be compared."""
    games, reasons = {}, {}
    for system in systems_of_set:
        path = folder.games_of_system(name, system)
        if system in known or path.exists():
            games[system] = known[system] if system in known else read_games(path)
        else:
            reasons[system] = f"{path.name} is missing"
    if against in reasons:
        return {}, {system: reasons[against] for system in systems_of_set if system != against}
    differences = {}
    for system, played in games.items():
        pair = paired(played, games[against])
        if system != against and pair[0]:
            compared = {metric: difference.as_dict() for metric, difference in compare(*pair).items()}
            differences[system] = {"against": against} | compared
        elif system != against:
            reasons[system] = f"it has no prompt in common with {against}"
    return differences, reasons


def players(bench: Workbench) -> dict[str, dict[str, Any]]:
    """How each agent with a policy acts: its model, its temperature, its token limit and the chats that it reads."""
    return {
        name: {
            "model": getattr(policy.model, "name_or_path", policy.model),  # on a service a model is a name
            "temperature": policy.temperature,
            "max_new_tokens": getattr(agent, "max_new_tokens", None),
            "chats": chats(name, agent.template) if hasattr(agent, "template") else {},
        }
        for name, agent in bench.agents.items()
        if (policy := getattr(agent, "policy", None)) is not None
    }


def about_run(recipe: Recipe, bench: Workbench) -> Results:
    """What the results of a run say about how its games were made."""
    judge = without_noise(recipe.judge)
    return {
        "preset": recipe.preset,
        "seed": recipe.seed,
        "games_per_step": recipe.loop.games,
        "judge": judge,
        **({} if judge == recipe.judge else {"training_judge": recipe.judge}),
        "base": base_of(recipe),
        "training_prompts": dict(Counter(prompt.source for prompt in bench.training_prompts)),
        "players": players(bench),
        "samples_per_prompt": recipe.test_samples,
    }


def base_of(recipe: Recipe) -> dict[str, str]:
    """Name and license of the model that training begins with, as far as they are known."""
    from waltz_env.presets import preset  # needs torch, which results of finished experiments do not

    made_from = preset(recipe.preset)
    named, usual = (getattr(options, "model", "") for options in (recipe.options, made_from.recipe.options))
    if named == usual:
        return {"name": made_from.base, "license": made_from.license}
    return {"name": "" if Path(named).is_dir() else named, "license": ""}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("waltz_env", "torch", "transformers", "peft", "accelerate"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
