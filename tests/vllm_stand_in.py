"""A small HTTP server on loopback that speaks like vLLM, with the tiny model and real adapters; it can die and hang."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from tests.tiny import tiny_model, tiny_tokenizer
from waltz_env.agents.layouts import lora_policies
from waltz_env.agents.policy import LanguageModelPolicy
from waltz_env.agents.sampling import sample
from waltz_env.agents.weight_probe import base_logprobs, policy_logprobs
from waltz_env.types import CONVERSATION

BASE = "tiny"
CONTEXT = 512
ONE_AT_A_TIME = threading.RLock()  # for all servers: models are made with torch's global random stream


class StandIn:
    """One server. Its attributes say how it behaves; changing them takes effect with the next request.

    Attributes:
        adapters: adapters that it holds, by name.
        completed: number of completions that it gave.
        fails_at: number of the completion at which it dies, or hangs if ``wants_to_hang``; None: at none.
        deaf: whether it says that it loaded an adapter and goes on with the one before.
        takes_adapters: whether it was started with runtime updates of adapters.
        processed: whether log-probabilities of samples are those of the temperature.
    """

    def __init__(self, *, seed: int = 0) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.adapters: dict[str, LanguageModelPolicy] = {}
        self.completed = 0
        self.fails_at: int | None = None
        self.hangs = self.wants_to_hang = self.deaf = False
        self.takes_adapters = self.processed = True
        self._awake = threading.Event()
        self.start(seed=seed)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, seed: int = 0) -> None:
        """Starts with the base alone, as after a crash."""
        self.adapters = {}
        self.hangs, self.fails_at = False, None
        self._awake.clear()
        self._base = lora_policies(tiny_model(seed), tiny_tokenizer(), names=["base"])["base"]
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def die(self) -> None:
        """Stops at once; requests in progress get no answer."""
        self._awake.set()
        self._server.shutdown()
        self._server.server_close()
        with ONE_AT_A_TIME:  # what was in progress has ended
            self.adapters = {}

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and content of an answer."""
        if path == "/v1/models":
            cards = [{"id": name, "parent": BASE, "max_model_len": None} for name in self.adapters]
            return 200, {"data": [*cards, {"id": BASE, "parent": None, "max_model_len": CONTEXT}]}
        if path == "/v1/load_lora_adapter" and self.takes_adapters:
            adapters = {CONVERSATION: body["lora_path"]}
            policy = lora_policies(tiny_model(), tiny_tokenizer(), names=[CONVERSATION], adapters=adapters)
            self.adapters[body["lora_name"]] = self._base if self.deaf else policy[CONVERSATION]
            return 200, "Success"
        if path == "/v1/unload_lora_adapter" and self.takes_adapters:
            return (200, "Success") if self.adapters.pop(body["lora_name"], None) else (404, {"error": {}})
        if path == "/v1/completions" and (body["model"] == BASE or body["model"] in self.adapters):
            return 200, {"choices": [self._choice(body)]}
        return 404, {"error": {"message": "no such thing"}}

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        policy = self.adapters.get(body["model"], self._base)
        prompt = body["prompt"]
        if "prompt_logprobs" in body:
            read = base_logprobs if body["model"] == BASE else policy_logprobs
            pairs = zip(prompt[1:], read(policy, prompt).tolist(), strict=True)
            return {"prompt_logprobs": [None, *({str(token): {"logprob": value}} for token, value in pairs)]}
        uniforms = torch.rand(
            1, body["max_tokens"], dtype=torch.float64, generator=torch.Generator().manual_seed(body["seed"])
        )
        with policy.sampling_model(adapter=body["model"] != BASE) as model:
            (sampled,) = sample(
                model,
                [prompt],
                uniforms=uniforms,
                stop_ids=body["stop_token_ids"],
                temperature=body["temperature"],
                top_p=torch.tensor([body["top_p"]]),
            )
        logprobs = list(sampled.logprobs)
        if not self.processed:
            logprobs = policy_logprobs(policy, [*prompt, *sampled.token_ids])[-len(logprobs) :].tolist()
        return {
            "token_ids": list(sampled.token_ids),
            "logprobs": {"token_logprobs": logprobs},
            "finish_reason": "stop" if sampled.stopped else "length",
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._respond({})

            def do_POST(self) -> None:
                self._respond(json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def _respond(self, body: dict[str, Any]) -> None:
                self.close_connection = True
                if "logprobs" in body and body["model"] != BASE:
                    with ONE_AT_A_TIME:
                        stand_in.completed += 1
                        if stand_in.completed == stand_in.fails_at:
                            stand_in.fails_at = None
                            if not stand_in.wants_to_hang:
                                stand_in.die()
                            stand_in.hangs = stand_in.wants_to_hang
                if stand_in.hangs:
                    stand_in._awake.wait()
                if stand_in._awake.is_set():
                    return
                if self.path == "/health":
                    status, content = 200, ""
                else:
                    with ONE_AT_A_TIME:
                        if stand_in._awake.is_set():
                            return
                        status, content = stand_in.answer(self.path, body)
                text = (content if isinstance(content, str) else json.dumps(content)).encode()
                with suppress(OSError):  # nobody waits for the answer any more
                    self.send_response(status)
                    self.send_header("content-length", str(len(text)))
                    self.send_header("connection", "close")
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, *_: object) -> None: ...

        return Handler
