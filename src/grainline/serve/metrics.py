"""What `/metrics` tells Prometheus: requests, tokens, the queue, time to the first token and time per token."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from grainline.serve.engine import Engine

REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Metrics:
    """One server's metrics, in a registry of their own."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, engine: Engine) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "grainline_requests",
            "HTTP requests answered; 499: the client left",
            ("path", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "grainline_request_seconds", "From a request to the end of its answer", ("path",),
            buckets=REQUEST_SECONDS, registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter("grainline_prompt_tokens", "Prompt tokens of accepted requests", registry=registry)
        self.generated_tokens = Counter("grainline_generated_tokens", "Tokens generated", registry=registry)
        self.first_token_seconds = Histogram(
            "grainline_time_to_first_token_seconds", "From acceptance to a sequence's first token, queueing included",
            buckets=FIRST_TOKEN_SECONDS, registry=registry,
        )  # fmt: skip
        self.token_seconds = Histogram(
            "grainline_time_per_output_token_seconds", "From one token of a sequence to its next",
            buckets=TOKEN_SECONDS, registry=registry,
        )  # fmt: skip
        Gauge("grainline_waiting_sequences", "Sequences accepted and not begun", registry=registry).set_function(
            lambda: engine.waiting
        )
        Gauge("grainline_running_sequences", "Sequences being decoded", registry=registry).set_function(
            lambda: engine.running
        )

    def text(self) -> bytes:
        """The page that Prometheus scrapes."""
        return generate_latest(self._registry)
