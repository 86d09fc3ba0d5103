"""/healthz and /metrics, on every port of the service.

/healthz needs no key: 200, or 503 once the service is stopping. /metrics is Prometheus' text form (version 0.0.4); it
needs the token, if there is one. It shows numbers, phases and the addresses of model servers, never a text or a key.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from batchgen.emulator.backends.counts import BUCKET_SECONDS, Counts
from batchgen.emulator.backends.pool import Pool
from batchgen.emulator.engine import rows_to_answer
from batchgen.emulator.http_values import Request, Response, json_response
from batchgen.emulator.state import World

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PATHS = HEALTH, METRICS = "/healthz", "/metrics"
INSTALL = "pip install prometheus-client==0.26.0"  # the version of requirements-serve.txt
PREFIX = "batchgen_serve"


def handle(request: Request, world: World) -> Response | None:
    """Answer a request for one of the two addresses; None for any other request."""
    if request.path not in PATHS:
        return None
    if request.method != "GET":
        return json_response({"error": f"{request.path} takes GET only."}, 405)
    if request.path == HEALTH:
        return json_response({"status": "stopping"}, 503) if world.stopping else json_response({"status": "ok"})
    if world.token and not world.accepts_key(request.api_key()):
        return json_response({"error": "Send the token: Authorization: Bearer TOKEN"}, 401)
    if importlib.util.find_spec("prometheus_client") is None:
        return json_response({"error": f"/metrics needs one more package: {INSTALL}"}, 501)
    return _exposition(world)


def _exposition(world: World) -> Response:
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
    from prometheus_client.registry import Collector

    class Numbers(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _rows(world.counts)
            yield from _jobs(world)
            if isinstance(world.backend, Pool):
                yield from _servers(world.backend)

    registry = CollectorRegistry()
    registry.register(Numbers())
    ProcessCollector(registry=registry)
    return Response(200, {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}, generate_latest(registry))


def _rows(counts: Counts) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    rows = CounterMetricFamily(f"{PREFIX}_rows", "Rows and single calls that have ended.", labels=["outcome"])
    for outcome, count in dict(counts.rows).items():
        rows.add_metric([outcome], count)
    yield rows
    yield CounterMetricFamily(f"{PREFIX}_retries", "Calls that a busy or broken model failed.", value=counts.retries)
    yield GaugeMetricFamily(f"{PREFIX}_rows_in_flight", "Calls that the model has not answered.", counts.in_flight)
    tokens = CounterMetricFamily(f"{PREFIX}_tokens", "Tokens, as the model counts them.", labels=["kind"])
    tokens.add_metric(["prompt"], counts.prompt_tokens)
    tokens.add_metric(["completion"], counts.completion_tokens)
    yield tokens
    bounds = [*map(str, BUCKET_SECONDS), "+Inf"]
    buckets = [(bound, float(count)) for bound, count in zip(bounds, accumulate(counts.seconds), strict=True)]
    name, text = f"{PREFIX}_row_duration_seconds", "Time from the call to the answer of the model."
    yield HistogramMetricFamily(name, text, buckets, counts.total_seconds)


def _jobs(world: World) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    with world.lock:
        phases = Counter(job.phase for job in world.active_jobs())
        waiting = sum(rows_to_answer(job) - len(world.progress[job.id].answers) for job in world.active_jobs())
    jobs = GaugeMetricFamily(f"{PREFIX}_jobs", "Jobs that have not ended.", labels=["phase"])
    for phase in ("pending", "running", "cancelling"):
        jobs.add_metric([phase], phases[phase])
    yield jobs
    yield GaugeMetricFamily(f"{PREFIX}_rows_waiting", "Rows of these jobs without an answer.", max(waiting, 0))


def _servers(pool: Pool) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    up = GaugeMetricFamily(f"{PREFIX}_backend_up", "0 while the model server rests after errors.", labels=["backend"])
    flying = GaugeMetricFamily(f"{PREFIX}_backend_in_flight", "Calls at the model server.", labels=["backend"])
    for server in pool.servers:
        up.add_metric([server.name], not server.throttle.is_down)
        flying.add_metric([server.name], server.throttle.asked)
    yield up
    yield flying
