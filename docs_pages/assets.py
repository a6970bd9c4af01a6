"""Assets, checks, sensors and jobs, from the definitions."""

import warnings
from functools import cache
from typing import Any

import dagster as dg

from captcha_assets.cli.orchestration.mermaid_graph import mermaid
from captcha_assets.dataset import CAPTCHA
from captcha_assets.definitions import build_definitions
from docs_pages.tables import table

#: The groups in the order of the data, and what they are about.
_GROUPS = {
    "source": "what arrives, and what is known of it",
    "images": "one batch: from bytes to rows",
    "dataset": "all batches together",
    "model": "a training, its measurement, and the model that serves",
    "sweep": "trainings with other settings",
    "serving": "one day of the prediction service",
}
#: When a policy materializes an asset, by its label.
_POLICIES = {
    "on_new_content": "when an input has new content, or the code a new version",
    "on_new_batch": "by partition: when it is new, an input has new content, or the code a new version",
    "on_cron(0 6 * * *, UTC)": "observed daily at 06:00 UTC",
}
#: What decides about assets without a policy.
_OTHERWISE = {
    "resnet18": "by the sensor `retraining`",
    "quantized_model": "when selected by name, or while `CAPTCHA_SERVING_PRECISION` is `int8`",
    "sweep_trial": "when selected by name",
    "sweep_leaderboard": "when selected by name",
}


@cache
def _definitions() -> dg.Definitions:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_definitions(CAPTCHA)


def graph() -> str:
    """Return the asset graph as a Mermaid block."""
    return f"```mermaid\n{mermaid(_definitions())}```\n"


def assets() -> str:
    """Return a section for each group, and in it one for each asset, with its checks."""
    found = _definitions().resolve_asset_graph()
    nodes = [found.get(key) for key in sorted(found.get_all_asset_keys())]
    parts = []
    for group, words in _GROUPS.items():
        parts.append(f"## {group.capitalize()}: {words}\n")
        parts += [_asset(found, node) for node in nodes if node.group_name == group]
    left = {node.group_name for node in nodes} - set(_GROUPS)
    if left:
        raise ValueError(f"groups without a heading: {sorted(left)}")
    return "\n".join(parts)


def _asset(found: Any, node: Any) -> str:
    facts = [
        ("partitioned by", _partition(node)),
        ("kinds", ", ".join(sorted(node.kinds)).replace("_", " ")),
        ("derived from", ", ".join(_linked(key) for key in sorted(node.parent_keys))),
        ("materialized automatically", _automation(node)),
    ]
    lines = [f"- {name}: {value}" for name, value in facts if value]
    description = " ".join(str(node.description).split())
    text = f"### {node.key.to_user_string()}\n\n{description}\n\n" + "\n".join(lines) + "\n"
    specs = [found.get(key) for key in sorted(node.check_keys, key=lambda key: key.name)]
    if not specs:
        return text
    rows = [(f"`{one.key.name}`", "blocks" if one.blocking else "warns", one.description) for one in specs]
    return f"{text}\n{table(('check', 'a failure', 'what is expected'), rows)}"


def _partition(node: Any) -> str:
    return str(getattr(node.partitions_def, "name", "")) if node.is_partitioned else ""


def _linked(key: dg.AssetKey) -> str:
    name = key.to_user_string()
    return f"[{name}](#{name})"


def _automation(node: Any) -> str:
    if node.automation_condition:
        return _POLICIES[str(node.automation_condition.get_label())]
    if not node.is_materializable:
        return "no: it is observed by every command, and by the sensor `observed_sources`"
    return _OTHERWISE[node.key.to_user_string()]


def sensors() -> str:
    """Return the sensors."""
    rows = [
        (
            f"`{one.name}`",
            "on" if one.default_status == dg.DefaultSensorStatus.RUNNING else "off",
            str(one.description),
        )
        for one in sorted(_definitions().sensors or (), key=lambda one: one.name)
    ]
    return table(("sensor", "at first", "what it does"), rows)


def jobs() -> str:
    """Return the jobs."""
    rows = [
        (f"`{one.name}`", str(one.description))
        for one in sorted(_definitions().jobs or (), key=lambda one: one.name)
    ]
    return table(("job", "what it materializes"), rows)
