"""The models of the registry with their figures, as plain rows."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import polars as pl

from captcha_assets.atomic_files import AnyPath, fetched, regular
from captcha_assets.confidence_intervals import best_of
from captcha_assets.images import table_parts
from captcha_assets.models import promotion_records, registry
from captcha_assets.models.manifest import (
    MANIFEST,
    QUANTIZE_AGAIN,
    ModelFolderError,
    read_json,
    verify_files,
)
from captcha_assets.models.predict_files import resolve
from captcha_assets.models.quantization import RefusedQuantizationError, require_passed
from captcha_assets.models.registry import Candidate, Champion
from captcha_assets.models.training_provenance import trained_batches
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings

_FIGURES = ("accuracy", "accuracy_low", "accuracy_high", "n")


def read_metrics(paths: Paths, model_id: str) -> dict[str, Any] | None:
    """The test figures of a model, or None where it was not evaluated.

    Raises:
        ModelFolderError: the file is damaged.
    """
    place = paths.evaluation(model_id)
    path = place / "metrics.json"
    if not path.exists():
        return None
    with fetched(path) as local:
        try:
            content = regular(local).read_bytes()
            metrics = json.loads(content)
        except (ValueError, OSError, RecursionError) as error:
            raise ModelFolderError(f"{path} is damaged: {error}; {_measure_again(model_id)}") from error
    if fault := _fault(place, model_id, content):
        raise ModelFolderError(f"{fault}; {_measure_again(model_id)}")
    if not isinstance(metrics, dict) or _figures_of(metrics) is None:
        raise ModelFolderError(f"{path} is damaged: it holds no figures; {_measure_again(model_id)}")
    return metrics


def _fault(evaluation: AnyPath, model_id: str, metrics: bytes) -> str | None:
    """Return what the manifest of an evaluation has against it; None for nothing, or without one."""
    try:
        with fetched(evaluation / MANIFEST) as local:
            manifest = read_json(local)
        measured, recorded = manifest.get("model_id", model_id), manifest["files"].get("metrics.json")
    except (OSError, ModelFolderError, AttributeError, KeyError, TypeError):
        return None  # status names what is damaged
    if measured != model_id:
        return f"{evaluation} holds the evaluation of {measured}"
    if recorded in {None, hashlib.sha256(metrics).hexdigest()}:
        return None
    return f"{evaluation / 'metrics.json'} is damaged (its SHA-256 is not the manifest's)"


def _measure_again(model_id: str) -> str:
    return f"measure the model again with: captcha-assets model evaluate {model_id}"


def _figures_of(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return accuracy, its interval and the number of images; None where one of them is no number."""
    figures = {name: metrics.get(name) for name in _FIGURES}
    numbers = (isinstance(value, int | float) and not isinstance(value, bool) for value in figures.values())
    return figures if all(numbers) else None


def accuracy_figures(paths: Paths, model_id: str) -> dict[str, Any]:
    """Return what the history keeps of a model's evaluation; nothing where it was not evaluated."""
    return _figures_of(read_metrics(paths, model_id) or {}) or {}


def champion_figures(paths: Paths, champion: Champion) -> dict[str, Any]:
    """Return the champion's accuracy with its interval, and what the interval means after selection.

    Returns:
        `accuracy`, `accuracy_low`, `accuracy_high`, `n`: as evaluated last, or as the history has them;
        None where neither has. `compared`: how many models were compared on the test split or an earlier
        state of it, the champion included. `outdated`: why the figures are those of the history, in one line;
        None where they are the last evaluation's. `selected_low`, `selected_high`: an interval that holds for
        the best of so many; None where the champion is not the best. `selection`: the same in words; None
        for a single model. `guesses`: whether the interval does not lie above the share of the most common
        class, which is what guessing reads right.
    """
    measured, outdated = None, None
    try:
        measured = read_metrics(paths, champion.model_id)
    except ModelFolderError as error:
        outdated = str(error)
    if measured is None:
        outdated = outdated or f"its evaluation is missing; {_measure_again(champion.model_id)}"
    figures = _figures_of(measured or champion.metrics)
    models = promotion_records.compared(paths.models) | {champion.model_id}
    if figures is None:
        nothing = {**dict.fromkeys(_FIGURES), **_NO_SELECTION}
        return {**nothing, "compared": len(models), "outdated": outdated, "guesses": False}
    others = models - {champion.model_id}
    return {
        **figures,
        "compared": len(models),
        "outdated": outdated,
        "guesses": _guesses(measured or {}),
        **(_selection(paths, figures, others) if others else _NO_SELECTION),
    }


