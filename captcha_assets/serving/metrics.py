"""What the service counts, for Prometheus."""

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        disable_created_metrics()  # a series more for each counter and histogram, which nothing reads
        self._registry = CollectorRegistry()
        self.requests = self._counter("requests", "Requests by route and status.", "route", "status")
        self.request_seconds = self._histogram("request_seconds", "Time of a request.", _SECONDS, "route")
        self.queue_seconds = self._histogram("queue_seconds", "Time that a request waits.", _SECONDS)
        self.compute_seconds = self._histogram("compute_seconds", "Time of a call of the model.", _SECONDS)
        self.batch_images = self._histogram("batch_images", "Images in a call of the model.", _IMAGES)
        self.predictions = self._counter("predictions", "Predictions by class.", "label")
        tenths = [tenth / 10 for tenth in range(1, 11)]
        self.score = self._histogram("score", "Probability of the predicted class.", tenths)
        self.queue_images = Gauge("captcha_queue_images", "Images that wait.", registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"captcha_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"captcha_{name}", text, labels, buckets=tuple(buckets), registry=self._registry)

    def collect_from(self, collect: Callable[[], Iterable[Metric]]) -> None:
        """Add metrics that are computed when they are read."""
        self._registry.register(_Collected(collect))

    def page(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Collected(Collector):
    def __init__(self, collect: Callable[[], Iterable[Metric]]) -> None:
        self._collect = collect

    def describe(self) -> Iterable[Metric]:
        """Describe no metrics: they are computed when they are read."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of now."""
        return self._collect()


def info(name: str, text: str, values: dict[str, str]) -> Metric:
    """Return facts as labels of a metric whose value is 1."""
    return InfoMetricFamily(f"captcha_{name}", text, values)


def gauge(name: str, text: str, value: float) -> Metric:
    """Return a value of now."""
    return GaugeMetricFamily(f"captcha_{name}", text, value)


def count(name: str, text: str, value: float) -> Metric:
    """Return a count of something since the start."""
    return CounterMetricFamily(f"captcha_{name}", text, value)
