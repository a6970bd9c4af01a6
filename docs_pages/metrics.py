"""The metrics of the service, from a service that has answered nothing yet."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from captcha_assets.serving.champion_reloader import ChampionReloader
from captcha_assets.serving.prediction_log import PredictionLog
from captcha_assets.serving.service import Service
from captcha_assets.serving.settings import ServingSettings
from docs_pages.tables import table


def metrics() -> str:
    """Return every metric: name, type, labels, help."""
    rows = [
        (
            f"`{_name(family)}`",
            family.type,
            ", ".join(f"`{label}`" for label in _labels(family)),
            _help(family),
        )
        for family in sorted(text_string_to_metric_families(_page()), key=_name)
    ]
    return table(("metric", "type", "labels", "what it says"), rows)


def _page() -> str:
    """Return what `/metrics` answers where every label has a value."""
    model = SimpleNamespace(name="name", version="version", digest="digest", precision="fp32")
    champion = SimpleNamespace(current=model, problem=None, precision_problem=None)
    log = SimpleNamespace(error=None, written=0, dropped=0)
    nobody: Callable[..., Any] = lambda *_: None  # noqa: E731
    service = Service(
        ServingSettings.model_construct(),
        cast("ChampionReloader", champion),
        cast("PredictionLog", log),
        nobody,
        corrections_in_batch=1,
    )
    service.metrics.requests.labels("/v1/predict", "200").inc()
    service.metrics.request_seconds.labels("/v1/predict").observe(0)
    service.metrics.predictions.labels("a").inc()
    return service.metrics.page().decode()


def _name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name


def _labels(family: Metric) -> list[str]:
    return sorted({label for sample in family.samples for label in sample.labels} - {"le"})


def _help(family: Metric) -> str:
    return str(family.documentation)
