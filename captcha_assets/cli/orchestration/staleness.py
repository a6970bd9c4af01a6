"""Which steps are stale, and why, as the Dagster UI says it.

Dagster's own resolver decides, so that the two cannot disagree. What it does not see is added: see
`input_versions`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import dagster as dg

from captcha_assets.cli.orchestration.run_config import reasons_given
from captcha_assets.defs import input_versions, lost_outputs
from captcha_assets.defs.automation import only_when_asked
from captcha_assets.defs.dagster_internals import (
    BaseAssetGraph,
    CachingStaleStatusResolver,
    StaleCause,
    StaleCauseCategory,
    StaleStatus,
    stale_status_resolver,
)
from captcha_assets.defs.fresh_partitions import fresh_partitions
from captcha_assets.defs.observed_sources import observe
from captcha_assets.defs.partitions import BATCH
from captcha_assets.defs.unfinished_checks import unfinished_checks
from captcha_assets.models.manifest import first_of
from captcha_assets.models.retraining_policy import NOT_PRODUCTION
from captcha_assets.paths import Paths
from captcha_assets.served_predictions import log_access
from captcha_assets.settings import load_settings
from captcha_assets.stored_outputs import Output
from captcha_assets.text_formats import first_line

#: How a reason begins that may come to nothing.
_ONLY_IF = "only if materializing"

#: They come first: a batch that `corrections` registers goes the way of any batch in the same update.
_REGISTER_BATCHES = frozenset({"prediction_log", "corrections"})


@dataclass(frozen=True, order=True)
class Step:
    """The smallest unit of materialization: the assets of one function, in one partition or unpartitioned."""

    assets: tuple[str, ...]
    partition: str | None = None

    def __str__(self) -> str:
        name = " + ".join(self.assets)
        return f"{name} [{self.partition}]" if self.partition else name


class SelectionError(ValueError):
    """A selection of assets that cannot be used; the message says what can."""


def selected(text: str) -> dg.AssetSelection:
    """The assets that `text` names, in Dagster's syntax; `*` leaves out `only_when_asked`."""
    everything = dg.AssetSelection.all() - dg.AssetSelection.assets(*only_when_asked())
    return everything if text == "*" else dg.AssetSelection.from_string(text)


def checked_selection(definitions: dg.Definitions, text: str) -> dg.AssetSelection:
    """Like `selected`, for what a person typed.

    Raises:
        SelectionError: it cannot be read, or selects nothing that can be materialized.
    """
    graph = definitions.resolve_asset_graph()
    known = ", ".join(sorted(key.to_user_string() for key in graph.materializable_asset_keys))
    try:
        selection = selected(text)
        found = selection.materializable().resolve(graph)
    except dg.DagsterInvalidSubsetError:
        raise SelectionError(f"no such asset: {text}; known are {known}") from None
    except dg.DagsterError as error:  # of the parser, whose own class is not public
        raise SelectionError(f"{first_line(error)}; names are selected by key:NAME or NAME") from None
    if not found:
        raise SelectionError(f"{text} selects nothing that can be materialized; known are {known}")
    return selection


def includes(definitions: dg.Definitions, selection: dg.AssetSelection, asset: str) -> bool:
    """Whether an asset is among those selected."""
    return dg.AssetKey(asset) in selection.resolve(definitions.resolve_asset_graph())


def steps_in_order(definitions: dg.Definitions, selection: dg.AssetSelection) -> list[tuple[str, ...]]:
    """The selected assets, grouped by the function that materializes them, inputs first."""
    graph = definitions.resolve_asset_graph()
    selected = selection.materializable().resolve(graph)
    groups: dict[tuple[str, ...], None] = {}
    for key in graph.toposorted_asset_keys:
        if key in selected:
            of_function = graph.get(key).execution_set_asset_keys
            groups[tuple(sorted(other.to_user_string() for other in of_function))] = None
    return sorted(groups, key=lambda assets: not _REGISTER_BATCHES.intersection(assets))


def stale_steps(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    assets: tuple[str, ...],
    run_config: Mapping[str, Any] | None = None,
) -> dict[Step, tuple[str, ...]]:
    """The steps among `assets` that are missing or stale, with the reasons.

    Args:
        definitions: the code location.
        instance: the Dagster instance.
        assets: the assets of one function.
        run_config: the run config of the command; a model trained with other run config is stale.
    """
    graph = definitions.resolve_asset_graph()
    resolver, paths = stale_status_resolver(instance, graph), load_settings().paths
    keys = [dg.AssetKey(name) for name in assets]
    fresh = {key: fresh_partitions(instance, graph, key) for key in keys}
    unfinished = [unfinished_checks(instance, graph, key) for key in keys]
    found = {}
    for partition in partitions_of(definitions, instance, assets[0]):
        unsure = [key for key in keys if partition not in fresh[key]]
        reasons = [r for key in unsure for r in _reasons(resolver, graph, instance, key, partition)]
        reasons = reasons or [words for checks in unfinished for words in _without_result(checks, partition)]
        reasons = reasons_given(paths, assets, reasons or _failed(paths, assets, partition), run_config)
        certain = [reason for reason in reasons if not reason.startswith(_ONLY_IF)]
        if reasons:
            found[Step(assets, partition)] = tuple(dict.fromkeys(certain or reasons))
    return found


