"""Metrics for Prometheus: counts and times only, no text, no keys, no client addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from waltz_env.serving.duet import Duet
from waltz_env.serving.http.answers import Review, review
from waltz_env.serving.reply import Reply

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PHASES = ("draft", "feedback", "revision", "queue", "total")


class Metrics:
    """The counters of one server, in its own registry.

    The feedback trigger rate is ``waltz_triggered_total / sum(waltz_answers_total)``.

    Args:
        duet: the pair whose failures are counted.
    """

    def __init__(self, duet: Duet) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "waltz_requests", "Requests that have ended, by HTTP status.", ["status"], registry=self.registry
        )
        self.in_flight = Gauge("waltz_requests_in_flight", "Chat requests being answered.", registry=self.registry)
        self.answers = Counter(
            "waltz_answers", "Replies, by what stands behind them.", ["review"], registry=self.registry
        )
        for kind in get_args(Review):
            self.answers.labels(kind)
        self.critiques = Counter("waltz_critiques", "Replies with well-formed feedback.", registry=self.registry)
        self.triggered = Counter("waltz_triggered", "Replies whose draft was flagged.", registry=self.registry)
        self.refused = Counter("waltz_refused", "Replies that are the fixed refusal.", registry=self.registry)
        self.seconds = Histogram(
            "waltz_phase_seconds", "Time of each phase.", ["phase"], buckets=SECONDS, registry=self.registry
        )
        self.registry.register(_Failures(duet))

    def replied(self, reply: Reply) -> None:
        """Count one reply."""
        self.answers.labels(review(reply)).inc()
        self.critiques.inc(reply.feedback is not None and reply.feedback.well_formed)
        self.triggered.inc(reply.triggered)
        self.refused.inc(reply.refused)
        for phase in PHASES:
            seconds: float = getattr(reply.latency, phase)
            if seconds > 0:
                self.seconds.labels(phase).observe(seconds)

    def page(self) -> bytes:
        """Return the page in Prometheus' text format."""
        return generate_latest(self.registry)


class _Failures(Collector):
    """The pair's own count of failures, read whenever the page is."""

    def __init__(self, duet: Duet) -> None:
        self._duet = duet

    def collect(self) -> Iterator[CounterMetricFamily]:
        family = CounterMetricFamily("waltz_failures", "Failures of agents, by kind.", labels=["agent", "kind"])
        for (agent, kind), count in list(self._duet.failures.items()):
            family.add_metric([agent, kind], count)
        yield family
