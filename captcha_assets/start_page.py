"""The start page of the report server: it leads to every report among the artifacts."""

import json
from collections.abc import Iterator

from captcha_assets.atomic_files import AnyPath, regular
from captcha_assets.images import table_parts
from captcha_assets.models import overview, registry
from captcha_assets.models.manifest import ModelFolderError
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.paths import Paths
from captcha_assets.quality import data_report, report, validation_result
from captcha_assets.quality.report import Cell, Section
from captcha_assets.settings import Settings
from captcha_assets.sources.batch_registration import known_batches
from captcha_assets.text_formats import shown_time

#: So many validation results are read for one look at the page; the other batches are listed without.
_MOST = 200


def page(settings: Settings) -> str:
    """Return the page as HTML."""
    sections = [_batches(settings.paths), _dataset(settings), _models(settings.paths)]
    return report.start([*sections, *_served_days(settings.paths)], settings.ui_url)


def _batches(paths: Paths) -> Section:
    root = paths.validation_results("image_table")
    drift = _with_report(paths.validation_results("drift"))
    validated = _with_report(root)
    names = sorted(set(known_batches(paths)) | validated)
    rows = [
        [
            [Cell(name)],
            [_state(paths, name) if name in validated else Cell("not materialized yet")]
            if number < _MOST
            else [],
            [Cell("quality", f"quality/image_table/{name}/report.html")] if name in validated else [],
            [Cell("drift", f"quality/drift/{name}/report.html")] if name in drift else [],
        ]
        for number, name in enumerate(names)
    ]
    words = "Every batch with the checks of its images, and how it differs from what the champion saw."
    if not names:
        words = "There is no batch yet: captcha-assets batch add NAME SOURCE"
    links = [Cell("history of all checks", "quality/image_table/index.html")] if validated else []
    return Section("Batches", words, links, ("batch", "checks", "quality report", "drift report"), rows)


def _served_days(paths: Paths) -> Iterator[Section]:
    """Yield the days of the service, the latest first; nothing where there are none."""
    days = sorted(_with_report(paths.artifact_root / "drift_report"), reverse=True)
    rows = [
        [
            [Cell(day)],
            [_severity(paths.drift_report(day))],
            [Cell("drift", f"drift_report/{day}/report.html")],
            [Cell("quality", f"quality/prediction_log/{day}/report.html")],
        ]
        for day in days[:_MOST]
    ]
    if rows:
        words = "Every day of the service, and how it differs from what the model was trained on."
        yield Section(
            "Days of the service", words, (), ("day", "drift", "drift report", "quality report"), rows
        )


def _severity(folder: AnyPath) -> Cell:
    try:
        severity = json.loads((folder / "drift.json").read_text())["severity"]
    except (OSError, ValueError, KeyError, TypeError):
        return Cell("cannot be read")
    levels = {"none": "passed", "warning": "warning", "critical": "failed"}
    return Cell(str(severity), level=levels.get(str(severity), ""))


def _with_report(folder: AnyPath) -> set[str]:
    return {path.parent.name for path in folder.glob("*/report.html")}


def _state(paths: Paths, batch: str) -> Cell:
    try:
        found = validation_result.load_batch(paths, batch)
    except validation_result.ValidationResultError:
        return Cell("cannot be read")
    return Cell("quarantined" if found.failures else found.outcome, level=found.level)


def _dataset(settings: Settings) -> Section:
    pages = {
        "data report: classes, batches, rejected files, near-duplicates": settings.paths.data_report,
        "image index": settings.paths.validation_results("image_index") / "report.html",
        "splits": settings.paths.validation_results("splits") / "report.html",
    }
    if _has_rows(settings.paths.label_conflicts):
        pages["images whose labels contradict each other"] = settings.paths.label_conflicts
    rows = [
        [
            [Cell(name, _address(settings, path))],
            [Cell(_written(path))],
            _outdated(settings.paths) if path == settings.paths.data_report else [],
        ]
        for name, path in pages.items()
        if path.exists()
    ]
    words = "The checks of all batches together." if rows else "Nothing is materialized yet."
    return Section("Data set", words, (), ("report", "written", "state"), rows)


def _written(path: AnyPath) -> str:
    return shown_time(path.stat().st_mtime)


def _outdated(paths: Paths) -> list[Cell]:
    """Return that the tables are newer than the data report, where they are."""
    try:
        if not data_report.is_outdated(paths, known_batches(paths)):
            return [Cell("up to date", level="passed")]
    except (OSError, ValueError):  # missing or damaged
        return [Cell("its tables cannot be read: captcha-assets status", level="warning")]
    return [Cell("stale, the tables are newer: captcha-assets update", level="warning")]


def _has_rows(csv: AnyPath) -> bool:
    if not csv.exists():
        return False
    try:
        with regular(csv).open(errors="replace") as lines:
            return next(lines, "") != "" and next(lines, "") != ""
    except ValueError:  # a folder or a pipe
        return False


def _address(settings: Settings, path: AnyPath) -> str:
    return settings.public_url(path).removeprefix(f"{settings.reports_url}/")


def _models(paths: Paths) -> Section:
    words = "Every model with its figures on the test split."
    try:
        names, roles = registry.list_models(paths.models), dict(_roles(paths))
    except RegistryError as error:
        return Section("Models", f"The registry cannot be read: {error}")
    candidate = registry.pointed_at(paths.models)
    rows = [
        [
            [Cell(name)],
            [roles[name]] if name in roles else [],
            [Cell(_accuracy(paths, name))],
            [Cell("model card", f"evaluation/{name}/report.html")]
            if (paths.evaluation(name) / "report.html").exists()
            else [],
            _measured_before(paths) if name == candidate else [],
        ]
        for name in sorted(names, key=lambda name: (name not in roles, name))
    ]
    if not rows:
        words = "There is no model yet."
    elif note := overview.unlike_test_splits(paths):
        words = f"{words} {note}"
    columns = ("model", "role", "test accuracy (95 % interval)", "report", "state")
    return Section("Models", words, (), columns, rows)


def _measured_before(paths: Paths) -> list[Cell]:
    """Return that the splits are newer than the figures of the model that was trained last, if they are."""
    try:
        figures = overview.read_metrics(paths, registry.pointed_at(paths.models) or "")
        current = figures is None or figures.get("splits_version") == table_parts.version_of(paths.splits)
    except (OSError, ValueError, ModelFolderError):  # their own rows say so
        return []
    return [] if current else [Cell("stale, the splits are newer: captcha-assets update", level="warning")]


def _roles(paths: Paths) -> Iterator[tuple[str, Cell]]:
    candidate, champion = registry.candidate(paths.models), registry.champion(paths.models)
    if candidate:
        barred = overview.why_not_promoted(paths, candidate.model_id) is not None
        state = "served before" if registry.has_served(paths.models, candidate.model_id) else "not promoted"
        yield (
            candidate.model_id,
            Cell(f"candidate, {state}", level="warning") if barred else Cell("candidate"),
        )
    if champion:
        yield champion.model_id, Cell("champion", level="passed")


def _accuracy(paths: Paths, model_id: str) -> str:
    try:
        figures = overview.read_metrics(paths, model_id)
        if figures is None:
            return "not evaluated yet"
        low, high = figures["accuracy_low"], figures["accuracy_high"]
        return f"{figures['accuracy']:.4f} ({low:.4f} to {high:.4f}, {figures['n']:,} images)"
    except (OSError, ModelFolderError):
        return "cannot be read"
