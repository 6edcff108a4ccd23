"""The agents of several runs with each other, on the same prompts: the pipeline behind ``waltz evaluate --cross``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain

from accelerate import Accelerator

from waltz_env.agents.engines import TRANSFORMERS
from waltz_env.errors import UsageError
from waltz_env.evaluation.held_out import gathered, share_of
from waltz_env.experiments.cross_matrix import ALONE, WITH_FEEDBACK, Player, crossed, matrix, system_of
from waltz_env.experiments.evaluation import CLASSIFIER, EvaluationConfig, asked, check_same, systems_done
from waltz_env.experiments.main_process import by_main_process
from waltz_env.experiments.results import Results, add_systems, players, read_sets
from waltz_env.experiments.saved_run import base_folder, load_weights, newest_checkpoint, read_recipe, with_engine
from waltz_env.experiments.watch import Progress, Watch, quiet
from waltz_env.files import alone, atomic_path, writable_folder
from waltz_env.game import Game
from waltz_env.judges import without_noise
from waltz_env.judging import ask, with_judgements
from waltz_env.presets import Recipe, Workbench, workbench
from waltz_env.prompts import PromptSet
from waltz_env.protocols import Agent, Judge, Stateful
from waltz_env.report.matrix import heat_map
from waltz_env.rollout import check_readable, finish, play
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.settings import encode
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Judgement, Prompt, Trajectory


def cross_play(
    runs: Sequence[RunFolder],
    out: RunFolder,
    *,
    prompts: Mapping[str, PromptSet] | None = None,
    config: EvaluationConfig | None = None,
    accelerator: Accelerator | None = None,
    progress: Progress = quiet,
) -> Results:
    """Play the conversation agent of each run with the feedback agent of each run, and write each pair as it is played.

    The agents that the runs start from join, unless ``config.untrained`` is off. A conversation agent writes one draft
    per game, which all feedback agents criticize; by itself the draft is the conversation agent without feedback. An
    agent paired with its own run's plays the games of ``evaluate``. Models of at most two runs are in memory at once.

    What ``out`` has already, by the same command, is not played again; only the drafts of a conversation agent that was
    interrupted are written again, because the revisions continue their random stream.

    Args:
        runs: folders of runs of one preset with a checkpoint.
        out: folder for ``results.json``, the games, and one figure per set.
        prompts: sets of prompts by name; the default is the held-out sets of the first run.
        config: what to play; only ``samples``, ``judge``, ``untrained`` and ``exclude_unreadable`` may be set.
        accelerator: shares the games among its processes; the default is a new one.
        progress: told what has been done, in the main process.

    Raises:
        UsageError: the runs are not alike, a setting would be ignored, or ``out`` cannot be written or holds something
            else. Nothing has been played then.
        CheckpointError: a run has no checkpoint.
        JudgeError: the judge has no verdict on a first question.
    """
    config = config or EvaluationConfig()
    accelerator = accelerator or Accelerator()
    if not runs:
        raise UsageError("--cross plays runs; name their folders.")
    if config.engine != TRANSFORMERS or config.safeguard != CLASSIFIER or config.latency or config.capabilities:
        raise UsageError("--cross takes neither --engine, --safeguard, --latency nor --capabilities.")
    recipes = [read_recipe(folder) for folder in runs]
    conversation, feedback = crossed(runs, recipes, untrained=config.untrained)
    rules = next(recipe.rules for recipe in recipes if recipe.method in WITH_FEEDBACK)
    judge_name = config.judge or without_noise(recipes[0].judge)
    about: Results = {
        "runs": {
            player.name: {
                "folder": str(player.folder.path),
                "method": player.recipe.method,
                "checkpoint": newest_checkpoint(player.folder).name,
                **encode(player.recipe),
            }
            for player in {player.name: player for player in (*conversation, *feedback)}.values()
            if player.trained
        },
        "judge": judge_name,
        "samples_per_prompt": config.samples,
        "training_judge": recipes[0].judge,
        "cross_play": {},
    }
    with ExitStack() as until_done:
        by_main_process(lambda: until_done.enter_context(alone(writable_folder(out.path))), accelerator)
        check_same(out, about)
        judge = asked(judge_name)
        bench = _bench(runs[0], recipes[0], accelerator)
        sets = prompts or bench.tests
        if not config.exclude_unreadable:
            check_readable(chain(*sets.values()), bench.agents)
        about["players"] = players(bench)
        del bench  # its models; those of the pairs come and go
        tests = {name: list(test) * config.samples for name, test in sets.items()}
        done = {name: systems_done(out, name, test) for name, test in tests.items()}
        others = (ALONE, *(player.name for player in feedback))
        systems = [system_of(player.name, other) for player in conversation for other in others]
        for name, system in ((name, system) for name in tests for system in systems):
            out.games_of_system(name, system)  # a name that no file can have is told before anything is played
        watch = Watch(len(tests) * len(systems), progress if accelerator.is_main_process else quiet)
        for player in conversation:
            agent: Agent | None = None
            for name, test in tests.items():
                missing = [other for other in others if system_of(player.name, other) not in done[name]]
                for _ in range(len(others) - len(missing)):
                    watch.begin(f"{name}: {player.name}")
                    watch.end()
                if not missing:
                    continue
                agent = agent or _agent(player, CONVERSATION, accelerator, watch)
                played = _row(
                    share_of(test, accelerator),
                    agent,
                    [other for other in feedback if other.name in missing],
                    rules=rules,
                    judge=watch.judge(judge),
                    accelerator=accelerator,
                    exclude_unreadable=config.exclude_unreadable,
                    watch=watch,
                    label=f"{name}: {player.name}",
                )
                for other, games in played:
                    everybodys = gathered(games, accelerator)
                    if accelerator.is_main_process and other in missing:
                        system = system_of(player.name, other)
                        expected = {name: len(test)}
                        add_systems(out, {name: {system: everybodys}}, about, expected=expected, compared=False)
                    if other in missing:
                        watch.end()
        if not accelerator.is_main_process:
            return {}
        for name in tests:
            about["cross_play"][name] = matrix(read_sets(out)[name]["systems"], conversation, feedback)
            with atomic_path(out.cross_play(name)) as path:
                heat_map(about["cross_play"][name], name).savefig(path, dpi=150, format="png")
        return add_systems(out, {}, about)


def _agent(player: Player, role: AgentID, accelerator: Accelerator, watch: Watch) -> Agent:
    """The player's agent of a role, as an evaluation of its run begins."""
    bench = _bench(player.folder, player.recipe, accelerator)
    if player.trained:
        load_weights(player.folder, bench)
    return watch.agents(bench.agents)[role]