def _guesses(metrics: Mapping[str, Any]) -> bool:
    try:
        images = [one["support"] for one in metrics["per_class"]]
        return bool(metrics["accuracy_low"] <= max(images) / sum(images))
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # of an earlier version
        return False


_NO_SELECTION = dict.fromkeys(("selected_low", "selected_high", "selection"))


def _selection(paths: Paths, figures: Mapping[str, Any], others: Collection[str]) -> dict[str, Any]:
    """Return what the interval of a model means that was compared with others on the test split."""
    accuracies = [_known_accuracy(paths, one) for one in others]
    compared = len(others) + 1
    where = f"{compared} models compared on this test split or an earlier state of it"
    if any(accuracy is not None and accuracy > figures["accuracy"] for accuracy in accuracies):
        return {**_NO_SELECTION, "selection": f"one of {where}; another one is more accurate"}
    if None in accuracies:
        return {**_NO_SELECTION, "selection": f"one of {where}; not all of their figures can be read"}
    found = best_of(compared, round(figures["accuracy"] * figures["n"]), round(figures["n"]))
    words = (
        f"the best of {where}, so the interval is optimistic; for the best of {compared}, "
        f"{found.low:.4f} to {found.high:.4f} holds"
    )
    return {"selected_low": found.low, "selected_high": found.high, "selection": words}


def _known_accuracy(paths: Paths, model_id: str) -> float | None:
    """Return the test accuracy of a model; None where it cannot be read."""
    try:
        return accuracy_figures(paths, model_id).get("accuracy")
    except ModelFolderError:
        return None


def list_models(paths: Paths) -> list[dict[str, Any]]:
    """One row per model: its id, its role, its test accuracy with the interval, what it was trained on."""
    candidate, history = registry.candidate(paths.models), registry.history(paths.models)
    return [
        {
            "model": model_id,
            "role": ", ".join(_roles(paths, model_id, candidate, history)) or None,
            **_accuracy_and_batches(paths, model_id),
        }
        for model_id in registry.list_models(paths.models)
    ]


def _accuracy_and_batches(paths: Paths, model_id: str) -> dict[str, Any]:
    """Return the row of a model; that of a damaged one says so."""
    try:
        return {
            "test accuracy": _accuracy(paths, model_id),
            "trained on": ", ".join(trained_batches(registry.config(paths.models, model_id).provenance)),
        }
    except ModelFolderError:
        return {"test accuracy": f"damaged: captcha-assets model show {model_id}", "trained on": None}


def unlike_test_splits(paths: Paths) -> str | None:
    """Return a note that the models were measured on different test splits; None where they were on one."""
    sizes = set()
    for model_id in registry.list_models(paths.models):
        with suppress(ModelFolderError):  # its row says that it is damaged
            sizes.add((_figures_of(read_metrics(paths, model_id) or {}) or {}).get("n"))
    if len(sizes - {None}) < 2:
        return None
    return (
        "The test split changed between these measurements: compare only figures of the same number of "
        "images. captcha-assets model evaluate MODEL measures a model on today's test split."
    )


def _on_earlier_split(paths: Paths, images: int | None) -> str:
    """Return the words that follow a figure of so many test images; empty where there are as many today."""
    try:
        splits = table_parts.scan(paths.splits).filter(split="test").select(pl.len()).collect()
    except (pl.exceptions.PolarsError, OSError):
        return ""  # missing or damaged: `status` says so
    today = splits.item()
    if images in (None, today):
        return ""
    return f"; on an earlier test split of {images:,} images, today's has {today:,}"


