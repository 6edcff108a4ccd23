"""The nouns of the game, as plain frozen data: no I/O, no torch.

A game (arXiv:2510.08240, sec. 3) is a prompt p, then alternating responses c_0, c_1, ... of the conversation agent and
critiques f_0, f_1, ... of the feedback agent: c_0, f_0, c_1, f_1, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, Literal, TypedDict

from waltz_env.errors import UsageError, UsageTypeError

AgentID = str
CONVERSATION: AgentID = "conversation_0"
FEEDBACK: AgentID = "feedback_0"
AGENTS: tuple[AgentID, AgentID] = (CONVERSATION, FEEDBACK)


class Message(TypedDict):
    """One chat message, in the form that chat templates and chat servers take."""

    role: str
    content: str


class Kind(StrEnum):
    """What a prompt asks for, by its data source. For judges and reports; never in an observation."""

    HARMFUL = "harmful"
    BENIGN = "benign"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A user's request: the last user turn of ``history + text``.

    Attributes:
        text: the request.
        kind: harmful or benign, according to the data source.
        id: an identifier, unique within the prompt set.
        category: any string; ``"plain"`` marks everyday requests that should need no feedback.
        source: where the prompt comes from.
        topic: what the prompt is about; splits by topic keep equal topics together.
        history: earlier chat messages, oldest first, each with a role and a content.
        intent: what is really asked, in a few words that complete "The user asks ...". A warm start teaches the
            feedback agent to reason with it; no agent sees it.

    Raises:
        UsageError: ``kind`` is not a kind. Its value, such as ``"harmful"``, is.
        UsageTypeError: another field has the wrong type.
    """

    text: str
    kind: Kind
    id: str = ""
    category: str = ""
    source: str = ""
    topic: str = ""
    history: tuple[Message, ...] = field(default=(), hash=False)
    intent: str = ""

    def __post_init__(self) -> None:
        # A string that equals a kind is not that kind: without this line, "harmful" would count as benign.
        if type(self.kind) is not Kind:
            object.__setattr__(self, "kind", _kind(self.kind))
        for name in ("text", "id", "category", "source", "topic", "intent"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise UsageTypeError(f"A prompt's {name} must be a string; got {value!r} ({type(value).__name__}).")
        history: Any = self.history
        if history != ():
            if isinstance(history, str | bytes) or not isinstance(history, Sequence):
                raise UsageTypeError(
                    f"A prompt's history must be a tuple of messages; got {history!r:.60} ({type(history).__name__})."
                )
            object.__setattr__(self, "history", tuple(_message(message) for message in self.history))

    @property
    def harmful(self) -> bool:
        return self.kind is Kind.HARMFUL


def _kind(value: Any) -> Kind:
    try:
        return Kind(value)
    except ValueError:
        raise UsageError(f"A prompt's kind must be {' or '.join(map(repr, map(str, Kind)))}; got {value!r}.") from None


def _message(value: Any) -> Message:
    if isinstance(value, Mapping) and value.keys() == {"role", "content"}:
        role, content = value["role"], value["content"]
        if isinstance(role, str) and isinstance(content, str):
            return Message(role=role, content=content)
    raise UsageTypeError(
        f"A message of a prompt's history must be a dict of two strings, role and content; got {value!r}."
    )


@dataclass(frozen=True, slots=True)
class Labels:
    """Alignment labels of one response, given by a judge or claimed by the feedback agent (its flags)."""

    unsafe: bool
    overrefuse: bool

    @property
    def ok(self) -> bool:
        """Whether the response is satisfactory: neither unsafe nor overrefusing."""
        return not (self.unsafe or self.overrefuse)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says of one response to one prompt."""

    labels: Labels
    judge: str
    rationale: str = ""
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class NoVerdict:
    """Stands in place of a judgement that a judge could not give.

    Attributes:
        reason: why, in whole sentences: it is read in games files, in results and in reports.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """What the feedback agent said, parsed. ``labels`` holds its flags; None if the text was malformed."""

    labels: Labels | None
    advice: str = ""
    reasoning: str = ""

    @property
    def well_formed(self) -> bool:
        return self.labels is not None

    @property
    def asks_revision(self) -> bool:
        """Whether something is flagged. Malformed feedback asks for nothing."""
        return self.labels is not None and not self.labels.ok


Finish = Literal["stop", "length", "cut"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one completion, or several, took: of the prompts and of what was sampled."""

    prompt_tokens: int
    completion_tokens: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True, slots=True)
class Completion:
    """One action of an agent, with what a learner needs to train on it.

    Attributes:
        text: the text, without special tokens.
        finish: ``"stop"`` the agent ended it, ``"length"`` its token limit did, ``"cut"`` the game's ``max_chars`` did.
        prompt_ids: ids the agent was conditioned on, shape (P,), exactly as sampled from; None for agents without ids.
        token_ids: sampled ids, shape (T,), with the end-of-turn token if it was sampled.
        logprobs: log-probability of each of ``token_ids`` under the sampling policy, in nats, shape (T,).
        version: number of updates of the weights that sampled it.
        usage: number of tokens as the agent or its server counted them; not compared.
    """

    text: str
    finish: Finish = "stop"
    prompt_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    version: int = 0
    usage: Usage | None = field(default=None, compare=False)

    @property
    def truncated(self) -> bool:
        return self.finish != "stop"

    @property
    def tokens(self) -> Usage | None:
        """The number of tokens, from ``usage`` or the ids; None if neither is known."""
        if self.usage is not None or self.prompt_ids is None or self.token_ids is None:
            return self.usage
        return Usage(len(self.prompt_ids), len(self.token_ids))


@dataclass(frozen=True, slots=True)
class Response:
    """c_t, and what the judge said of it.

    Attributes:
        completion: the action of the conversation agent.
        judgement: the judge's labels, or why it has none; None: no judge was asked.
    """

    completion: Completion
    judgement: Judgement | NoVerdict | None = None

    @property
    def text(self) -> str:
        return self.completion.text

    @property
    def labels(self) -> Labels | None:
        """The judge's labels; None where there is no judgement, for whatever reason."""
        return self.judgement.labels if isinstance(self.judgement, Judgement) else None


@dataclass(frozen=True, slots=True)
class Critique:
    """f_t, as raw text and parsed."""

    completion: Completion
    feedback: Feedback


@dataclass(frozen=True, slots=True)
class Trajectory:
    """The record of a game, finished or running: ``len(responses) - len(critiques)`` is 0 or 1 once it has begun.

    Attributes:
        prompt: the prompt.
        responses: c_0, c_1, ...
        critiques: f_0, f_1, ...
        branch: the place of the game in a tree of games that share turns, see ``waltz_env.branches``; ``()`` for a game
            that shares none.
    """

    prompt: Prompt
    responses: tuple[Response, ...]
    critiques: tuple[Critique, ...]
    branch: tuple[int, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether every response has a judgement. Games that a judge failed on are counted, never scored."""
        return all(response.labels is not None for response in self.responses)

    @property
    def final(self) -> Response:
        return self.responses[-1]

    @property
    def triggered(self) -> bool:
        """Whether f_0 flagged anything."""
        return bool(self.critiques) and self.critiques[0].feedback.asks_revision

    def revisions(self) -> tuple[tuple[Response, Critique, Response], ...]:
        """``(c_t, f_t, c_{t+1})`` for every critique that led to a revision."""
        return tuple(
            (before, critique, after)
            for (before, after), critique in zip(pairwise(self.responses), self.critiques, strict=False)
        )


class Observation(TypedDict):
    """What an agent sees: the same dict is the environment's observation and an agent's input.

    It never holds the prompt's kind, the judge's labels, or any critique's reasoning and flags.
    """

    agent: AgentID
    active: int
    prompt: str
    history: tuple[Message, ...]
    responses: tuple[str, ...]
    feedback: tuple[str, ...]


Info = dict[str, Any]
