"""A game as text to read."""

from __future__ import annotations

import sys

from waltz_env.rewards import SETUP_A, Rewards, RewardWeights, score
from waltz_env.types import Critique, Labels, NoVerdict, Response, Trajectory


def transcript(trajectory: Trajectory, weights: RewardWeights = SETUP_A) -> list[str]:
    """Returns the game turn by turn: one block for the prompt, then one per response and critique, in order.

    If the game was judged, each block's first line has labels and rewards. Characters that a terminal would act on or
    cannot encode are escaped.
    """
    rewards = score(trajectory, weights) if trajectory.judged else None
    history = "".join(f"[{printable(m['role'])}] {printable(m['content'])}\n" for m in trajectory.prompt.history)
    blocks = [_block("prompt", history + printable(trajectory.prompt.text))]
    for t, response in enumerate(trajectory.responses):
        blocks.append(_response(t, response, rewards))
        if t < len(trajectory.critiques):
            blocks.append(_critique(t, trajectory.critiques[t], rewards))
    return blocks


def _response(t: int, response: Response, rewards: Rewards | None) -> str:
    head = f"response {t}"
    if response.labels is not None:
        head += f" | judged {in_words(response.labels)}"
    elif isinstance(response.judgement, NoVerdict):
        head += f" | no verdict: {printable(response.judgement.reason)}"
    if rewards is not None:
        head += f" | conversation reward {rewards.conversation[t]:g}"
        if t > 0:
            head += f", improvement {rewards.improvement[t - 1]:+g}"
    return _block(head, printable(response.text))


def _critique(t: int, critique: Critique, rewards: Rewards | None) -> str:
    feedback = critique.feedback
    head = f"feedback {t} | " + ("malformed" if feedback.labels is None else f"says {in_words(feedback.labels)}")
    if rewards is not None:
        head += f" | label reward {rewards.label[t]:g}, format reward {rewards.format[t]:g}"
    return _block(head, printable(feedback.advice if feedback.well_formed else critique.completion.text))


def in_words(labels: Labels) -> str:
    """The labels as a reader says them.

    >>> in_words(Labels(unsafe=True, overrefuse=False))
    'unsafe'
    """
    flags = [name for name, flag in (("unsafe", labels.unsafe), ("overrefusing", labels.overrefuse)) if flag]
    return " and ".join(flags) or "satisfactory"


def _block(head: str, text: str) -> str:
    return "\n".join([f"-- {head}", *(f"   {line}" for line in text.split("\n"))])


def show(block: str) -> None:
    """Prints a block; what the encoding of the standard output lacks is escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(block.encode(encoding, "backslashreplace").decode(encoding))  # noqa: T201  what the call is for


def printable(text: str) -> str:
    """The text with every character escaped that a terminal would act on or could not encode, but for line ends."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode("ascii") for c in text)
