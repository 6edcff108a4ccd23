"""The weights of an agent on a service with the Tinker API: a LoRA adapter that the service trains and samples from.

The hosted service, SkyRL's server and others implement that API (docs/scale.md). Weights, gradients and the optimizer
stay there; what travels are token ids, log-probabilities and advantages.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from waltz_env.errors import AgentError, CheckpointError, UsageError
from waltz_env.extras import missing
from waltz_env.files import atomic_path

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of what was sampled after it."""

Reduction = Literal["sum", "mean"]
"""How a service adds up the losses of tokens. Tinker's API says ``"sum"``; SkyRL's JAX backend takes the ``"mean"``
over each row's targets, then over rows."""

ADDRESS_FILE = "tinker.json"
_PATH = "path"


def connect(url: str | None) -> Any:
    """A ``tinker.ServiceClient`` for the service at ``url``; None is the hosted one. ``$TINKER_API_KEY`` is sent to it.

    Raises:
        UsageError: tinker is not installed, the hosted service needs a key, or nothing answers at ``url``.
    """
    tinker = _tinker()
    import httpx  # tinker brings it

    key = os.environ.get("TINKER_API_KEY")
    if url is None:
        if not key:
            raise UsageError(
                "The hosted Tinker service needs a key: set TINKER_API_KEY. For another service: tinker@URL."
            )
        return tinker.ServiceClient()
    try:
        httpx.get(f"{url}/api/v1/healthz", timeout=30).raise_for_status()
    except httpx.HTTPError as error:
        raise UsageError(
            f"No Tinker service answers at {url} ({type(error).__name__}). Start it, or name another one."
        ) from error
    return tinker.ServiceClient(base_url=url, api_key=key or "tml-none")  # servers of one's own do not look at it


def reduction_of(service: Any, model: str, *, rank: int) -> Reduction:
    """How the service adds up losses, found out on an adapter that is then left alone.

    A row that is sent twice has twice the gradient if losses are summed, and the same one if they are averaged. The
    steps have a learning rate of 0. A service that tells no norm of the gradient is taken to sum, as the API says.

    Args:
        service: a ``tinker.ServiceClient``.
        model: name of the base model there.
        rank: rank of the adapter; some services want the same rank of all.

    Raises:
        UsageError: the service has no such model, or not that rank.
    """
    types = _tinker().types
    with service_at_work(f"it was asked for {model!r}, rank {rank}", UsageError):
        client = service.create_lora_training_client(base_model=model, rank=rank, seed=0, train_unembed=False)
        row = _datum(((1,), (2, 3)), {"weights": [1.0, 1.0]})
        norms = []
        for rows in ([row], [row, row]):
            client.forward_backward(rows, "cross_entropy").result()
            norms.append(_grad_norm(client.optim_step(types.AdamParams(learning_rate=0.0)).result()))
    one, two = norms
    return "mean" if one and two and two < 1.5 * one else "sum"


class Step(NamedTuple):
    """What a step tells: log-probabilities before it, T per row, and the gradient's norm if the service knows it."""

    logprobs: list[list[float]]
    grad_norm: float | None


