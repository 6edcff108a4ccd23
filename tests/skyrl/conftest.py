"""SkyRL's own server with the Tinker API, on the CPU, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.tiny import tiny_tokenizer
from tests.waiting import wait_until

# The server starts its engine by `uv run ... -m MODULE`, which wants a checkout of SkyRL. This runs what is installed.
UV = f"""#!/bin/bash
while [ "$1" != -m ]; do shift; done
{sys.executable} "$@"
"""
BACKEND = {"max_lora_adapters": 12, "max_lora_rank": 8}


class SkyRL:
    """The server, which can be stopped and started again with what it has saved."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "bin").mkdir()
        (folder / "bin" / "uv").write_text(UV)
        (folder / "bin" / "uv").chmod(0o755)
        save_model(self.model)

    def start(self) -> None:
        arguments = {
            "host": "127.0.0.1",
            "port": self.port,
            "base-model": self.model,
            "backend": "jax",
            "backend-config": json.dumps(BACKEND),
            "database-url": f"sqlite:///{self.folder}/server.db",
            "checkpoints-base": self.folder / "checkpoints",
        }
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        environment = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled"),
            "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false",
            "HF_HUB_OFFLINE": "1",
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["uv", "run", "-m", "skyrl.tinker.api", *words],
                env=os.environ | environment,
                executable=str(self.folder / "bin" / "uv"),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.answers, every=0.5, seconds=300)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        try:
            with urlopen(f"{self.url}/api/v1/healthz", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:  # not yet, or no longer
            return False

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # the group: shell, server and engine
            self.process.wait()
            self.process = None

    def adapter(self, path: str, to: Path) -> Path:
        """The folder ``to`` with the adapter, in PEFT's format, that the server saved for sampling under ``path``."""
        model, _, name = path.removeprefix("tinker://").partition("/")
        saved = self.folder / "checkpoints" / model / "sampler_weights" / f"{name.rpartition('/')[2]}.tar.gz"
        with tarfile.open(saved) as archive:
            archive.extractall(to, filter="data")
        return to


def save_model(folder: Path) -> None:
    """A Qwen3 with two layers, random weights and a byte-level tokenizer; many tokens end a turn."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=[tokenizer.eos_token_id, *range(0, 256, 6)],
        pad_token_id=tokenizer.pad_token_id,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def skyrl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SkyRL]:
    server = SkyRL(tmp_path_factory.mktemp("skyrl"))
    server.start()
    yield server
    server.stop()
