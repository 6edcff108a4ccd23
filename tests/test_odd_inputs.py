"""Rules, run folders and settings that nobody should give: an error of this package, before anything else happens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import waltz_env
from tests.games import BOMB, FINE, UNSAFE, Speaker
from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents import TransformersAgent, full_policy
from waltz_env.agents.templates import conversation_messages
from waltz_env.algorithms import ReinforcePPConfig, SurrogateConfig, waltz_stages
from waltz_env.errors import AgentError, DataError, UsageError, UsageTypeError
from waltz_env.experiments.saved_run import claim, read_recipe
from waltz_env.feedback import format_feedback
from waltz_env.game import Game
from waltz_env.presets import Recipe
from waltz_env.protocols import Agent
from waltz_env.rollout import play
from waltz_env.rules import Rules
from waltz_env.run_folder import RunFolder
from waltz_env.sampling_options import SamplingOptions
from waltz_env.server_client import ServerClient
from waltz_env.serving import Duet
from waltz_env.settings import decode, encode
from waltz_env.types import CONVERSATION, FEEDBACK, Completion, Kind, Prompt, Trajectory

AGENTS = {CONVERSATION: Speaker(FINE, FINE), FEEDBACK: Speaker(format_feedback(UNSAFE, "No."))}
DOORS: dict[str, Callable[[Any], object]] = {
    "Game": lambda rules: Game(BOMB, rules),
    "play": lambda rules: play([BOMB], AGENTS, rules=rules),
    "environment": lambda rules: waltz_env.make(rules=rules),
    "AEC environment": lambda rules: waltz_env.make_aec(rules=rules),
    "Duet": lambda rules: Duet(AGENTS, rules=rules),
}


@pytest.mark.parametrize("rules", ["paper", 3, Rules, {"max_rounds": 2}])
@pytest.mark.parametrize("door", DOORS)
def test_what_is_not_rules_is_refused_at_every_door(door: str, rules: Any) -> None:
    with pytest.raises(UsageTypeError, match=r"rules must be Rules, such as Rules\(max_rounds=2\); got"):
        DOORS[door](rules)


@dataclass(frozen=True)
class Decides(Rules):
    """Decides whatever it is told."""

    feedback: Any = True
    revision: Any = True

    def asks_feedback(self, game: Trajectory) -> bool:
        return self.feedback

    def asks_revision(self, game: Trajectory) -> bool:
        return self.revision


@pytest.mark.parametrize("field", ["feedback", "revision"])
@pytest.mark.parametrize("decision", [None, "no", "", 0.0, [], [True], np.array([True, False])], ids=repr)
def test_a_decision_that_is_not_a_bool_is_an_error_that_names_the_rule(field: str, decision: Any) -> None:
    with pytest.raises(UsageTypeError, match="A decision of Decides must be True or False"):
        play([BOMB], AGENTS, rules=replace(Decides(), **{field: decision}))


@pytest.mark.parametrize("decision", [np.bool_(True), 1, np.array(True)], ids=repr)
def test_a_decision_that_clearly_is_one_counts(decision: Any) -> None:
    (game,) = play([BOMB], AGENTS, rules=Decides(feedback=decision, revision=decision))
    assert len(game.responses) == 2
    (game,) = play([BOMB], AGENTS, rules=Decides(feedback=np.bool_(False)))
    assert len(game.critiques) == 0


@pytest.mark.parametrize(
    "value", [b"x", bytearray(b"x"), {1: 2}, {"type": "mine"}, {1, 2}, 1j, int, np.zeros(2)], ids=repr
)
def test_what_could_not_be_read_back_is_not_kept(value: Any) -> None:
    with pytest.raises(UsageError, match="cannot be kept with a run"):
        encode({"mine": [value]})


def test_settings_of_a_class_that_nothing_finds_again_are_not_kept(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Hidden(Rules):
        pass

    learner = ReinforcePPConfig()
    recipe = Recipe(waltz_stages(learner, learner, steps=(1, 1), rules=Hidden()))
    with pytest.raises(UsageError, match="could not be read again.*Hidden"):
        claim(RunFolder(tmp_path / "run"), recipe)
    assert not (tmp_path / "run").exists()


def test_infinity_survives_in_the_settings_of_a_run(tmp_path: Path) -> None:
    learner = ReinforcePPConfig(surrogate=SurrogateConfig(max_grad_norm=math.inf, sampler_cap=math.inf))
    recipe = Recipe(waltz_stages(learner, learner, steps=(1, 1)))
    folder = RunFolder(tmp_path)
    claim(folder, recipe)
    assert read_recipe(folder) == recipe
    json.loads(folder.config.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize("kind", [5, None, ["a"], "", ":", "..a:b", "waltz_env.rules", "os:system", "nope:X", "a:b:c"])
def test_a_type_that_names_no_settings_is_a_data_error(kind: Any) -> None:
    with pytest.raises(DataError):
        decode({"type": kind})


@pytest.mark.parametrize("stages", ["x", 5, [5], [], {"type": "waltz_env.rules:Rules"}, None])
def test_settings_of_the_wrong_shape_are_an_error_of_this_package(stages: Any) -> None:
    with pytest.raises((DataError, UsageError)):
        decode({"type": "waltz_env.presets.recipe:Recipe", "stages": stages})


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"schema": 2', b"\xff", b'{"schema": "2"}', b"[" * 100_000])
def test_a_damaged_file_is_a_data_error_and_no_run(content: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for path, read in ((folder.config, folder.read_config), (folder.results, folder.read_results)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=path.name):
            read()
    assert not folder.has_config()


@pytest.mark.parametrize("rest", [b'{"step": ', b"\xff\xfe", b"5", b"[1]", b"null"])
def test_metrics_end_where_a_line_is_not_one(rest: bytes, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(b'{"step": 1}\n' + rest + b'\n{"step": 3}\n')
    assert folder.read_metrics() == [{"step": 1}]


def test_a_folder_may_be_given_as_a_string(tmp_path: Path) -> None:
    assert RunFolder(str(tmp_path)) == RunFolder(tmp_path)  # type: ignore[arg-type]


class Acts:
    """An agent that answers with whatever it is told."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def act(self, observations: Any) -> Any:
        return self.answer


