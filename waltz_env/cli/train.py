"""``waltz train``: train a pair by a preset and evaluate it on held-out prompts, in one folder."""

from __future__ import annotations

import inspect
import shlex
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from datetime import datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro
from accelerate import Accelerator

from waltz_env.cli.arguments import parse_into
from waltz_env.cli.processes import processes
from waltz_env.cli.progress import ProgressBar, WatchBar, hide_loading_bars
from waltz_env.cli.recipe_flags import flags_in, flags_of, recipe_of, spell_out
from waltz_env.cli.tables import close, show, show_categories
from waltz_env.errors import DataError, UsageError
from waltz_env.experiments.dry_run import dry_run, too_malformed
from waltz_env.experiments.main_process import by_main_process
from waltz_env.experiments.run import execute
from waltz_env.experiments.saved_run import read_recipe
from waltz_env.presets import PRESETS, Recipe, preset, with_algorithm, with_method
from waltz_env.presets.recipe import Method
from waltz_env.results_file import SetResults
from waltz_env.run_folder import RunFolder
from waltz_env.settings import decode
from waltz_env.stop_signal import stop_signal

DEFAULT_PRESET, OWN_MODEL_PRESET = "nano", "chat"


@dataclass(frozen=True, slots=True)
class Train:
    """Train a pair and evaluate it on prompts that it never saw.

    The settings of an algorithm are flags: --learner.learning-rate holds for both agents in all stages,
    --feedback.learning-rate for one agent, --stage-2.feedback.learning-rate for one agent in one stage.

    For example: waltz train --preset nano --algorithm grpo --learner.learning-rate 1e-4

    A pair of your own: waltz train --model FOLDER --prompts mine.jsonl --test builtin:test --dry-run

    Attributes:
        preset: models, prompts and default settings, by name or dotted path; chat if --model is given.
        method: what is trained: the pair (waltz), the conversation agent alone, or the feedback agent alone.
        algorithm: algorithm in place of the preset's, by name or dotted path; its settings become flags.
        config: settings from a file: config.json of an earlier run, or TOML with the flags as keys. Flags win.
        out: run folder; the default is a new one under runs/.
        resume: folder of an interrupted run, to be continued exactly with its own settings.
        dry_run: build everything, play a few games, train nothing, and print what the run would do and need.
    """

    recipe_default: ClassVar[Recipe]

    preset: str = DEFAULT_PRESET
    method: Method = "waltz"
    algorithm: str | None = None
    config: Path | None = None
    out: Path | None = None
    resume: Path | None = None
    dry_run: bool = False

    def run(self) -> int:
        """Train; see ``main`` for the exit code."""
        hide_loading_bars()
        recipe = read_recipe(RunFolder(self.resume)) if self.resume else self.recipe
        with processes() as accelerator:
            return self._train(recipe, accelerator)

    def _train(self, recipe: Recipe, accelerator: Accelerator) -> int:
        if self.dry_run:
            return _tell(recipe, accelerator)
        start = time.perf_counter()
        path = self.resume or self.out or by_main_process(partial(_new_folder, recipe), accelerator)
        _set_threads(recipe)
        with stop_signal() as should_stop, ProgressBar() as progress, WatchBar("set") as evaluating:
            results = execute(
                recipe,
                path,
                resume=self.resume is not None,
                accelerator=accelerator,
                should_stop=should_stop,
                progress=progress,
                evaluating=evaluating,
                tell=partial(_show, recipe),
            )
        if results is None:
            if accelerator.is_main_process:
                print(f"Stopped. Continue with: waltz train --resume {path}")
            return 130
        if accelerator.is_main_process:
            show(results["sets"])
            show_categories(results["sets"])
            print(f"{time.perf_counter() - start:.0f} s. Run folder: {path}")
            shown = shlex.quote(str(path))
            then = [f"serve {shown}", f"evaluate {shown} --prompts SET --out FOLDER"]
            return close(results, RunFolder(path), then=then)
        return 0

    @property
    def recipe(self) -> Recipe:
        """The recipe that the flags describe."""
        return recipe_of(getattr(self, "flags"), self.recipe_default)  # noqa: B009  a field of the class made below


