"""What the registry holds, and what is known of each model, as plain rows."""

import json
from typing import Any

from captcha_assets.models import registry
from captcha_assets.models.folder import ModelConfig, read_config
from captcha_assets.models.reading import resolve
from captcha_assets.models.registry import Champion
from captcha_assets.settings import Settings
from captcha_assets.storage import fetched


def read_metrics(settings: Settings, model_id: str) -> dict[str, Any] | None:
    """The test figures of a model, or None where it was not evaluated."""
    path = settings.evaluation(model_id) / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def list_models(settings: Settings) -> list[dict[str, Any]]:
    """One row per model: its id, its role, its test accuracy with the interval, what it was trained on."""
    return [
        {
            "model": model_id,
            "role": ", ".join(_roles(settings, model_id)) or None,
            "test accuracy": _accuracy(settings, model_id),
            "trained on": ", ".join(_config(settings, model_id).provenance.get("deliveries", [])),
        }
        for model_id in registry.list_models(settings.models)
    ]


def show_model(settings: Settings, name: str) -> dict[str, Any]:
    """What is known of one model: "champion", "candidate" or an id.

    Raises:
        ModelChoiceError: there is no such model.
    """
    model_id = resolve(settings, name)
    config, champion = _config(settings, model_id), registry.champion(settings.models)
    shown: dict[str, Any] = {"model": model_id, "role": ", ".join(_roles(settings, model_id)) or "none"}
    if champion and champion.model_id == model_id:
        shown |= {
            "champion since": champion.since,
            "instead of": champion.instead_of,
            "because": champion.reason,
        }
    shown |= {
        "test accuracy (95 %)": _accuracy(settings, model_id),
        "report": settings.public_url(settings.evaluation(model_id) / "report.html"),
        "report file": str(settings.evaluation(model_id) / "report.html"),
        "deliveries": ", ".join(config.provenance.get("deliveries", [])),
        "training run": config.provenance.get("run_id"),
        "splits": config.splits_version,
        "code version": config.code_version,
        "seed": config.seed,
        "folder": str(registry.model_folder(settings.models, model_id)),
    }
    return shown


def promote_by_hand(settings: Settings, name: str, reason: str) -> Champion:
    """Make a model the champion because a person says so; the history keeps the reason.

    Raises:
        ModelChoiceError: there is no such model.
        ModelFolderError: the model is damaged.
    """
    model_id = resolve(settings, name)
    return registry.promote(settings.models, model_id, reason, read_metrics(settings, model_id), by="human")


def _config(settings: Settings, model_id: str) -> ModelConfig:
    with fetched(registry.model_folder(settings.models, model_id)) as folder:
        return read_config(folder)


def _roles(settings: Settings, model_id: str) -> list[str]:
    candidate, champion = registry.candidate(settings.models), registry.champion(settings.models)
    pointers = {"champion": champion, "candidate": candidate}
    roles = [role for role, pointer in pointers.items() if pointer and pointer.model_id == model_id]
    barred = "champion" not in roles and registry.barred(settings.models, model_id)
    return [*roles, barred.partition(":")[0]] if barred else roles


def _accuracy(settings: Settings, model_id: str) -> str | None:
    metrics = read_metrics(settings, model_id)
    if metrics is None:
        return None
    low, high = metrics["accuracy_low"], metrics["accuracy_high"]
    return f"{metrics['accuracy']:.4f} ({low:.4f} to {high:.4f}, n = {metrics['n']:,})"