def show_model(settings: Settings, name: str) -> dict[str, Any]:
    """What is known of one model: "champion", "candidate" or an id.

    Raises:
        ModelChoiceError: there is no such model.
    """
    model_id = resolve(settings.paths, name)
    models = settings.paths.models
    config, candidate = registry.config(models, model_id), registry.candidate(models)
    history = registry.history(models)
    champion = history[-1] if history else None
    roles = _roles(settings.paths, model_id, candidate, history)
    shown: dict[str, Any] = {"model": model_id, "role": ", ".join(roles) or "none"}
    if champion and champion.model_id == model_id:
        shown |= {
            "champion since": champion.since,
            "instead of": champion.instead_of,
            "because": champion.reason,
            "comparison": champion_figures(settings.paths, champion)["selection"]
            or "no other model was compared with it, so the interval holds as it is",
        }
    elif why := why_not_promoted(settings.paths, model_id):
        again = " again" if registry.has_served(settings.paths.models, model_id) else ""
        shown[f"not promoted{again} because"] = why
    shown |= {
        "test accuracy (95 %)": _accuracy_and_split(settings.paths, model_id),
        "int8": quantized(settings.paths, model_id) or "not quantized",
        "report": settings.public_url(settings.paths.evaluation(model_id) / "report.html"),
        "report file": str(settings.paths.evaluation(model_id) / "report.html"),
        "batches": ", ".join(trained_batches(config.provenance)),
        "training run": config.provenance.get("run_id"),
        "splits": config.splits_version,
        "version of the training code": config.code_version,
        "seed": config.seed,
        "folder": str(registry.model_folder(settings.paths.models, model_id)),
    }
    return shown


def quantized(paths: Paths, model_id: str) -> str | None:
    """Return what the int8 export of a model is worth, or why it cannot answer; None where there is none."""
    place = paths.quantized_model(model_id)
    if not place.exists():
        return None
    try:
        with fetched(place) as folder:
            verify_files(folder, QUANTIZE_AGAIN)
            measured = require_passed(folder)
            return f"{measured.words}{_on_earlier_split(paths, measured.images)}"
    except (ModelFolderError, RefusedQuantizationError) as error:
        return str(error)


def why_not_promoted(paths: Paths, model_id: str) -> str | None:
    """Return why a model was refused, replaced or not promoted; None where it was none of these.

    For one that has served, this is why the rule does not promote it again.

    Raises:
        RegistryError: a record is damaged.
    """
    decision = promotion_records.last(paths.models, model_id)
    barred = registry.barred(paths.models, model_id)
    if barred or decision is None or decision.promoted or registry.has_served(paths.models, model_id):
        return barred
    champion = registry.champion(paths.models)
    then = decision.champion if champion and decision.champion != champion.model_id else None
    return f"{decision.reason} (compared with {then}, which served then)" if then else decision.reason


def _roles(
    paths: Paths, model_id: str, candidate: Candidate | None, history: Sequence[Champion]
) -> list[str]:
    if history and history[-1].model_id == model_id:
        return ["champion"]  # that it was trained last as well says nothing more
    roles = ["candidate"] if candidate and candidate.model_id == model_id else []
    barred = registry.barred(paths.models, model_id, history)
    return [*roles, barred.partition(":")[0]] if barred else roles


def _accuracy_and_split(paths: Paths, model_id: str) -> str | None:
    accuracy = _accuracy(paths, model_id)
    images = (_figures_of(read_metrics(paths, model_id) or {}) or {}).get("n")
    return accuracy and f"{accuracy}{_on_earlier_split(paths, images)}"


def _accuracy(paths: Paths, model_id: str) -> str | None:
    figures = _figures_of(read_metrics(paths, model_id) or {})
    if figures is None:
        return None
    low, high = figures["accuracy_low"], figures["accuracy_high"]
    return f"{figures['accuracy']:.4f} ({low:.4f} to {high:.4f}, n = {figures['n']:,})"
