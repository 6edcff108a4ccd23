"""``waltz play``: type a prompt; watch draft, feedback and revision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.markup import escape

from waltz_env.agents import FollowAdvice, OracleFeedback
from waltz_env.cli.pairs import SCRIPTED, load_pair
from waltz_env.judges import RuleJudge
from waltz_env.protocols import Agent
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.transcript import transcript
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Kind, Prompt


@dataclass(frozen=True)
class Play:
    """Plays games on prompts that you type, and shows every turn.

    Attributes:
        agents: scripted, smollm2, the folder of a run, or the folder or name of any Hugging Face chat model.
        prompt: play this one prompt and stop, instead of asking.
        kind: what the prompts are; the built-in judge and the scripted feedback agent need to know.
        max_rounds: rounds of feedback and revision at most.
        max_new_tokens: of one turn, for models.
        seed: of sampling.
    """

    agents: Annotated[str, tyro.conf.Positional] = SCRIPTED
    prompt: str | None = None
    kind: Literal["harmful", "benign"] = "benign"
    max_rounds: int = 1
    max_new_tokens: int = 128
    seed: int = 0

    def run(self) -> int:
        """Plays until the input ends; see ``main`` for the exit code."""
        console = Console()
        fixed = None
        if self.agents != SCRIPTED:
            fixed, _ = load_pair(self.agents, seed=self.seed, max_new_tokens=self.max_new_tokens)
        for text in [self.prompt] if self.prompt is not None else _typed(console):
            prompt = Prompt(text, Kind(self.kind), id="typed")
            agents = fixed or _scripted(prompt, self.seed)
            (game,) = play([prompt], agents, judge=RuleJudge(), rules=Rules(max_rounds=self.max_rounds))
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
