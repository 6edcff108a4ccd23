"""One training run from recipe to results: the pipeline behind ``waltz train``, ``waltz benchmark`` and the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from accelerate import Accelerator

from waltz_env.agents import LanguageModelPolicy, TinkerPolicy
from waltz_env.agents.engines import check_engine
from waltz_env.algorithms import Stage, train
from waltz_env.algorithms.processes import check_accelerator
from waltz_env.algorithms.training import checkpoint
from waltz_env.algorithms.training.learners import policies_of
from waltz_env.algorithms.training.loop import StepReport
from waltz_env.algorithms.training.run_log import Logger, RunLog
from waltz_env.algorithms.training.trackers import tracker
from waltz_env.algorithms.training.tracking import TrackerLog
from waltz_env.errors import UsageError
from waltz_env.experiments.main_process import by_main_process
from waltz_env.experiments.results import Results, SetResults, about_run, add_systems, read_results, read_sets
from waltz_env.experiments.saved_run import claim, load_weights, read_recipe, unclaim
from waltz_env.experiments.systems import TRAINED, Systems, trained_systems, untrained_systems
from waltz_env.experiments.watch import Progress, Watch, quiet
from waltz_env.files import alone, atomic_path
from waltz_env.judges import RequestClassifier, load_judge, without_noise
from waltz_env.judging import check_judge
from waltz_env.presets import Recipe, Workbench, workbench
from waltz_env.protocols import Judge
from waltz_env.report.curves import curves
from waltz_env.rollout import check_readable
from waltz_env.run_folder import RunFolder
from waltz_env.types import Prompt


def execute(
    recipe: Recipe,
    folder: RunFolder | Path,
    *,
    resume: bool = False,
    untrained: bool = True,
    safeguard: bool = False,
    begin_with: RunFolder | None = None,
    base_from: RunFolder | None = None,
    accelerator: Accelerator | None = None,
    loggers: Sequence[Logger] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[StepReport], object] = lambda report: None,
    evaluating: Progress = quiet,
    tell: Callable[[Mapping[str, SetResults]], object] = lambda sets: None,
) -> Results | None:
    """Train a pair and evaluate it on prompts that it never saw. Everything is left in ``folder``.

    What is there already is not done again: an interrupted run continues exactly, a finished one returns its results.

    Args:
        recipe: settings of the run.
        folder: run folder; it must not hold a run yet, unless ``resume`` is given.
        resume: continue the run in ``folder``, which must have this recipe.
        untrained: whether to evaluate the systems that need no training, before training begins.
        safeguard: whether to evaluate single-model training with a safeguard too.
        begin_with: a finished run of the same models, whose weights take the place of this run's first stage.
        base_from: folder of a base model that several runs share; the default is ``folder``.
        accelerator: device, precision and processes; the default is a new one.
        loggers: where metrics and games go; the default is ``folder`` and the recipe's trackers.
        should_stop: hook of ``train``.
        progress: hook of ``train``.
        evaluating: told in the main process what has been done of the evaluations before and after training.
        tell: called in the main process with the results so far, before training and after a stage.

    Returns:
        The results; None if ``should_stop`` ended the training early.

    Raises:
        JudgeError: the judge has no verdict on a first question.
        UsageError: the recipe cannot work, ``folder`` holds another run, or ``begin_with`` is not finished. Nothing has
            been done then.
    """
    folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
    accelerator = accelerator or Accelerator()
    recipe.check()
    check_engine(recipe.engine, processes=accelerator.num_processes, sharded=recipe.shard)
    check_accelerator(accelerator)
    if recipe.shard and accelerator.num_processes == 1 and torch.cuda.device_count() > 1:
        raise UsageError(
            "Sharding needs a process per GPU, and this process is alone. Start the same command by: torchrun "
            f"--nproc-per-node {torch.cuda.device_count()} --no-python waltz train ..."
        )
    if loggers is None:
        trackers = [tracker(name) for name in recipe.track]  # a library that is missing is told now
        loggers = [RunLog(folder), *([TrackerLog(folder, trackers)] if trackers else [])]
    judge, clean = load_judge(recipe.judge), load_judge(without_noise(recipe.judge))
    if not (resume and is_finished(recipe, read_sets(folder))):
        check_judge(judge, recipe.judge)
    if begin_with is not None and not read_sets(begin_with):
        raise UsageError(f"{folder.path.name} begins with the weights of {begin_with.path}: finish that run first.")
    with ExitStack() as lock:
        results = _open(folder, recipe, resume, accelerator, lock=lock)
        if is_finished(recipe, results.get("sets", {})):
            return results
        return _execute(
            recipe,
            folder,
            results=results,
            judge=judge,
            clean=clean,
            untrained=untrained,
            safeguard=safeguard,
            begin_with=begin_with,
            base_from=base_from,
            accelerator=accelerator,
            loggers=loggers,
            should_stop=should_stop,
            progress=progress,
            evaluating=evaluating,
            tell=tell,
        )


def _execute(
    recipe: Recipe,
    folder: RunFolder,
    *,
    results: Results,
    judge: Judge,
    clean: Judge,
    untrained: bool,
    safeguard: bool,
    begin_with: RunFolder | None,
    base_from: RunFolder | None,
    accelerator: Accelerator,
    loggers: Sequence[Logger],
    should_stop: Callable[[], bool],
    progress: Callable[[StepReport], object],
    evaluating: Progress,
    tell: Callable[[Mapping[str, SetResults]], object],
) -> Results | None:
    """Play the untrained systems, train, and play the trained ones, as far as ``results`` lacks them.

    Training asks ``judge``, the evaluations ask ``clean``, which is the same judge without noise.
    """
    sets = results.get("sets", {})
    bench = workbench(recipe, base_from or folder, accelerator=accelerator)
    if not recipe.loop.exclude_unreadable:
        check_readable(chain(bench.training_prompts, bench.validation, *bench.tests.values()), bench.agents)
    about = about_run(recipe, bench)
    tests: dict[str, list[Prompt]] = {name: list(test) * recipe.test_samples for name, test in bench.tests.items()}
    expected = {name: len(prompts) for name, prompts in tests.items()}
    for name in tests:
        folder.games_of_system(name, TRAINED[recipe.method])  # a name that no file can have is told before training
    evaluating = evaluating if accelerator.is_main_process else quiet

    def add(play: Callable[..., Systems], *, now: str) -> None:
        """Play systems on the held-out sets, and tell the results."""
        played = _played(
            tests,
            bench,
            play,
            watch=Watch(len(tests), evaluating),
            now=now,
            judge=clean,
            accelerator=accelerator,
            exclude_unreadable=recipe.loop.exclude_unreadable,
        )
        if accelerator.is_main_process:
            tell(add_systems(folder, played, about, expected=expected)["sets"])

    if untrained and not sets:
        add(partial(untrained_systems, rules=recipe.rules), now="before training")

    def after_stage(stage: Stage) -> None:
        name = f"after_{stage.name}"
        known = all(name in content["systems"] for content in sets.values())
        if recipe.test_each_stage and stage is not stages[-1] and not (sets and known):
            add(partial(trained_systems, recipe=recipe, name=name), now=f"after {stage.name}")

    stages = recipe.stages
    if begin_with is not None:
        load_weights(begin_with, bench)
        stages = stages[1:]
    finished = train(
        bench.agents,
        stages,
        judge=judge,
        prompts=bench.prompts,
        folder=folder,
        config=recipe.loop,
        seed=recipe.seed,
        accelerator=accelerator,
        validation=bench.validation,
        resume=checkpoint.latest(folder.checkpoints) is not None,
        loggers=loggers,
        should_stop=should_stop,
        progress=progress,
        after_stage=after_stage,
    )
    if not finished:
        return None

    guard = RequestClassifier(bench.training_prompts) if safeguard else None
    after = _played(
        tests,
        bench,
        partial(trained_systems, recipe=recipe, guard=guard),
        watch=Watch(len(tests), evaluating),
        now="after training",
        judge=clean,
        accelerator=accelerator,
        exclude_unreadable=recipe.loop.exclude_unreadable,
    )
    for name, policy in policies_of(bench.agents).items():
        if isinstance(policy, LanguageModelPolicy):
            policy.save(folder.weights / name, write=accelerator.is_main_process)
        elif isinstance(policy, TinkerPolicy) and accelerator.is_main_process:
            policy.save(folder.weights / name)
    if accelerator.is_main_process:
        _draw_curves(folder)
        results = add_systems(folder, after, about, expected=expected)
    accelerator.wait_for_everyone()
    return results


def _played(
    tests: Mapping[str, Sequence[Prompt]],
    bench: Workbench,
    play: Callable[..., Systems],
    *,
    watch: Watch,
    now: str,
    judge: Judge,
    accelerator: Accelerator,
    exclude_unreadable: bool,
) -> dict[str, Systems]:
    """The systems that ``play`` plays, on each held-out set."""
    sets: dict[str, Systems] = {}
    for name, prompts in tests.items():
        watch.begin(f"{name}, {now}")
        sets[name] = play(
            prompts,
            watch.agents(bench.agents),
            judge=watch.judge(judge),
            accelerator=accelerator,
            exclude_unreadable=exclude_unreadable,
        )
        watch.end()
    return sets


def is_finished(recipe: Recipe, sets: Mapping[str, SetResults]) -> bool:
    """Whether these are the results of a finished run: what it trained has been evaluated."""
    return bool(sets) and all(TRAINED[recipe.method] in content["systems"] for content in sets.values())


def _open(folder: RunFolder, recipe: Recipe, resume: bool, accelerator: Accelerator, *, lock: ExitStack) -> Results:
    """Claim the folder, or check what it holds, in the main process; all processes get its results, or its error.

    No other run can open it while ``lock`` is held.
    """

    def open_it() -> Results:
        if not resume:
            claim(folder, recipe)
            # An error before there was any work leaves no folder; an interrupt does, so that --resume finds it.
            lock.push(lambda kind, *_: unclaim(folder) if kind and issubclass(kind, Exception) else None)
        elif read_recipe(folder) != recipe:
            raise UsageError(f"{folder.path} is a run with other settings. Choose another folder, or remove it.")
        lock.enter_context(alone(folder.path))
        return read_results(folder)

    return by_main_process(open_it, accelerator)


def _draw_curves(folder: RunFolder) -> None:
    figure = curves(folder.read_metrics())
    if figure is not None:
        with atomic_path(folder.curves) as path:
            figure.savefig(path, dpi=110, format="png")