def train_command(arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """The command for one line of arguments, as a type for tyro, and the arguments with short flags spelled out.

    Which flags there are depends on the preset, the method, the algorithm and the file that the arguments name.

    Raises:
        UsageError: one of them is unknown, or a flag would be ignored.
        DataError: the file cannot be read.
    """
    resumed = _value(arguments, "--resume")
    if resumed and list(arguments) not in (["--resume", resumed], [f"--resume={resumed}"]):
        raise UsageError("A resumed run keeps its own settings: leave out everything but --resume FOLDER.")
    recipe: Recipe | None = None
    from_file: list[str] = []
    path = _value(arguments, "--config")
    if path is not None:
        recipe, from_file = _read_settings(Path(path))
    arguments = [*from_file, *arguments]
    name, model = _value(arguments, "--preset"), _value(arguments, "--model")
    if recipe is None or name is not None:
        recipe = preset(name or (DEFAULT_PRESET if model is None else OWN_MODEL_PRESET)).recipe
    if model is not None and not hasattr(recipe.options, "model"):
        raise UsageError(
            f"The preset {recipe.preset} has a model of its own, so it takes no --model. To train {model}, leave out "
            f"--preset: the preset is then {OWN_MODEL_PRESET}."
        )
    recipe = with_method(recipe, _value(arguments, "--method") or "waltz")
    algorithm = _value(arguments, "--algorithm")
    if algorithm is not None:
        recipe = with_algorithm(recipe, algorithm)
    asks_for_help = not {"-h", "--help"}.isdisjoint(arguments)
    kind, values = flags_of(recipe, short=asks_for_help)
    command = make_dataclass(
        "Train",
        [("flags", Annotated[kind, tyro.conf.arg(name="")], values)],
        bases=(Train,),
        frozen=True,
        namespace={"recipe_default": recipe},
    )
    command.__doc__ = Train.__doc__
    return command, spell_out(arguments, recipe)


def parse(arguments: Sequence[str]) -> Train:
    """The command with its arguments; see ``parse_into``."""
    kind, spelled_out = train_command(arguments)
    return parse_into(kind, "train", spelled_out, description=train_help())


def train_help() -> str:
    """The description of the command, with the presets."""
    text = inspect.cleandoc(Train.__doc__ or "").split("\n\nAttributes:")[0]
    presets = "\n".join(f"  {name}: {each.summary}" for name, each in PRESETS.items())
    return f"{text}\n\nPresets:\n{presets}"


def _read_settings(path: Path) -> tuple[Recipe | None, list[str]]:
    """The recipe in a ``config.json``, or the flags in a TOML file."""
    if path.suffix == ".json":
        recipe = decode(RunFolder(path.parent).read_config()) if path.name == "config.json" else None
        if not isinstance(recipe, Recipe):
            raise DataError(f"{path} does not hold the settings of a run; give its config.json, or a TOML file.")
        return recipe, []
    try:
        with path.open("rb") as file:
            return None, flags_in(tomllib.load(file))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{path} is not TOML: {error}.") from error


def _value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag that decides which other flags there are; the last one counts."""
    value = None
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument == flag:
            value = following
        elif argument.startswith(f"{flag}="):
            value = argument.removeprefix(f"{flag}=")
    return value


def _new_folder(recipe: Recipe) -> Path:
    """A new folder under ``runs/``. Making it decides between two runs that start in the same second."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    name = f"{recipe.preset.replace(':', '.')}-{recipe.method}-seed{recipe.seed}-{stamp}"
    path, number = Path("runs") / name, 1
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
            path = path.with_name(f"{name}-{number}")
        except OSError as error:
            raise UsageError(f"{path} cannot be made: {error.strerror}. Choose a folder with --out.") from error
        else:
            return path


def _show(recipe: Recipe, sets: Mapping[str, SetResults]) -> None:
    """Print the results so far and, if feedback is too malformed to learn from, what to do about it."""
    show(sets)
    content = next(iter(sets.values()), None)
    if content is not None and list(content["systems"])[-1] == "untrained_pair":
        rate = content["systems"]["untrained_pair"]["format_rate"]
        told = too_malformed(rate["value"], rate["n"], recipe.options)
        if told is not None:
            print(told, file=sys.stderr)


def _tell(recipe: Recipe, accelerator: Accelerator) -> int:
    """Print a dry run part by part."""
    _set_threads(recipe)
    for part in dry_run(recipe, accelerator=accelerator):
        if accelerator.is_main_process:
            print("\n".join([part.title, *(f"  {line}" for text in part.lines for line in text.splitlines()), ""]))
    if accelerator.is_main_process:
        print("Nothing was trained. The same command without --dry-run trains.")
    return 0


def _set_threads(recipe: Recipe) -> None:
    threads = preset(recipe.preset).threads
    if threads is not None:
        torch.set_num_threads(threads)
