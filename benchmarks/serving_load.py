"""How fast does `waltz serve` answer, alone and under load, and does its memory stay flat?

Starts the command on free loopback ports, once per mode, and sends the servers prompts in turn. For each number of
concurrent requests, prints requests per second, their ratio to the first mode's, and the 50th and 95th percentile of
their latency, then the feedback trigger rate so far and the server's resident memory. Options that it does not know
are passed on to `waltz serve`.

    python benchmarks/serving_load.py                            # scripted agents: what the server itself costs
    python benchmarks/serving_load.py RUN --requests 200         # a trained pair: off, adaptive and always-on
    python benchmarks/serving_load.py RUN --requests 192 --concurrent 1 16 64 --modes off adaptive --engine vllm
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import httpx

from waltz_env.prompts import PromptSet

MODES = ("off", "adaptive", "always-on")


def server(options: Sequence[str], mode: str) -> AbstractContextManager[tuple[str, int]]:
    """Base URL and process id of `waltz serve`."""
    run = "import sys; from waltz_env.cli import main; sys.exit(main())"
    return listening(["-c", run, "serve", *options, "--port", "0", "--mode", mode, "--concurrent", "1024"])


@contextmanager
def listening(program: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Base URL and process id of a Python program that prints its URL to stderr."""
    command = [sys.executable, *program]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            lines = iter(process.stderr.readline, "")
            url = next(found[0] for line in lines if (found := re.search(r"http://127[.\d:]+", line)))
            with subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL):  # empties the pipe
                yield url, process.pid
                process.terminate()
        finally:
            process.kill()


async def flood(url: str, texts: Sequence[str], concurrent: int) -> list[float]:
    """Seconds of each request. Each of ``concurrent`` clients has a connection of its own and asks again at once.

    A request that fails ends the benchmark.
    """
    waiting = list(texts)
    seconds = []

    async def client() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600, verify=False) as connection:
            while waiting:
                body = {"model": "waltz", "messages": [{"role": "user", "content": waiting.pop()}]}
                start = time.perf_counter()
                (await connection.post("/v1/chat/completions", json=body)).raise_for_status()
                seconds.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(concurrent)))
    return seconds


def megabytes(process: int) -> float:
    """Resident memory of a process, as reported by Linux."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def processor_seconds(process: int) -> float:
    """Processor time of a process so far, as reported by Linux."""
    after_name = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def trigger_rate(url: str) -> float:
    """Share of drafts that were flagged, from the server's metrics; NaN without feedback."""
    page = httpx.get(f"{url}/metrics").text
    counts = dict(re.findall(r"^waltz_(critiques|triggered)_total (\S+)$", page, re.MULTILINE))
    return float(counts["triggered"]) / float(counts["critiques"]) if float(counts["critiques"]) else float("nan")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("agents", nargs="?", default="scripted", help="as for `waltz serve`; none: ''")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--prompts", default="builtin:test", help="builtin:test, builtin:train, or a JSONL file")
    parser.add_argument("--requests", type=int, default=1000, help="requests per round")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds, each with all modes in turn; medians are printed"
    )
    arguments, passed_on = parser.parse_known_args()
    options = [*([arguments.agents] if arguments.agents else []), *passed_on]
    prompts = [prompt.text for prompt in PromptSet.load(arguments.prompts)]
    texts = [prompts[number % len(prompts)] for number in range(arguments.requests)]
    print("| mode | at once | requests/s | ratio | p50 s | p95 s | triggered | memory MB |")
    print("|---|---|---|---|---|---|---|---|")
    with ExitStack() as stack:
        servers = {mode: stack.enter_context(server(options, mode)) for mode in arguments.modes}
        for url, _ in servers.values():
            asyncio.run(flood(url, texts[:32], 16))
        for concurrent in arguments.concurrent:
            measured: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in servers}
            for _ in range(arguments.rounds):
                for mode, (url, _) in servers.items():
                    start = time.perf_counter()
                    seconds = asyncio.run(flood(url, texts, concurrent))
                    rate = len(texts) / (time.perf_counter() - start)
                    p50, p95 = (statistics.quantiles(seconds, n=100)[percent - 1] for percent in (50, 95))
                    measured[mode].append((rate, p50, p95))
            first = [rate for rate, _, _ in measured[arguments.modes[0]]]
            for mode, (url, process) in servers.items():
                ratio = statistics.median(row[0] / base for row, base in zip(measured[mode], first, strict=True))
                rate, p50, p95 = (statistics.median(column) for column in zip(*measured[mode], strict=True))
                print(
                    f"| {mode} | {concurrent} | {rate:.1f} | {ratio:.2f} | {p50:.4f} | {p95:.4f} "
                    f"| {trigger_rate(url):.2f} | {megabytes(process):.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