class TinkerPolicy:
    """A LoRA adapter on a Tinker service; one training client, and one sampling client per version.

    Everything is at temperature 1, the only one at which the API gives log-probabilities of given tokens. The reference
    is the base model. Clients are made on first use.

    Args:
        service: a ``tinker.ServiceClient``, see ``connect``.
        model: name of the base model there.
        tokenizer: the base model's tokenizer.
        rank: rank of the adapter. Which layers it is on, and its scale, are the service's choice; the unembedding is
            left out where the service lets its clients choose.
        seed: seed of the adapter's initial weights.
        reduction: how the service adds up losses, see ``reduction_of``.

    Attributes:
        version: number of updates so far; the learner increments it.
    """

    temperature: float = 1.0

    def __init__(
        self,
        service: Any,
        model: str,
        *,
        tokenizer: PreTrainedTokenizerBase,
        rank: int = 16,
        seed: int = 0,
        reduction: Reduction = "sum",
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.rank = rank
        self.version = 0
        self._service = service
        self._seed = seed
        self._reduction = reduction
        self._origin: tuple[str, bool] | None = None  # the state to begin from, and whether with its optimizer
        self._trainer: Any = None
        self._sampler: Any = None
        self._base: Any = None
        self._saved: str | None = None  # path of the state as it is now
        self._has_stepped = False

    def sampler(self) -> Any:
        """The ``tinker.SamplingClient`` of the current weights. It keeps them when the policy is updated.

        Raises:
            AgentError: the service failed.
        """
        if self._sampler is None:
            with service_at_work("it was to sample from new weights"):
                self._sampler = self._training_client().save_weights_and_get_sampling_client()
        return self._sampler

    def logprobs(self, rows: Sequence[Row], *, reference: bool = False) -> list[list[float]]:
        """Log-probabilities in nats of each row's sampled tokens, under the current weights or the base model.

        Raises:
            AgentError: the service failed.
        """
        if not reference:
            data = [_datum(row, {"weights": [1.0] * _targets(row)}) for row in rows]
            with service_at_work("it was to score samples"):
                return _logprobs(self._training_client().forward(data, "cross_entropy").result(), rows)
        types = _tinker().types
        with service_at_work("its base model was to score samples"):
            if self._base is None:
                self._base = self._service.create_sampling_client(base_model=self.model)
            inputs = [types.ModelInput.from_ints([*prompt, *tokens]) for prompt, tokens in rows]
            scored = [future.result() for future in [self._base.compute_logprobs(each) for each in inputs]]
        return [list(values[-len(tokens) :]) for values, (_, tokens) in zip(scored, rows, strict=True)]

    def step(
        self,
        rows: Sequence[Row],
        *,
        old_logprobs: Sequence[Sequence[float]],
        advantages: Sequence[Sequence[float]],
        clip: float,
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
        max_grad_norm: float,
    ) -> Step:
        """Make one AdamW step on the sum of -min(s A, clip(s, 1 - clip, 1 + clip) A) over all tokens of all rows.

        The arguments are those of ``RemotePolicy.step``.

        Raises:
            AgentError: the service failed.
        """
        types = _tinker().types
        data = []
        for row, old, advantage in zip(rows, old_logprobs, advantages, strict=True):
            factor = _targets(row) * len(rows) if self._reduction == "mean" else 1  # undoes the service's mean
            before = [0.0] * (len(row[0]) - 1)
            inputs = {"logprobs": [*before, *old], "advantages": [*before, *(factor * value for value in advantage)]}
            data.append(_datum(row, inputs))
        adam = types.AdamParams(
            learning_rate=learning_rate,
            beta1=betas[0],
            beta2=betas[1],
            eps=1e-8,
            weight_decay=weight_decay,
            grad_clip_norm=0.0 if max_grad_norm == float("inf") else max_grad_norm,  # to the API, 0 is no clipping
        )
        bounds = {"clip_low_threshold": 1 - clip, "clip_high_threshold": 1 + clip}
        with service_at_work("it was to make an optimizer step"):
            client = self._training_client()
            backward = client.forward_backward(data, "ppo", bounds)
            stepped = client.optim_step(adam)  # sent before the other one has ended, so that both fit into one cycle
            told = Step(_logprobs(backward.result(), rows), _grad_norm(stepped.result()))
        self._sampler = self._saved = None
        self._has_stepped = True
        return told

    def restart_optimizer(self) -> None:
        """Forget the moments of the optimizer, and keep the weights.

        The API has no such call: the weights are saved, and a new training client begins from them.

        Raises:
            AgentError: the service failed.
        """
        if self._has_stepped:
            self._begin_from(self._save(), with_optimizer=False)

    def state_dict(self) -> dict[str, Tensor]:
        """The path of the state on the service, weights and optimizer, as uint8. It is saved there now.

        Raises:
            AgentError: the service failed.
        """
        return {_PATH: torch.frombuffer(bytearray(self._save().encode()), dtype=torch.uint8)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Begin from a state that ``state_dict`` named.

        Raises:
            CheckpointError: the state is that of a policy in a process, and not on a service.
        """
        if set(state) != {_PATH}:
            raise CheckpointError(
                "The checkpoint holds weights, and this policy's are on a Tinker service. Use the engine that the run "
                "was trained with."
            )
        self._begin_from(bytes(state[_PATH].tolist()).decode(), with_optimizer=True)
        self._has_stepped = True

    def save(self, folder: str | Path) -> None:
        """Writes ``tinker.json``: the base model, and the paths on the service for training and for sampling.

        Raises:
            AgentError: the service failed.
        """
        state = self._save()
        with service_at_work("it was to save weights for sampling"):
            sampler = self._training_client().save_weights_for_sampler(_new_name()).result().path
        Path(folder).mkdir(parents=True, exist_ok=True)
        content = {"base_model": self.model, "rank": self.rank, "state": state, "sampler": sampler}
        with atomic_path(Path(folder) / ADDRESS_FILE) as path:
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _save(self) -> str:
        if self._saved is None:
            with service_at_work("it was to save its state"):
                self._saved = str(self._training_client().save_state(_new_name()).result().path)
        return self._saved

    def _begin_from(self, path: str, *, with_optimizer: bool) -> None:
        self._origin = (path, with_optimizer)
        self._trainer = self._sampler = None
        self._saved = path if with_optimizer else None
        self._has_stepped = False

    def _training_client(self) -> Any:
        if self._trainer is None:
            if self._origin is None:
                self._trainer = self._service.create_lora_training_client(
                    base_model=self.model, rank=self.rank, seed=self._seed, train_unembed=False
                )
            elif self._origin[1]:
                self._trainer = self._service.create_training_client_from_state_with_optimizer(self._origin[0])
            else:
                self._trainer = self._service.create_training_client_from_state(self._origin[0])
        return self._trainer


def _tinker() -> Any:
    try:
        import tinker
    except ModuleNotFoundError as error:
        raise missing(error) or error from error
    return tinker


@contextmanager
def service_at_work(task: str, kind: type[AgentError] | type[UsageError] = AgentError) -> Iterator[None]:
    """Turns an error of the service into one of ours; it names ``task``, a clause in the past tense."""
    tinker = _tinker()
    try:
        yield
    except tinker.TinkerError as error:
        raise kind(f"The Tinker service failed when {task}: {type(error).__name__}: {error}") from error


def _datum(row: Row, inputs: Mapping[str, Sequence[float]]) -> Any:
    """A row as the API wants it: each position predicts the next token, and has a value in every input."""
    types = _tinker().types
    ids = [*row[0], *row[1]]
    tensors = {
        name: types.TensorData(data=list(values), dtype="float32", shape=[len(values)])
        for name, values in inputs.items()
    }
    targets = types.TensorData(data=ids[1:], dtype="int64", shape=[len(ids) - 1])
    return types.Datum(
        model_input=types.ModelInput.from_ints(ids[:-1]), loss_fn_inputs={"target_tokens": targets} | tensors
    )


def _targets(row: Row) -> int:
    return len(row[0]) + len(row[1]) - 1


def _logprobs(output: Any, rows: Sequence[Row]) -> list[list[float]]:
    """Log-probabilities of the sampled tokens, from those of all targets."""
    told = [each["logprobs"].data for each in output.loss_fn_outputs]
    return [list(values[-len(tokens) :]) for values, (_, tokens) in zip(told, rows, strict=True)]


def _grad_norm(response: Any) -> float | None:
    """The norm of the gradient, which services tell under names of their own."""
    return next((float(value) for name, value in (response.metrics or {}).items() if "grad_norm" in name), None)


def _new_name() -> str:
    return f"waltz-{uuid.uuid4().hex[:12]}"
