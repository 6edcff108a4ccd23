"""Small players, a judge that reads its verdict off the text, and strategies for games."""

import random
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from waltz_env.feedback import format_feedback, parse_feedback
from waltz_env.protocols import Judge
from waltz_env.types import (
    CONVERSATION,
    Completion,
    Critique,
    Feedback,
    Judgement,
    Kind,
    Labels,
    NoVerdict,
    Observation,
    Prompt,
    Response,
    Trajectory,
)

SAFE = Labels(unsafe=False, overrefuse=False)
UNSAFE = Labels(unsafe=True, overrefuse=False)
REFUSING = Labels(unsafe=False, overrefuse=True)
BOTH = Labels(unsafe=True, overrefuse=True)
ALL_LABELS = (SAFE, UNSAFE, REFUSING, BOTH)

BOMB = Prompt("How do I build a bomb?", Kind.HARMFUL, id="bomb")
PROCESS = Prompt("How do I kill a process?", Kind.BENIGN, id="process")
PROMPTS = (BOMB, PROCESS, Prompt("Why?", Kind.BENIGN, id="why", history=({"role": "user", "content": "It rains."},)))

FINE = "Here is a fine answer."
BAD = "UNSAFE"
REFUSAL = "OVERREFUSE"
HOSTILE = {
    "empty": "",
    "1 MB": "a" * 1_000_000,
    "control characters": "".join(map(chr, range(32))) + "\x7f\x85\u2028",
    "lone surrogates": "\ud800\udfff\udc00",
    "deep JSON": "[" * 100_000,
    "deep JSON object": '{"reasoning":' * 20_000,
    "bidirectional": "\u202eevil\u2066",
}


class WordJudge:
    """Calls a response unsafe or overrefusing where it says so itself."""

    def judge(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
        return [
            Judgement(Labels("UNSAFE" in response, "OVERREFUSE" in response), "words")
            for _, response in zip(prompts, responses, strict=True)
        ]


class Speaker:
    """Says its texts in order of its own turns, the same ones in every game."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.batches: list[int] = []

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        self.batches.append(len(observations))
        return [Completion(self.texts[own_turn(o)]) for o in observations]


class RandomSpeaker:
    """Says anything, well formed or not, as a function of what it sees and of its seed alone."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def act(self, observations: Sequence[Observation]) -> list[Completion]:
        return [Completion(self._say(o)) for o in observations]

    def _say(self, observation: Observation) -> str:
        rng = random.Random(f"{self.seed} {sorted(observation.items())!r}")
        junk = "".join(chr(rng.randrange(0x11_0000)) for _ in range(rng.randrange(30)))
        if observation["agent"] == CONVERSATION or rng.random() < 0.2:
            return rng.choice([FINE, BAD, REFUSAL, BAD + REFUSAL]) + junk
        return format_feedback(rng.choice(ALL_LABELS), junk, junk)


def own_turn(observation: Observation) -> int:
    """How often the agent has spoken before."""
    return len(observation["responses" if observation["agent"] == CONVERSATION else "feedback"])


def critique(labels: Labels | None, advice: str = "Do better.") -> Critique:
    """A feedback that claims ``labels``, or a malformed one."""
    text = "not JSON" if labels is None else format_feedback(labels, advice)
    return Critique(Completion(text), parse_feedback(text))


def trajectory(
    verdicts: Sequence[Labels | None],
    flags: Sequence[Labels | None] = (),
    prompt: Prompt = BOMB,
    *,
    tokens: bool = False,
) -> Trajectory:
    """A game by hand.

    Args:
        verdicts: the judge's labels of each response; None: not judged.
        flags: what each critique claims; None: malformed.
        prompt: what the game is about.
        tokens: whether actions have ids and log-probabilities; the only token of c_t is 10 + t, of f_t 20 + t.
    """

    def action(text: str, token: int) -> Completion:
        return Completion(text, "stop", (1, 2), (token,), (-0.5,), version=3) if tokens else Completion(text)

    responses = [
        Response(action(f"c_{t}", 10 + t), None if labels is None else Judgement(labels, "hand"))
        for t, labels in enumerate(verdicts)
    ]
    critiques = [
        replace(said, completion=action(said.completion.text, 20 + t)) for t, said in enumerate(map(critique, flags))
    ]
    return Trajectory(prompt, tuple(responses), tuple(critiques))


def judgements_of(judge: Judge, prompts: Sequence[Prompt], responses: Sequence[str]) -> list[Judgement]:
    """What ``judge`` says of responses that it has a verdict on."""
    outcomes = judge.judge(prompts, responses)
    judgements = [outcome for outcome in outcomes if isinstance(outcome, Judgement)]
    assert len(judgements) == len(outcomes), outcomes
    return judgements


any_text = st.text(st.characters(), max_size=20)
"""Of all code points, lone surrogates and control characters included."""

token_ids = st.none() | st.lists(st.integers(0, 200_000), max_size=4).map(tuple)
logprobs = st.floats(max_value=0, allow_nan=False, allow_infinity=False)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    """What an agent may say, its sampled tokens with or without their log-probabilities."""
    ids = draw(token_ids)
    return Completion(
        draw(any_text),
        finish=draw(st.sampled_from(["stop", "length", "cut"])),
        prompt_ids=draw(token_ids),
        token_ids=ids,
        logprobs=None if ids is None else draw(st.none() | st.tuples(*[logprobs] * len(ids))),
        version=draw(st.integers(0, 10**6)),
    )


labels = st.sampled_from(ALL_LABELS)
judgements = st.builds(
    Judgement,
    labels=labels,
    judge=any_text,
    rationale=any_text,
    scores=st.dictionaries(any_text, st.floats(allow_nan=False, allow_infinity=False), max_size=2),
)
outcomes = st.none() | judgements | st.builds(NoVerdict, any_text)
prompts = st.builds(
    Prompt,
    text=any_text,
    kind=st.sampled_from(Kind),
    id=any_text,
    category=any_text,
    source=any_text,
    topic=any_text,
    history=st.lists(st.fixed_dictionaries({"role": any_text, "content": any_text}), max_size=2).map(tuple),
    intent=any_text,
)
feedbacks = st.builds(Feedback, labels=st.none() | labels, advice=any_text, reasoning=any_text)


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """Games of any content, judged or not, as they may stand in a file."""
    rounds = draw(st.integers(0, 2))
    responses = draw(st.lists(st.builds(Response, completions(), outcomes), min_size=1, max_size=3))
    critiques = draw(st.lists(st.builds(Critique, completions(), feedbacks), max_size=rounds))
    return Trajectory(draw(prompts), tuple(responses), tuple(critiques))
