"""Metrics under vLLM's names where the meaning is the same, under ``kelm_`` where it is our own.

Totals never go back, a worker's restart included: a worker counts from its own start, what it adds is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from kelm.wire.messages import Counters

_MODEL = ["model_name"]
_TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_ITL_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_E2E_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)

RequestCounts = Mapping[str, tuple[int, int]]


class _Requests(Collector):
    """Gauges that are true at the moment they are looked at."""

    def __init__(self, counts: Callable[[], RequestCounts]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        running = GaugeMetricFamily("vllm:num_requests_running", "Requests being run", labels=_MODEL)
        waiting = GaugeMetricFamily("vllm:num_requests_waiting", "Requests waiting to be run", labels=_MODEL)
        for model, (run, wait) in self._counts().items():
            running.add_metric([model], run)
            waiting.add_metric([model], wait)
        yield from (running, waiting)


class Metrics:
    """One registry for one daemon."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.kv_usage = Gauge("vllm:kv_cache_usage_perc", "KV blocks in use, 1 is all of them", registry=registry)
        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens of requests begun", _MODEL, registry=registry)
        self.generation_tokens = Counter(
            "vllm:generation_tokens", "Tokens generated, without what ran past a stop", _MODEL, registry=registry
        )
        self.cached_tokens = Counter(
            "vllm:prefix_cache_hits", "Prompt tokens found computed", _MODEL, registry=registry
        )
        self.preemptions = Counter("vllm:num_preemptions", "Sequences that lost their blocks", registry=registry)
        self.ttft = Histogram(
            "vllm:time_to_first_token_seconds",
            "Arrival to first token",
            _MODEL,
            buckets=_TTFT_BUCKETS,
            registry=registry,
        )
        self.itl = Histogram(
            "vllm:inter_token_latency_seconds",
            "Between a choice's tokens",
            _MODEL,
            buckets=_ITL_BUCKETS,
            registry=registry,
        )
        self.e2e = Histogram(
            "vllm:e2e_request_latency_seconds", "Arrival to end", _MODEL, buckets=_E2E_BUCKETS, registry=registry
        )
        self.success = Counter(
            "vllm:request_success", "Choices ended, by reason", [*_MODEL, "finished_reason"], registry=registry
        )
        self.blocks_free = Gauge("kelm_kv_blocks_free", "KV blocks that nobody holds", registry=registry)
        self.blocks_total = Gauge("kelm_kv_blocks_total", "KV blocks of the arena", registry=registry)
        self.recomputed = Counter(
            "kelm_recomputed_tokens", "Tokens computed again after a preemption", registry=registry
        )
        self.restarts = Counter("kelm_worker_restarts", "Workers started in place of a dead one", registry=registry)
        self.steps = Counter("kelm_steps", "Steps of the worker", ["executor"], registry=registry)
        self.loads = Counter("kelm_model_loads", "Models brought into memory", _MODEL, registry=registry)
        self.evictions = Counter("kelm_model_evictions", "Models that made room for others", _MODEL, registry=registry)
        self.tenant_tokens = Counter(
            "kelm_tenant_tokens",
            "Tokens computed for a tenant, without what the prefix cache had",
            ["tenant"],
            registry=registry,
        )
        self.loop_lag = Gauge(
            "kelm_event_loop_lag_seconds",
            "Worst delay of the daemon's event loop in the last seconds",
            registry=registry,
        )
        self._last: Counters | None = None

    def watch_requests(self, counts: Callable[[], RequestCounts]) -> None:
        """``counts`` is asked at each scrape: model -> (running, waiting)."""
        self.registry.register(_Requests(counts))

    def render(self) -> bytes:
        """The text exposition of Prometheus; ``content_type`` goes with it."""
        return generate_latest(self.registry)

    def counters(self, now: Counters) -> None:
        """The worker's state after a step."""
        self.blocks_free.set(now.blocks_free)
        self.blocks_total.set(now.blocks_total)
        self.kv_usage.set(1 - now.blocks_free / now.blocks_total if now.blocks_total else 0.0)
        last = self._last
        self.preemptions.inc(now.preemptions - (last.preemptions if last else 0))
        self.recomputed.inc(now.recomputed_tokens - (last.recomputed_tokens if last else 0))
        for executor, steps in now.steps.items():
            self.steps.labels(executor).inc(steps - (last.steps.get(executor, 0) if last else 0))
        self._last = now

    def worker_restarted(self) -> None:
        """The next counters start from zero."""
        self._last = None
        self.restarts.inc()

    def ended(self, model: str, seconds: float, reasons: Sequence[str]) -> None:
        """A generation left: how long it took and how each of its choices ended."""
        self.e2e.labels(model).observe(seconds)
        for reason in reasons:
            self.success.labels(model, reason).inc()
