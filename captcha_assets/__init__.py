"""From a batch of labelled images to a promoted model, every step a Dagster asset."""

import importlib
from typing import Any

#: What `dg` finds here: see `captcha_assets.component`. Loaded when it is asked for, as it needs Dagster.
_COMPONENTS = ("ImageClassification",)


def __getattr__(name: str) -> Any:
    if name not in _COMPONENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.component"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_COMPONENTS])