COMPLETION = Completion("x", prompt_ids=(1,), token_ids=(1, 2), logprobs=(-0.1, -0.2))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "must return one completion for each observation; got None"),
        ("x", "must return one completion for each observation; got 'x'"),
        ({0: COMPLETION}, "must return one completion for each observation"),
        ([], "was given 1 observations and answered with 0 completions"),
        ([replace(COMPLETION, usage="5")], "usage must be a Usage"),  # type: ignore[arg-type]
        ([replace(COMPLETION, logprobs=(-0.1,))], "one number for each of token_ids; got 1 numbers for 2 ids"),
        ([replace(COMPLETION, token_ids=None)], "got 2 numbers for 0 ids"),
    ],
)
@pytest.mark.parametrize("door", ["play", "Duet"])
def test_an_answer_that_is_not_a_completion_for_each_observation_is_an_error(door: str, answer: Any, told: str) -> None:
    agents: dict[str, Agent] = {**AGENTS, CONVERSATION: Acts(answer)}
    if door == "play":
        with pytest.raises((UsageError, UsageTypeError), match=told):
            play([BOMB], agents)
    else:
        with closing(Duet(agents)) as duet, pytest.raises((AgentError, UsageTypeError)):
            duet.respond([{"role": "user", "content": "x"}])


def test_any_iterable_of_completions_is_an_answer() -> None:
    (game,) = play([BOMB], {**AGENTS, CONVERSATION: Acts(iter([COMPLETION]))}, rules=Rules(max_rounds=0))
    assert game.final.completion == COMPLETION


ENVIRONMENTS: dict[str, Callable[[], Any]] = {
    "text": lambda: waltz_env.make(prompts=[BOMB]),
    "choice": lambda: waltz_env.make("WaltzSafetyChoice-v0"),
    "single agent": lambda: gymnasium.make("waltz_env/WaltzConversation-v0", partner=AGENTS[FEEDBACK]).unwrapped,
}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("seed", ["3", 1.0, True, -1, np.int64(-1), np.float64(1), [1]], ids=repr)
def test_a_seed_that_is_none_is_refused(environment: str, seed: Any) -> None:
    with pytest.raises((UsageError, UsageTypeError), match="seed must be"):
        ENVIRONMENTS[environment]().reset(seed=seed)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.array(3)], ids=repr)
