"""A service with the calls of the Tinker API, in this process: LoRA adapters on one tiny model, really trained."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from copy import deepcopy
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from tinker import types
from torch import Tensor

from tests.tiny import tiny_model, tiny_tokenizer
from tests.tiny_preset import RECIPE
from waltz_env.agents.layouts import lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.sampling import sample
from waltz_env.agents.tinker_agent import TinkerAgent
from waltz_env.agents.tinker_policy import TinkerPolicy
from waltz_env.presets import Preset, Workbench
from waltz_env.presets.nano.templates import conversation_messages, feedback_messages
from waltz_env.prompts import PromptSet
from waltz_env.types import AGENTS, CONVERSATION, FEEDBACK, AgentID, Kind, Prompt

MODEL = "tests/tiny"
RANK = 4
_SLOTS = 6

PROMPTS = PromptSet([Prompt(f"prompt {kind}", kind, id=str(kind)) for kind in Kind])

T = TypeVar("T")
State = dict[str, Tensor]


def done(value: T) -> Future[T]:
    future: Future[T] = Future()
    future.set_result(value)
    return future


class Service:
    """What ``tinker.ServiceClient`` is to its callers.

    Args:
        reduction: how losses are added up; see ``waltz_env.agents.tinker_policy.Reduction``.
        model: name of its one model.
    """

    def __init__(self, reduction: Literal["sum", "mean"] = "sum", *, model: str = MODEL) -> None:
        self.reduction = reduction
        self.model = model
        self.requests: Counter[str] = Counter()
        self.saved: dict[str, tuple[State, dict[str, Any] | None]] = {}
        self.lock = threading.RLock()  # one request at a time, as all adapters are in one model
        self.failure: Exception | None = None
        names = ["sampler", *(f"slot-{number}" for number in range(_SLOTS))]
        slots = lora_policies(tiny_model(), tiny_tokenizer(), names=names, rank=RANK)
        self.sampler = slots.pop("sampler")
        self.untrained = {name: tensor.clone() for name, tensor in self.sampler.state_dict().items()}
        self.free = list(slots.values())

    def counted(self, name: str) -> None:
        """Count a request, or fail if the service is to fail."""
        self.requests[name] += 1
        if self.failure is not None:
            raise self.failure

    def get_server_capabilities(self) -> types.GetServerCapabilitiesResponse:
        model = types.SupportedModel(model_name=self.model, max_context_length=1024)
        return types.GetServerCapabilitiesResponse(supported_models=[model])

    def create_lora_training_client(
        self, base_model: str, rank: int = 32, seed: int | None = None, **targets: bool
    ) -> TrainingClient:
        self.counted("create")
        assert (base_model, rank) == (self.model, RANK)
        with self.lock:
            generator = torch.Generator().manual_seed(seed or 0)
            drawn = {
                name: torch.randn(tensor.shape, generator=generator) * 0.1 if "lora_A" in name else tensor * 0
                for name, tensor in self.untrained.items()
            }
            return TrainingClient(self, self.free.pop(), drawn, None)

    def create_training_client_from_state(self, path: str) -> TrainingClient:
        self.counted("create")
        return TrainingClient(self, self.free.pop(), self.saved[path][0], None)

    def create_training_client_from_state_with_optimizer(self, path: str) -> TrainingClient:
        self.counted("create")
        return TrainingClient(self, self.free.pop(), *self.saved[path])

    def create_sampling_client(self, model_path: str | None = None, base_model: str | None = None) -> SamplingClient:
        self.counted("create")
        return SamplingClient(self, None if model_path is None else self.saved[model_path][0])


class TrainingClient:
    """What ``tinker.TrainingClient`` is: an adapter, its gradients and its optimizer."""

    def __init__(
        self, service: Service, policy: LanguageModelPolicy, state: State, optimizer: dict[str, Any] | None
    ) -> None:
        self.service = service
        self.policy = policy
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=0.0)
        self.rows = 0
        policy.load_state_dict(state)
        if optimizer is not None:
            self.optimizer.load_state_dict(deepcopy(optimizer))

    def forward(
        self, data: Sequence[types.Datum], loss_fn: str, loss_fn_config: dict[str, float] | None = None
    ) -> Future[types.ForwardBackwardOutput]:
        self.service.counted("forward")
        with self.service.lock, torch.no_grad():
            return self._pass(data, loss_fn, loss_fn_config)

    def forward_backward(
        self, data: Sequence[types.Datum], loss_fn: str, loss_fn_config: dict[str, float] | None = None
    ) -> Future[types.ForwardBackwardOutput]:
        self.service.counted("forward_backward")
        with self.service.lock:
            return self._pass(data, loss_fn, loss_fn_config)

    def optim_step(self, adam: types.AdamParams) -> Future[types.OptimStepResponse]:
        self.service.counted("optim_step")
        with self.service.lock:
            if self.service.reduction == "mean":
                for parameter in self.policy.parameters():
                    assert parameter.grad is not None
                    parameter.grad /= self.rows
            limit = adam.grad_clip_norm or float("inf")
            norm = float(torch.nn.utils.clip_grad_norm_(self.policy.parameters(), limit))
            self.optimizer.param_groups[0] |= {
                "lr": adam.learning_rate,
                "betas": (adam.beta1, adam.beta2),
                "eps": adam.eps,
                "weight_decay": adam.weight_decay,
            }
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.rows = 0
            return done(types.OptimStepResponse(metrics={"tests/grad_norm": norm}))

    def save_state(self, name: str) -> Future[types.SaveWeightsResponse]:
        self.service.counted("save_state")
        return done(types.SaveWeightsResponse(path=self._keep("weights", name)))

    def save_weights_for_sampler(self, name: str) -> Future[types.SaveWeightsForSamplerResponse]:
        self.service.counted("save_weights_for_sampler")
        return done(types.SaveWeightsForSamplerResponse(path=self._keep("sampler_weights", name)))

    def save_weights_and_get_sampling_client(self) -> SamplingClient:
        self.service.counted("save_weights_for_sampler")
        return SamplingClient(self.service, self._state())

    def _state(self) -> State:
        return {name: tensor.clone() for name, tensor in self.policy.state_dict().items()}

    def _keep(self, kind: str, name: str) -> str:
        path = f"tinker://model_{id(self)}/{kind}/{name}"
        self.service.saved[path] = (self._state(), deepcopy(self.optimizer.state_dict()))
        return path

    def _pass(
        self, data: Sequence[types.Datum], loss_fn: str, config: dict[str, float] | None
    ) -> Future[types.ForwardBackwardOutput]:
        outputs = []
        for datum in data:
            inputs = {name: tensor.to_torch() for name, tensor in datum.loss_fn_inputs.items()}
            logprobs = target_logprobs(self.policy, datum.model_input.to_ints(), inputs["target_tokens"])
            losses = LOSSES[loss_fn](logprobs, inputs, config or {})
            loss = losses.sum() if self.service.reduction == "sum" else losses.mean()
            if torch.is_grad_enabled():
                loss.backward()
                self.rows += 1
            told = logprobs.detach().numpy()
            outputs.append({"logprobs": types.TensorData(data=told, dtype="float32", shape=[len(told)])})
        return done(types.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord", loss_fn_outputs=outputs))


class Sequenced(NamedTuple):
    """What ``tinker.types.SampledSequence`` tells; its own arguments differ between releases."""

    stop_reason: str
    tokens: list[int]
    logprobs: list[float]


class Response(NamedTuple):
    """What ``tinker.types.SampleResponse`` tells."""

    sequences: list[Sequenced]


class SamplingClient:
    """What ``tinker.SamplingClient`` is: weights that stay as they are; None is the base model."""

    def __init__(self, service: Service, state: State | None) -> None:
        self.service = service
        self.state = state

    def sample(
        self, prompt: types.ModelInput, num_samples: int, sampling_params: types.SamplingParams
    ) -> Future[Response]:
        self.service.counted("sample")
        assert num_samples == 1
        with self.service.lock, self._policy().sampling_model(adapter=self.state is not None) as model:
            generator = torch.Generator().manual_seed(sampling_params.seed or 0)
            limit = sampling_params.max_tokens or 1
            (sampled,) = sample(
                model,
                [prompt.to_ints()],
                uniforms=torch.rand(1, limit, dtype=torch.float64, generator=generator),
                stop_ids=[stop for stop in sampling_params.stop or () if isinstance(stop, int)],
                temperature=sampling_params.temperature,
            )
        reason = "stop" if sampled.stopped else "length"
        return done(Response([Sequenced(reason, list(sampled.token_ids), list(sampled.logprobs))]))

    def compute_logprobs(self, prompt: types.ModelInput) -> Future[list[float | None]]:
        self.service.counted("compute_logprobs")
        ids = prompt.to_ints()
        with self.service.lock, torch.no_grad():
            logprobs = target_logprobs(self._policy(), ids[:-1], torch.tensor(ids[1:]), base=self.state is None)
        return done([None, *logprobs.tolist()])

    def _policy(self) -> LanguageModelPolicy:
        if self.state is not None:
            self.service.sampler.load_state_dict(self.state)
        return self.service.sampler


def target_logprobs(policy: LanguageModelPolicy, ids: Sequence[int], targets: Tensor, *, base: bool = False) -> Tensor:
    """Log-probability (L,) of each target after the ids up to its own position."""
    row = torch.tensor([list(ids)])
    positions = torch.arange(row.shape[1]).unsqueeze(0)
    logits = policy.logits(row, torch.ones_like(row), positions, row.shape[1], reference=base)
    return logits[0].float().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _cross_entropy(logprobs: Tensor, inputs: dict[str, Tensor], config: dict[str, float]) -> Tensor:
    return -logprobs * inputs["weights"]


def _ppo(logprobs: Tensor, inputs: dict[str, Tensor], config: dict[str, float]) -> Tensor:
    ratio = (logprobs - inputs["logprobs"]).exp()
    clipped = ratio.clamp(config["clip_low_threshold"], config["clip_high_threshold"])
    return -torch.minimum(ratio * inputs["advantages"], clipped * inputs["advantages"])


LOSSES: dict[str, Callable[[Tensor, dict[str, Tensor], dict[str, float]], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "ppo": _ppo,
}


def remote_policy(service: Service, seed: int = 0) -> TinkerPolicy:
    return TinkerPolicy(service, MODEL, tokenizer=tiny_tokenizer(), rank=RANK, seed=seed, reduction=service.reduction)


def pair(service: Service) -> dict[AgentID, TinkerAgent]:
    templates = {CONVERSATION: conversation_messages, FEEDBACK: feedback_messages}
    return {
        name: TinkerAgent(
            remote_policy(service, seed=number), templates[name], max_new_tokens=5, max_prompt_tokens=500, seed=number
        )
        for number, name in enumerate(AGENTS)
    }


SERVICE = Service()
ON_SERVICE = Preset(
    "for tests", RECIPE, lambda recipe, *rest: Workbench(pair(SERVICE), PROMPTS, PROMPTS, {"mine": PROMPTS})
)
