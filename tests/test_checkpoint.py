from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.learners import random_table, row
from waltz_env.algorithms.policy_gradient import PolicyGradient
from waltz_env.algorithms.probes.toy_policy import ToyPolicy
from waltz_env.algorithms.protocols import Sample
from waltz_env.algorithms.registry import with_settings
from waltz_env.algorithms.reinforce_pp import ReinforcePPConfig
from waltz_env.algorithms.training import checkpoint
from waltz_env.errors import CheckpointError, UsageError

TENSORS = {"policy/a": {"x.weight": torch.arange(6.0).view(2, 3)}, "empty": {}}
CONFIG = with_settings(
    ReinforcePPConfig(), learning_rate=0.05, schedule="linear", warmup_steps=1, total_steps=10, minibatches=2
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "step-1", TENSORS, {"step": 1, "name": "é"}, keep=1)
    tensors, meta = checkpoint.load(tmp_path / "step-1")
    assert meta == {"step": 1, "name": "é"}
    assert tensors.keys() == TENSORS.keys()
    assert tensors["empty"] == {}
    assert torch.equal(tensors["policy/a"]["x.weight"], TENSORS["policy/a"]["x.weight"])


def test_tensors_that_share_memory_or_are_not_contiguous_are_saved_each(tmp_path: Path) -> None:
    table = torch.arange(6.0).view(2, 3)
    checkpoint.save(tmp_path / "c", {"g": {"a": table, "same": table, "turned": table.T}}, {}, keep=1)
    group = checkpoint.load(tmp_path / "c")[0]["g"]
    assert torch.equal(group["same"], table)
    assert torch.equal(group["turned"], table.T)


def test_the_newest_stay(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    for step in (1, 2, 10):
        checkpoint.save(tmp_path / f"step-{step:05d}", TENSORS, {"step": step}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00002", "step-00010"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-00010"


def test_a_checkpoint_can_be_written_again(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path / "c", TENSORS, {"step": step}, keep=1)
    assert checkpoint.load(tmp_path / "c")[1] == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_an_interrupted_write_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path / "step-1", TENSORS, {"step": 1}, keep=1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "step-2", TENSORS, {"step": 2}, keep=1)
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-1"
    checkpoint.save(tmp_path / "step-2", TENSORS, {"step": 2}, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        checkpoint.load(tmp_path / "nowhere")
    folder = tmp_path / "c"

    def saved() -> None:
        checkpoint.save(folder, TENSORS, {}, keep=1)

    saved()
    (folder / checkpoint.TENSORS_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"has no tensors\.safetensors"):
        checkpoint.load(folder)
    saved()
    file = folder / checkpoint.TENSORS_FILE
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(folder)
    saved()
    (folder / checkpoint.META_FILE).write_text('{"format": 1, "gro', encoding="utf-8")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.load(folder)
    (folder / checkpoint.META_FILE).write_text('{"format": 0}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="another version"):
        checkpoint.load(folder)


def test_what_cannot_be_saved_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="JSON"):
        checkpoint.save(tmp_path / "c", {}, {"array": np.zeros(2)}, keep=1)
    with pytest.raises(UsageError, match="keep"):
        checkpoint.save(tmp_path / "c", {}, {}, keep=0)
    with pytest.raises(UsageError, match="::"):
        checkpoint.save(tmp_path / "c", {"a::b": {"x": torch.zeros(1)}}, {}, keep=1)
    assert list(tmp_path.iterdir()) == []


def test_random_states_continue_where_they_were(tmp_path: Path) -> None:
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    generator_state = {"torch": generator.get_state()}
    checkpoint.save(tmp_path / "c", {"random": generator_state}, {"numpy": rng.bit_generator.state}, keep=1)
    expected = torch.rand(3, generator=generator).tolist(), rng.random(3).tolist()
    tensors, meta = checkpoint.load(tmp_path / "c")
    generator.set_state(tensors["random"]["torch"])
    rng.bit_generator.state = meta["numpy"]
    assert (torch.rand(3, generator=generator).tolist(), rng.random(3).tolist()) == expected


def learner() -> PolicyGradient:
    return CONFIG.build(ToyPolicy(random_table(5), reference=random_table(5, 1)))


def train(algorithm: PolicyGradient, generator: torch.Generator, updates: int) -> None:
    """Updates on rows that the policy itself samples, so that any difference grows."""
    policy = algorithm.policy
    assert isinstance(policy, ToyPolicy)
    for _ in range(updates):
        samples: list[Sample] = []
        for i in range(12):
            ((tokens, _),) = policy.sample([(i % 5,)], 1 + i % 3, generator=generator)
            samples.append(row(policy, (i % 5,), tokens, float(tokens.count(1))))
        algorithm.update(samples)


def test_four_updates_equal_two_a_save_and_two_more_bit_for_bit(tmp_path: Path) -> None:
    whole, generator = learner(), torch.Generator().manual_seed(3)
    train(whole, generator, 4)

    first, generator = learner(), torch.Generator().manual_seed(3)
    train(first, generator, 2)
    state = {
        "policy": first.policy.state_dict(),
        "learner": first.state_dict(),
        "random": {"torch": generator.get_state()},
    }
    checkpoint.save(tmp_path / "c", state, {"version": first.policy.version}, keep=1)

    tensors, meta = checkpoint.load(tmp_path / "c")
    second, generator = learner(), torch.Generator()
    second.policy.load_state_dict(tensors["policy"])
    second.policy.version = meta["version"]
    second.load_state_dict(tensors["learner"])
    generator.set_state(tensors["random"]["torch"])
    train(second, generator, 2)

    assert second.policy.version == whole.policy.version == 4
    for mine, theirs in zip(
        (second.policy.state_dict() | second.state_dict()).items(),
        (whole.policy.state_dict() | whole.state_dict()).items(),
        strict=True,
    ):
        assert mine[0] == theirs[0]
        assert torch.equal(mine[1], theirs[1]), mine[0]


def test_without_the_optimizers_state_the_continuation_differs() -> None:
    whole, generator = learner(), torch.Generator().manual_seed(3)
    train(whole, generator, 4)
    first, generator = learner(), torch.Generator().manual_seed(3)
    train(first, generator, 2)
    fresh = CONFIG.build(first.policy)
    train(fresh, generator, 2)
    assert not torch.equal(whole.policy.state_dict()["table"], fresh.policy.state_dict()["table"])


def test_a_state_can_be_loaded_before_the_first_update() -> None:
    untrained, trained = learner(), learner()
    train(trained, torch.Generator().manual_seed(3), 1)
    trained.load_state_dict(untrained.state_dict())
    assert trained.state_dict()["updates"] == 0
    assert trained.state_dict().keys() == untrained.state_dict().keys()


def test_a_changed_learning_rate_is_that_of_the_new_settings() -> None:
    before = learner()
    train(before, torch.Generator().manual_seed(3), 1)
    after = with_settings(CONFIG, learning_rate=0.5).build(before.policy)
    after.load_state_dict(before.state_dict())
    policy = before.policy
    assert isinstance(policy, ToyPolicy)
    metrics = after.update([row(policy, (0,), (1,), 1.0), row(policy, (0,), (2,), 0.0)])
    assert metrics["learning_rate"] == pytest.approx(0.5 * 0.9)