def test_an_integer_of_numpy_seeds_like_an_integer(environment: str, seed: Any) -> None:
    env, twin = ENVIRONMENTS[environment](), ENVIRONMENTS[environment]()
    for _ in range(3):
        np.testing.assert_equal(env.reset(seed=seed), twin.reset(seed=3))


@pytest.mark.parametrize("environment", ["text", "choice"])
@pytest.mark.parametrize("value", [[("prompt", 0)], "prompt", 0, ["x"], {0}], ids=repr)
def test_options_and_actions_that_are_no_mappings_are_refused(environment: str, value: Any) -> None:
    env = ENVIRONMENTS[environment]()
    with pytest.raises(UsageTypeError, match="options must be a mapping such as"):
        env.reset(options=value)
    env.reset(seed=0)
    for actions in (value, None):
        with pytest.raises(UsageTypeError, match="actions must be a mapping such as"):
            env.step(actions)


@pytest.mark.parametrize("history", [None, 3, "hello", b"x", {"role": "user", "content": "x"}, {1}], ids=repr)
def test_a_history_that_is_no_sequence_is_refused(history: Any) -> None:
    with pytest.raises(UsageTypeError, match="history must be a tuple of messages"):
        Prompt("x", Kind.BENIGN, history=history)


POLICY = full_policy(tiny_model(), tiny_tokenizer())
MAKERS: dict[str, Callable[..., Any]] = {
    "ServerClient": lambda **settings: ServerClient("http://127.0.0.1:9/v1", api_key="none", **settings),
    "Duet": lambda **settings: Duet(AGENTS, **settings),
    "TransformersAgent": lambda **settings: TransformersAgent(
        POLICY, conversation_messages, **{"max_new_tokens": 4, **settings}
    ),
    "SamplingOptions": SamplingOptions,
}
COUNT, TIME, NUMBER = (0, -1, 1.5, True, "5", math.nan), (0, -1, math.nan, True, "5", None), (-1, math.nan, True, "1")
ODD: dict[tuple[str, str], Sequence[Any]] = {
    ("ServerClient", "max_concurrent"): COUNT,
    ("ServerClient", "retries"): COUNT[1:],
    ("ServerClient", "timeout"): TIME,
    ("ServerClient", "deadline"): TIME,
    ("Duet", "timeout"): TIME,
    ("Duet", "feedback_timeout"): TIME,
    ("Duet", "queue_timeout"): TIME,
    ("Duet", "max_batch"): COUNT,
    ("Duet", "refusal"): (None, 3, b"No."),
    ("TransformersAgent", "max_new_tokens"): COUNT,
    ("TransformersAgent", "batch_size"): COUNT,
    ("TransformersAgent", "max_prompt_tokens"): COUNT,
    ("TransformersAgent", "temperature"): NUMBER,
    ("TransformersAgent", "seed"): (1.5, "x", None, True, 2**64, -(2**63) - 1),
    ("SamplingOptions", "seed"): (1.5, "x", True, 2**64, -(2**63) - 1),
    ("SamplingOptions", "temperature"): NUMBER,
}


@pytest.mark.parametrize(
    ("maker", "name", "value"), [(maker, name, value) for (maker, name), values in ODD.items() for value in values]
)
def test_a_setting_of_no_use_is_refused_when_it_is_given(maker: str, name: str, value: Any) -> None:
    with pytest.raises((UsageError, UsageTypeError), match=rf"\b{name}\b.* must "):
        MAKERS[maker](**{name: value})


@pytest.mark.parametrize(
    ("maker", "settings"),
    [
        ("ServerClient", {"timeout": math.inf, "deadline": math.inf, "retries": np.int64(0)}),
        ("Duet", {"timeout": math.inf, "queue_timeout": np.float32(2), "max_batch": np.int64(2)}),
        ("TransformersAgent", {"seed": np.int64(3), "temperature": np.float32(0.5), "batch_size": np.int64(2)}),
        ("SamplingOptions", {"seed": np.uint64(2**64 - 1)}),
    ],
)
def test_numbers_of_numpy_and_infinite_times_are_settings(maker: str, settings: dict[str, Any]) -> None:
    made = MAKERS[maker](**settings)
    if maker in ("ServerClient", "Duet"):
        made.close()
