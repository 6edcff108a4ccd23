"""``waltz play``: type a prompt; watch draft, feedback and revision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from waltz_env.agents import FollowAdvice, OracleFeedback
from waltz_env.experiments.pairs import SCRIPTED, load_pair
from waltz_env.judges import RuleJudge
from waltz_env.protocols import Agent
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.transcript import transcript
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Kind, Prompt


@dataclass(frozen=True, slots=True)
class Play:
    """Play games on prompts that you type, and show every turn.

    Attributes:
        agents: scripted, smollm2, a run folder, or the folder or hub name of any Hugging Face chat model.
        prompt: play this one prompt and stop, instead of asking.
        kind: kind of the prompts, which the built-in judge and the scripted feedback agent need to know.
        max_rounds: largest number of rounds of feedback and revision; the default is that of the run's training, or 1.
        max_new_tokens: token limit of one turn, for models.
        seed: seed of sampling.
    """

    agents: Annotated[str, tyro.conf.Positional] = SCRIPTED
    prompt: str | None = None
    kind: Literal["harmful", "benign"] = "benign"
    max_rounds: int | None = None
    max_new_tokens: int = 128
    seed: int = 0

    def run(self) -> int:
        """Play until the input ends; see ``main`` for the exit code."""
        console = Console()
        fixed, rules = None, Rules()
        if self.agents != SCRIPTED:
            fixed, rules = load_pair(self.agents, seed=self.seed, max_new_tokens=self.max_new_tokens)
        if self.max_rounds is not None:
            rules = replace(rules, max_rounds=self.max_rounds)
        for text in [self.prompt] if self.prompt is not None else _typed(console):
            prompt = Prompt(text, Kind(self.kind), id="typed")
            agents = fixed or _scripted(prompt, self.seed)
            (game,) = play([prompt], agents, judge=RuleJudge(), rules=rules)
            console.print(escape("\n".join(transcript(game))), highlight=False)
        return 0


def _scripted(prompt: Prompt, seed: int) -> Mapping[AgentID, Agent]:
    return {CONVERSATION: FollowAdvice(1.0, seed=seed), FEEDBACK: OracleFeedback([prompt], RuleJudge())}


def _typed(console: Console) -> Iterator[str]:
    """Prompts as they are typed, until an empty line or the end of the input."""
    while True:
        try:
            text = console.input("[bold]prompt>[/] ")
        except EOFError:
            return
        if not text.strip():
            return
        yield text
