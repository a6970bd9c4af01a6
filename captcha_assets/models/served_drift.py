"""The latest drift report on the predictions of the model that serves."""

from dataclasses import dataclass
from typing import Any

from captcha_assets.atomic_files import fetched
from captcha_assets.models import registry
from captcha_assets.models.manifest import MANIFEST, ModelFolderError, read_json, verify_files
from captcha_assets.paths import Paths

#: The file of a report that holds its result.
RESULT = "drift.json"
#: What is said where no report is about the champion.
NOT_CHECKED = "not checked yet"


@dataclass(frozen=True)
class ServedDriftAlarm:
    """Drift of the predictions that the champion gave.

    Attributes:
        day: the day of the report, YYYY-MM-DD.
        model_id: the champion.
        severity: "warning" or "critical".
        words: the first sentence of the report: of what drifted, the most severe.
    """

    day: str
    model_id: str
    severity: str
    words: str

    def __str__(self) -> str:
        return f"{self.severity} drift on {self.day}: {self.words}"


def alarm(paths: Paths) -> ServedDriftAlarm | None:
    """Return the alarm of the latest drift report; None where it raises none, or is about another model.

    A damaged report raises no alarm: it is stale, and is materialized again.

    Raises:
        RegistryError: the history of the champion is damaged.
    """
    found = _latest_of_champion(paths)
    if found is None or found["severity"] == "none":
        return None
    return ServedDriftAlarm(found["day"], found["model_id"], found["severity"], found["sentences"][0])


def without_alarm(paths: Paths, *, is_log_readable: bool) -> str:
    """Return in words what it means that there is no alarm: no drift, or that nothing was checked.

    Args:
        paths: where things are kept.
        is_log_readable: whether the prediction log can be read; if not, that nothing drifts is not known.

    Raises:
        RegistryError: the history of the champion is damaged.
    """
    if not is_log_readable:
        return "their log cannot be read"
    found = _latest_of_champion(paths)
    return f"no drift on {found['day']}" if found else NOT_CHECKED


def _latest_of_champion(paths: Paths) -> dict[str, Any] | None:
    """Return the result of the latest report; None where it is damaged, or about another model."""
    champion, day = registry.champion(paths.models), _latest_day(paths)
    if champion is None or day is None:
        return None
    try:
        with fetched(paths.drift_report(day)) as report:
            verify_files(report)
            found = read_json(report / RESULT)
    except (ModelFolderError, OSError):
        return None
    return {**found, "day": day} if found["model_id"] == champion.model_id else None


def _latest_day(paths: Paths) -> str | None:
    """Return the latest day that has a report."""
    if not paths.drift_reports.exists():
        return None
    days = (report.name for report in paths.drift_reports.iterdir() if (report / MANIFEST).exists())
    return max(days, default=None)