def _bench(folder: RunFolder, recipe: Recipe, accelerator: Accelerator) -> Workbench:
    """What the run's preset builds, before any training."""
    return workbench(with_engine(recipe, TRANSFORMERS), base_folder(folder, recipe), accelerator=accelerator)


def _row(
    prompts: Sequence[Prompt],
    agent: Agent,
    feedback: Sequence[Player],
    *,
    rules: Rules,
    judge: Judge,
    accelerator: Accelerator,
    exclude_unreadable: bool,
    watch: Watch,
    label: str,
) -> Iterator[tuple[str, list[Trajectory]]]:
    """The drafts of a conversation agent as games, and these games played on with each feedback agent, by its name."""
    states = agent.state_dict() if isinstance(agent, Stateful) else {}
    watch.begin(f"{label}, drafts")
    drafts = play(
        prompts,
        {CONVERSATION: agent},
        judge=judge,
        rules=replace(rules, max_rounds=0),
        exclude_unreadable=exclude_unreadable,
    )
    yield ALONE, drafts
    after = agent.state_dict() if isinstance(agent, Stateful) else {}
    for player in feedback:
        watch.begin(f"{label} with {player.name}")
        if isinstance(agent, Stateful):
            agent.load_state_dict(after)
        games = finish(
            [_begun(draft, rules) for draft in drafts],
            {CONVERSATION: agent, FEEDBACK: _agent(player, FEEDBACK, accelerator, watch)},
            exclude_unreadable=exclude_unreadable,
        )
        yield player.name, _judged(games, judge)
    if isinstance(agent, Stateful):
        agent.load_state_dict(states)


def _begun(draft: Trajectory, rules: Rules) -> Game:
    """A game in which the draft has been written, and judged."""
    game = Game(draft.prompt, rules)
    game.act(draft.final.completion)
    if isinstance(draft.final.judgement, Judgement):
        game.judge(draft.final.judgement)
    return game


def _judged(games: Sequence[Trajectory], judge: Judge) -> list[Trajectory]:
    """The games with a verdict on every response; those that have one are not asked about again."""
    pending = [(game.prompt, each.text) for game in games for each in game.responses if each.judgement is None]
    answers = iter(ask(judge, [prompt for prompt, _ in pending], [text for _, text in pending]) if pending else ())
    return [with_judgements(game, [each.judgement or next(answers) for each in game.responses]) for game in games]
