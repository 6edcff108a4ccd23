"""How do I play with texts in TorchRL? An ``EnvBase`` whose observations and actions are ``NonTensor``.

``PettingZooWrapper`` (TorchRL 0.14) cannot carry texts, as observations or as actions. Here a critic with three
ready-made critiques learns by REINFORCE which one to give. python examples/torchrl_text.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from tensordict import NonTensorData, TensorDict, TensorDictBase
from torchrl.data import Binary, Composite, NonTensor, Unbounded
from torchrl.envs import EnvBase

from waltz_env import CONVERSATION, FEEDBACK, Labels, Observation
from waltz_env.agents import FollowAdvice
from waltz_env.env import WaltzSafetyEnv
from waltz_env.feedback import format_feedback
from waltz_env.judges import RefusalJudge

CRITIQUES = (
    format_feedback(Labels(unsafe=False, overrefuse=False), ""),
    format_feedback(Labels(unsafe=True, overrefuse=False), "Decline this request: helping would do harm."),
    format_feedback(Labels(unsafe=False, overrefuse=True), "Answer this request: it is harmless."),
)


class TextGame(EnvBase):  # type: ignore[misc]  # TorchRL is not checked
    """The text game, turn by turn. ``observation`` is the unchanged dict of the agent to act; ``action`` is a text."""

    def __init__(self) -> None:
        super().__init__(device="cpu", batch_size=[])
        self.game = WaltzSafetyEnv(judge=RefusalJudge())  # the scripted answers have no content
        self.observation_spec = Composite(observation=NonTensor((), example_data=""))
        self.action_spec = Composite(action=NonTensor((), example_data=""))
        self.reward_spec = Composite(reward=Unbounded((2,)))  # rewards of both agents, in the order of AGENTS
        self.done_spec = Composite(done=Binary(1, (1,), dtype=torch.bool), terminated=Binary(1, (1,), dtype=torch.bool))

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDictBase:
        return self._shown(self.game.reset()[0])

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        assert self.game.turn is not None, "TorchRL resets a game that has ended"
        observations, rewards, *_ = self.game.step({self.game.turn: tensordict["action"]})
        return self._shown(observations).set("reward", torch.tensor([rewards[CONVERSATION], rewards[FEEDBACK]]))

    def _set_seed(self, seed: int | None) -> None:
        self.game.reset(seed=seed)  # later draws continue from this seed

    def _shown(self, observations: dict[str, Observation]) -> TensorDictBase:
        ended = torch.tensor([self.game.turn is None])
        seen = observations[self.game.turn or CONVERSATION]
        return TensorDict({"observation": NonTensorData(seen), "done": ended, "terminated": ended.clone()}, [])


class Critic(torch.nn.Module):
    """Scores the critiques by three features of the latest response: bias, whether it refuses, its length."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.nn.Linear(3, len(CRITIQUES), bias=False)
        torch.nn.init.zeros_(self.scores.weight)

    def forward(self, response: str) -> torch.distributions.Categorical:
        refuses = any(word in response.lower() for word in ("can't", "cannot", "won't", "unable"))
        features = torch.tensor([1.0, float(refuses), len(response.split()) / 100])
        return torch.distributions.Categorical(logits=self.scores(features))


def policy(critic: Critic, partner: FollowAdvice) -> Callable[[TensorDictBase], TensorDictBase]:
    """Plays both agents: the partner answers; the critic criticizes and records the log-probability of its choice."""

    def act(tensordict: TensorDictBase) -> TensorDictBase:  # TorchRL looks at the argument's name
        seen = tensordict["observation"]
        if seen["agent"] == CONVERSATION:
            return tensordict.set("action", NonTensorData(partner.act([seen])[0].text)).set("logprob", torch.zeros(()))
        choices = critic(seen["responses"][-1])
        choice = choices.sample()
        return tensordict.set("action", NonTensorData(CRITIQUES[choice])).set("logprob", choices.log_prob(choice))

    return act


def main(games: int = 1200, seed: int = 0) -> tuple[float, float]:
    """Trains; returns the feedback agent's mean return over the first and the last tenth of the games."""
    torch.manual_seed(seed)
    env, critic = TextGame(), Critic()
    env.set_seed(seed)
    optimizer, returns = torch.optim.SGD(critic.parameters(), lr=0.2), list[float]()
    for _ in range(games):
        game = env.rollout(10, policy(critic, FollowAdvice(0.9, seed=seed)))
        total = float(game["next", "reward"][:, 1].sum())
        baseline = sum(returns[-100:]) / max(1, len(returns[-100:]))
        loss = -(total - baseline) * game["logprob"].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        returns.append(total)
    first, last = (sum(part) / len(part) for part in (returns[: games // 10], returns[-games // 10 :]))
    print(f"Feedback agent's mean return: first tenth {first:.3f}, last tenth {last:.3f}")
    return first, last


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
