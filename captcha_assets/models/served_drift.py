"""The latest drift report on the predictions of the model that serves."""

from dataclasses import dataclass

from captcha_assets.atomic_files import fetched
from captcha_assets.models import registry
from captcha_assets.models.manifest import MANIFEST, ModelFolderError, read_json, verify_files
from captcha_assets.paths import Paths

#: The file of a report that holds its result.
RESULT = "drift.json"


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
        RegistryError: the pointer to the champion is damaged.
    """
    champion, day = registry.champion(paths.models), _latest_day(paths)
    if champion is None or day is None:
        return None
    try:
        with fetched(paths.drift_report(day)) as report:
            verify_files(report)
            found = read_json(report / RESULT)
    except (ModelFolderError, OSError):
        return None
    if found["model_id"] != champion.model_id or found["severity"] == "none":
        return None
    return ServedDriftAlarm(day, champion.model_id, found["severity"], found["sentences"][0])


def _latest_day(paths: Paths) -> str | None:
    """Return the latest day that has a report."""
    if not paths.drift_reports.exists():
        return None
    days = (report.name for report in paths.drift_reports.iterdir() if (report / MANIFEST).exists())
    return max(days, default=None)
