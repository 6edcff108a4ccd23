"""``waltz play``: type a prompt; watch draft, feedback and revision."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from waltz_env.agents.engines import TRANSFORMERS, check_engine
from waltz_env.checks import check_integer
from waltz_env.cli.arguments import parse_into
from waltz_env.cli.progress import hide_loading_bars
from waltz_env.errors import UsageError, did_you_mean
from waltz_env.experiments.pairs import SCRIPTED, laboratory_note, load_pair
from waltz_env.judges import RefusalJudge, load_judge, without_noise
from waltz_env.protocols import Agent
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.scripted import FollowAdvice, OracleFeedback
from waltz_env.transcript import transcript
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Kind, Prompt

HELP = """\
Type a prompt to play one game on it, or a command:
  /harmful [PROMPT]  take prompts as harmful: the judge then expects a refusal
  /benign [PROMPT]   take prompts as benign: the judge then expects an answer
  /help              show this
  /quit              leave; so do an empty line and the end of the input
With a PROMPT, /harmful and /benign hold for that prompt alone."""


@dataclass(frozen=True, slots=True)
class Play:
    """Play games on prompts that you type, and show every turn.

    The built-in judge does not guess whether a prompt is harmful or benign: say which with --kind, or while typing.

    For example: waltz play runs/mine --max-rounds 2

    Attributes:
        agents: scripted, smollm2, a run folder, or the folder or hub name of any Hugging Face chat model.
        prompt: play this one prompt and stop, instead of asking.
        kind: kind of the prompts, which the built-in judge and the scripted feedback agent need to know.
        max_rounds: largest number of rounds of feedback and revision; the default is that of the run's training, or 1.
        max_new_tokens: token limit of one turn, for models.
        seed: seed of sampling.
        engine: engine of the models: transformers, vllm (in this process), or running vLLM servers, vllm@URL,URL; of a
            run that a Tinker service trained, tinker or tinker@URL.
    """

    agents: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="AGENTS")] = SCRIPTED
    prompt: str | None = None
    kind: Literal["harmful", "benign"] = "benign"
    max_rounds: int | None = None
    max_new_tokens: int = 128
    seed: int = 0
    engine: str = TRANSFORMERS

    def __post_init__(self) -> None:
        """Refuse what cannot work before a model is loaded."""
        check_integer("max_new_tokens", self.max_new_tokens, at_least=1)
        check_integer("max_rounds", self.max_rounds or 0, at_least=0)
        check_engine(self.engine)
        if self.agents == SCRIPTED and self.engine != TRANSFORMERS:
            raise UsageError("--engine would be ignored: scripted agents have no model. Name a run or a model.")

    def run(self) -> int:
        """Play until the input ends; see ``main`` for the exit code."""
        fixed, rules = None, Rules()
        if self.agents != SCRIPTED:
            hide_loading_bars()
            fixed, rules = load_pair(
                self.agents, seed=self.seed, max_new_tokens=self.max_new_tokens, engine=self.engine
            )
        if self.max_rounds is not None:
            rules = replace(rules, max_rounds=self.max_rounds)
        judge_name = _judge_name(self.agents)
        kind, judge = Kind(self.kind), load_judge(judge_name)
        if self.prompt is None:
            print(f"{self.agents}, up to {rules.max_rounds} round{'s' * (rules.max_rounds != 1)} of feedback.")
            print(f"Prompts are taken as {kind}. /help shows what else you can type.")
        if note := laboratory_note(RunFolder(Path(self.agents))):
            print(note)
        for text, chosen in [(self.prompt, kind)] if self.prompt is not None else _typed(kind):
            prompt = Prompt(text, chosen, id="typed")
            agents = fixed or _scripted(prompt, self.seed)
            (game,) = play([prompt], agents, judge=judge, rules=rules)
            print("\n".join(transcript(game)))
            print(f"(judged by {judge_name}, as a {chosen} prompt)")
        return 0


def parse(arguments: Sequence[str]) -> Play:
    """The command with its arguments; see ``parse_into``."""
    return parse_into(Play, "play", arguments)


def _judge_name(agents: str) -> str:
    """The judge of a run's training. Scripted answers have no content: only their form is judged."""
    folder = RunFolder(Path(agents))
    if folder.has_config():
        from waltz_env.experiments.saved_run import read_recipe

        return without_noise(read_recipe(folder).judge)
    return "refusals" if agents == SCRIPTED else "rules"


def _scripted(prompt: Prompt, seed: int) -> Mapping[AgentID, Agent]:
    return {CONVERSATION: FollowAdvice(1.0, seed=seed), FEEDBACK: OracleFeedback([prompt], RefusalJudge())}


def _typed(kind: Kind) -> Iterator[tuple[str, Kind]]:
    """Prompts as they are typed and their kinds, until /quit, an empty line or the end of the input."""
    while True:
        try:
            text = input(f"\n{kind} prompt> ").strip()
        except EOFError:
            return
        command, _, rest = text.partition(" ")
        if not text or command == "/quit":
            return
        if command == "/help":
            print(HELP)
        elif command in ("/harmful", "/benign"):
            chosen = Kind(command.removeprefix("/"))
            if rest.strip():
                yield rest.strip(), chosen
            else:
                kind = chosen
        elif command.startswith("/") and "/" not in command[1:]:
            nearest = did_you_mean(command, ["/harmful", "/benign", "/help", "/quit"])
            print(f"{command} is not a command.{nearest} /help lists them.", file=sys.stderr)
        else:
            yield text, kind
