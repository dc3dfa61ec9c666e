"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from udrl.serve.served import Served

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self, students: Sequence[Served]) -> None:
        """students: whose queues are looked at whenever somebody asks."""
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry()
        self.requests = Counter("udrl_requests", "Requests answered.", ["path", "student", "status"], registry=registry)
        self.seconds = Histogram(
            "udrl_request_seconds", "Seconds of a request.", ["path", "student"], buckets=SECONDS, registry=registry
        )
        self.first = Histogram(
            "udrl_first_text_seconds", "Seconds until a stream begins.", ["student"], buckets=SECONDS, registry=registry
        )
        self.read = Counter("udrl_prompt_tokens", "Token ids read.", ["student"], registry=registry)
        self.written = Counter("udrl_completion_tokens", "Token ids written.", ["student"], registry=registry)
        self.clamped = Counter(
            "udrl_clamped_targets", "Targets beyond what is reached.", ["student", "attribute"], registry=registry
        )
        writing = Gauge("udrl_writing", "Completions that are being written.", ["student"], registry=registry)
        waiting = Gauge("udrl_waiting", "Completions that wait for a place.", ["student"], registry=registry)
        for one in students:
            writing.labels(one.name).set_function(partial(getattr, one.worker, "writing"))
            waiting.labels(one.name).set_function(partial(getattr, one.worker, "waiting"))

    def page(self) -> bytes:
        """Return what Prometheus reads."""
        from prometheus_client import generate_latest

        page: bytes = generate_latest(self.registry)
        return page
