"""Rewards as a pure function of a finished, judged game, so stored games can be scored again with other weights.

1. As arXiv:2510.08240: R_c judges each response by itself; eq. 2 and 3 for the feedback agent; R_label compares both
   flags; weights alpha 0.65, lambda 0.25 or 0, gamma 0.1; set-ups A, B and C of its ablation.
2. The same: R_DIR of a critique that led to no revision is 0, and malformed feedback earns 0: it has neither labels
   nor the right format, and it asks for no revision.
3. Left open by the paper, chosen here: R_label of f_t compares its flags with the judge's labels of c_t, the response
   that f_t was shown, also for t > 0.
4. Beyond the paper: any other weights, among them ``DIR_OFF`` (only label and format).
5. Beyond the paper: a price per token of a critique, ``RewardWeights.length``, so that the feedback agent learns to be
   brief where nothing is wrong. It is 0 in every set-up. Every critique pays it, also a malformed one.
"""

from __future__ import annotations

from dataclasses import dataclass

from waltz_env.checks import check_number, check_settings
from waltz_env.errors import UsageError, unknown_name
from waltz_env.types import CONVERSATION, FEEDBACK, AgentID, Critique, Labels, Trajectory


@dataclass(frozen=True, slots=True)
class RewardWeights:
    """Weights of the feedback agent's reward, eq. 2: R_f = alpha R_DIR R_label + lambda R_label + gamma R_format.

    With a ``length`` above 0, that much per sampled token of the critique is subtracted.

    Attributes:
        improvement: alpha, the weight of the Dynamic Improvement Reward.
        label: lambda, the weight of correct flags.
        format: gamma, the weight of well-formed JSON.
        gated: whether improvement is paid only if the flags are correct (the product R_DIR R_label).
        length: price of one token of a critique, at least 0.
    """

    improvement: float = 0.65
    label: float = 0.25
    format: float = 0.1
    gated: bool = True
    length: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self)
        for name in ("improvement", "label", "format"):
            check_number(name, getattr(self, name))
        check_number("length", self.length, low=0)


SETUP_A = RewardWeights()
SETUP_B = RewardWeights(label=0.0)
SETUP_C = RewardWeights(label=0.0, gated=False)
DIR_OFF = RewardWeights(improvement=0.0)
SETUPS: dict[str, RewardWeights] = {"A": SETUP_A, "B": SETUP_B, "C": SETUP_C, "dir-off": DIR_OFF}


def setup(weights: RewardWeights | str) -> RewardWeights:
    """Returns the weights of a named set-up, or of three or four numbers; ``RewardWeights`` are returned as they are.

    >>> setup("0.65,0.1,0.1")
    RewardWeights(improvement=0.65, label=0.1, format=0.1, gated=True, length=0.0)

    Args:
        weights: A, B, C, dir-off, ``alpha,lambda,gamma`` or ``alpha,lambda,gamma,length``. After the numbers may stand
            ``,ungated``: improvement is then paid whether or not the flags are correct.

    Raises:
        UsageError: ``weights`` is neither a name nor three or four numbers.
    """
    if isinstance(weights, RewardWeights):
        return weights
    if weights in SETUPS:
        return SETUPS[weights]
    spelled = weights.removesuffix(",ungated")
    numbers = spelled.split(",")
    if len(numbers) == 1:
        raise unknown_name("reward set-up", weights, SETUPS)
    try:
        improvement, label, format, length = map(float, numbers if len(numbers) == 4 else [*numbers, "0"])
    except ValueError:
        raise UsageError(
            f"Reward weights are the name of a set-up ({', '.join(SETUPS)}) or alpha,lambda,gamma such as "
            "0.65,0.1,0.1, with the price of a token as a fourth number if there is one, and `,ungated` at the end if "
            f"improvement needs no correct flags; got {weights!r}."
        ) from None
    return RewardWeights(improvement, label, format, gated=spelled == weights, length=length)


@dataclass(frozen=True, slots=True)
class Rewards:
    """Rewards of one game, turn by turn. All but ``feedback`` are unweighted.

    Attributes:
        conversation: R_c(c_t), one per response.
        improvement: R_DIR(f_t) in {-1, 0, 1}, one per critique.
        label: R_label(f_t) in {0, 1}, one per critique.
        format: R_format(f_t) in {0, 1}, one per critique.
        feedback: R_f(f_t), the weighted sum less the price of the tokens, one per critique.
    """

    conversation: tuple[float, ...]
    improvement: tuple[float, ...]
    label: tuple[float, ...]
    format: tuple[float, ...]
    feedback: tuple[float, ...]

    def of(self, agent: AgentID) -> tuple[float, ...]:
        """The reward of each turn of ``agent``."""
        return {CONVERSATION: self.conversation, FEEDBACK: self.feedback}[agent]


def conversation_reward(labels: Labels) -> float:
    """R_c: 1 for a satisfactory response, otherwise 0."""
    return float(labels.ok)


def early_reward(label: float, format: float, weights: RewardWeights) -> float:
    """The part of R_f that is settled before the revision exists: lambda R_label + gamma R_format."""
    return weights.label * label + weights.format * format


def late_reward(improvement: float, label: float, weights: RewardWeights) -> float:
    """The part of R_f that the judged revision settles: alpha R_DIR R_label, or alpha R_DIR if not gated."""
    return weights.improvement * improvement * (label if weights.gated else 1.0)


def length_price(critique: Critique, weights: RewardWeights) -> float:
    """What the tokens of a critique cost.

    Raises:
        UsageError: tokens have a price, and the agent did not tell how many there are.
    """
    if weights.length == 0:
        return 0.0
    tokens = critique.completion.tokens
    if tokens is None:
        raise UsageError(
            f"A price per token ({weights.length:g}) needs critiques whose number of tokens is known; this one is a "
            "text alone. Use length=0."
        )
    return weights.length * tokens.completion_tokens


def score(trajectory: Trajectory, weights: RewardWeights = SETUP_A) -> Rewards:
    """Scores a judged game (arXiv:2510.08240, eq. 2 and 3).

    Raises:
        UsageError: a response has no judgement, or tokens have a price and nobody knows how many a critique has.
    """
    labels = [response.labels for response in trajectory.responses if response.labels is not None]
    if len(labels) != len(trajectory.responses):
        raise UsageError(
            f"Game {trajectory.prompt.id!r} has {len(trajectory.responses) - len(labels)} response(s) without a "
            "judgement. Play it with a judge, or leave out games whose judge failed (`trajectory.judged`)."
        )
    conversation = tuple(conversation_reward(label) for label in labels)
    improvement, label, form, feedback = [], [], [], []
    for t, critique in enumerate(trajectory.critiques):
        form.append(float(critique.feedback.well_formed))
        label.append(float(critique.feedback.labels == labels[t]))
        revised = t + 1 < len(conversation)
        improvement.append(conversation[t + 1] - conversation[t] if revised else 0.0)
        earned = early_reward(label[t], form[t], weights) + late_reward(improvement[t], label[t], weights)
        feedback.append(earned - length_price(critique, weights))
    return Rewards(conversation, tuple(improvement), tuple(label), tuple(form), tuple(feedback))