def _without_result(checks: Mapping[str | None, list[str]], partition: str | None) -> list[str]:
    """Return that an asset is materialized again, since checks of its last run have no result."""
    names = checks.get(partition, [])
    return [f"its last run ended before {', '.join(first_of(names, 3))} had a result"] if names else []


def _failed(paths: Paths, assets: tuple[str, ...], partition: str | None) -> list[str]:
    """Return why a day of the service is tried again although its rows are as they were."""
    if assets != ("prediction_log",) or partition is None:
        return []
    failed = log_access.failed_checks(paths, partition)
    return [f"failed the blocking check {', '.join(failed)}"] if failed else []


def partitions_of(
    definitions: dg.Definitions, instance: dg.DagsterInstance, asset: str
) -> list[str] | list[None]:
    """The partitions of an asset, sorted; `[None]` for one that is not partitioned."""
    partitions = definitions.resolve_asset_graph().get(dg.AssetKey(asset)).partitions_def
    return sorted(partitions.get_partition_keys(dynamic_partitions_store=instance)) if partitions else [None]


def _reasons(
    resolver: CachingStaleStatusResolver,
    graph: BaseAssetGraph,
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    partition: str | None,
) -> list[str]:
    status = resolver.get_status(key, partition)
    if status == StaleStatus.MISSING:
        problem = lost_outputs.problem_of(instance, Output(key.to_user_string(), partition))
        if problem and problem.startswith(lost_outputs.REMOVED):  # its batch is there, or it had no partition
            problem = "registered again after its removal"
        return [problem or "never materialized"]
    reasons = [_in_words(instance, cause) for cause in resolver.get_stale_causes(key, partition)]
    return reasons + _changed_batches(graph, instance, key)


def _in_words(instance: dg.DagsterInstance, cause: StaleCause) -> str:
    if cause.dependency is None:
        return cause.reason
    if cause.dependency.asset_key == dg.AssetKey("training_settings"):
        return NOT_PRODUCTION
    output = Output(cause.dependency.asset_key.to_user_string(), cause.dependency.partition_key)
    name = f"{output.asset} [{output.partition}]" if output.partition else output.asset
    if cause.category != StaleCauseCategory.DATA:
        return f"{name} {cause.reason}"
    if lost_outputs.problem_of(instance, output):  # materialized again, it may have the same content
        return only_if_changed([name])
    return f"{name} changed"


def only_if_changed(inputs: Sequence[str]) -> str:
    """Return the reason of an asset whose inputs are materialized first."""
    return f"{_ONLY_IF} {', '.join(inputs)} gives other content"


def _changed_batches(graph: BaseAssetGraph, instance: dg.DagsterInstance, key: dg.AssetKey) -> list[str]:
    """What changed in the partitions of the inputs of an unpartitioned asset since it was materialized."""
    if graph.get(key).is_partitioned:
        return []
    parents = sorted(parent for parent in graph.get(key).parent_keys if graph.get(parent).is_partitioned)
    return [words for parent in parents for words in _changes(instance, key, parent.to_user_string())]


def _changes(instance: dg.DagsterInstance, key: dg.AssetKey, parent: str) -> list[str]:
    """What changed in the partitions of the input `parent` since `key` was materialized, in words."""
    event = instance.get_latest_materialization_event(key)
    if event is None or event.asset_materialization is None:
        return []
    recorded = event.asset_materialization.metadata.get(input_versions.metadata_key(parent))
    if recorded is None:
        return []
    before, now = cast("dict[str, str]", recorded.value), input_versions.versions_now(instance, parent)
    changed = [f"{parent} [{name}] changed" for name in now if now[name] != before.get(name)]
    registered = set(instance.get_dynamic_partitions(BATCH))
    gone = [
        f"{parent} [{name}] is missing" if name in registered else f"batch {name} was removed"
        for name in sorted(before.keys() - now.keys())
    ]
    return changed + gone


def plan(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: dg.AssetSelection,
    run_config: Mapping[str, Any] | None = None,
) -> list[tuple[Step, tuple[str, ...]]]:
    """What `update` would materialize now, with the reasons; some depend on content not yet known."""
    settings = load_settings()
    observe(settings, instance)
    lost_outputs.report(settings.paths, instance)
    graph = definitions.resolve_asset_graph()
    planned: list[tuple[Step, tuple[str, ...]]] = []
    planned_assets: set[str] = set()
    for assets in steps_in_order(definitions, selection):
        stale = stale_steps(definitions, instance, assets, run_config)
        planned += stale.items()
        parents = {p.to_user_string() for name in assets for p in graph.get(dg.AssetKey(name)).parent_keys}
        if stale:
            planned_assets.update(assets)
        elif parents & planned_assets and not graph.get(dg.AssetKey(assets[0])).is_partitioned:
            reason = only_if_changed(sorted(parents & planned_assets))
            planned.append((Step(assets), (reason,)))
            planned_assets.update(assets)
    return planned
