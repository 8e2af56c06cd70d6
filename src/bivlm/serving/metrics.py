"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from bivlm.serving.asked import Ended, Event, Failed
from bivlm.serving.engine import Engine

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The counters of one server; gauges look at its engine when they are read."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()

        def gauge(name: str, said: str) -> Gauge:
            return Gauge(f"bivlm_{name}", said, registry=self._registry)

        def counter(name: str, said: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"bivlm_{name}", said, labels, registry=self._registry)

        gauge("requests_waiting", "requests that wait for the model").set_function(lambda: engine.waiting)
        gauge("requests_under_way", "requests that are answered now").set_function(lambda: engine.under_way)
        self._ended = counter("requests", "requests, by how they ended", ("end",))
        self._prompt = counter("prompt_tokens", "tokens of prompts that were answered")
        self._answer = counter("answer_tokens", "tokens of answers")
        self._seconds = Histogram(
            "bivlm_request_seconds",
            "from arrival to the last token",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._first = Histogram(
            "bivlm_first_token_seconds",
            "from arrival to the first text",
            buckets=SECONDS,
            registry=self._registry,
        )

    def refused(self, why: str) -> None:
        """A request was refused before it waited."""
        self._ended.labels(why).inc()

    def first(self, seconds: float) -> None:
        """A client was told its first text."""
        self._first.observe(seconds)

    def last(self, event: Event, seconds: float) -> None:
        """A request has ended."""
        if isinstance(event, Ended):
            self._ended.labels(event.reason).inc()
            self._prompt.inc(event.prompt_tokens)
            self._answer.inc(event.answer_tokens)
            self._seconds.observe(seconds)
        elif isinstance(event, Failed):
            self._ended.labels("fault" if event.internal else "refused").inc()

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return generate_latest(self._registry)
