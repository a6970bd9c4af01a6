"""What must be made, why, and making it: `make` for assets, without a daemon.

Stale means what the Dagster UI calls stale: Dagster's own resolver decides, so that the two cannot
disagree. What it does not see is added: see `made_from`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from captcha_assets import interrupts
from captcha_assets.defs import made_from, truth
from captcha_assets.defs.alerts import tell
from captcha_assets.defs.automation import ONLY_WHEN_ASKED
from captcha_assets.defs.dagster_internals import (
    BaseAssetGraph,
    CachingStaleStatusResolver,
    StaleCause,
    StaleCauseCategory,
    StaleStatus,
    last_ended,
    stale_status_resolver,
)
from captcha_assets.defs.failures import reason_of
from captcha_assets.defs.model.run_config import NOT_PRODUCTION, reasons_given
from captcha_assets.defs.processes import PROCESS_TAG, STEP_TAG, end_own_runs, this_process
from captcha_assets.defs.watched import observe
from captcha_assets.settings import load_settings
from captcha_assets.stored import Output


@dataclass(frozen=True, order=True)
class Step:
    """The smallest thing that can be made: the assets of one function, for one delivery or as a whole."""

    assets: tuple[str, ...]
    partition: str | None = None

    def __str__(self) -> str:
        name = " + ".join(self.assets)
        return f"{name} [{self.partition}]" if self.partition else name


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        step: which one.
        reasons: why it was to be made.
        run_id: the run that made it, None where it was not tried.
        error: why it failed or was not tried, None for success.
    """

    step: Step
    reasons: tuple[str, ...]
    run_id: str | None = None
    error: str | None = None


class SelectionError(ValueError):
    """A selection of assets that cannot be used; the message says what can."""


def selected(text: str) -> dg.AssetSelection:
    """The assets that `text` names, in Dagster's syntax; `*` is all but those made only when asked for."""
    everything = dg.AssetSelection.all() - dg.AssetSelection.assets(*ONLY_WHEN_ASKED)
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
        raise SelectionError(f"{_first_line(error)}; names are selected by key:NAME or NAME") from None
    if not found:
        raise SelectionError(f"{text} selects nothing that can be materialized; known are {known}")
    return selection


def includes(definitions: dg.Definitions, selection: dg.AssetSelection, asset: str) -> bool:
    """Whether an asset is among those selected."""
    return dg.AssetKey(asset) in selection.resolve(definitions.resolve_asset_graph())


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def steps_in_order(definitions: dg.Definitions, selection: dg.AssetSelection) -> list[tuple[str, ...]]:
    """The selected assets, grouped by the function that makes them, inputs first."""
    graph = definitions.resolve_asset_graph()
    selected = selection.materializable().resolve(graph)
    groups: dict[tuple[str, ...], None] = {}
    for key in graph.toposorted_asset_keys:
        if key in selected:
            together = graph.get(key).execution_set_asset_keys
            groups[tuple(sorted(other.to_user_string() for other in together))] = None
    return list(groups)


def needed(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    assets: tuple[str, ...],
    run_config: Mapping[str, Any] | None = None,
) -> dict[Step, tuple[str, ...]]:
    """The steps among `assets` that are missing or out of date, with the reasons.

    Args:
        definitions: the code location.
        instance: what Dagster knows.
        assets: the assets of one function.
        run_config: what they would be given; a training that it would change is a reason.
    """
    graph = definitions.resolve_asset_graph()
    resolver = stale_status_resolver(instance, graph)
    found = {}
    for partition in partitions_of(definitions, instance, assets[0]):
        reasons = [
            r for name in assets for r in _reasons(resolver, graph, instance, dg.AssetKey(name), partition)
        ]
        reasons = reasons_given(load_settings(), assets, reasons, run_config)
        if reasons:
            found[Step(assets, partition)] = tuple(dict.fromkeys(reasons))
    return found


def partitions_of(
    definitions: dg.Definitions, instance: dg.DagsterInstance, asset: str
) -> list[str] | list[None]:
    """The partitions of an asset, sorted; `[None]` for one that is not cut."""
    cut = definitions.resolve_asset_graph().get(dg.AssetKey(asset)).partitions_def
    return sorted(cut.get_partition_keys(dynamic_partitions_store=instance)) if cut else [None]


def _reasons(
    resolver: CachingStaleStatusResolver,
    graph: BaseAssetGraph,
    instance: dg.DagsterInstance,
    key: dg.AssetKey,
    partition: str | None,
) -> list[str]:
    status = resolver.get_status(key, partition)
    if status == StaleStatus.MISSING:
        problem = truth.problem_of(instance, Output(key.to_user_string(), partition))
        if problem and problem.startswith(truth.REMOVED):  # its batch is there, or it had no partition
            problem = "registered again after its removal"
        return [problem or "never made"]
    reasons = [_in_words(instance, cause) for cause in resolver.get_stale_causes(key, partition)]
    return reasons + _changed_deliveries(graph, instance, key)


def _in_words(instance: dg.DagsterInstance, cause: StaleCause) -> str:
    if cause.dependency is None:
        return cause.reason
    if cause.dependency.asset_key == dg.AssetKey("training_settings"):
        return NOT_PRODUCTION
    output = Output(cause.dependency.asset_key.to_user_string(), cause.dependency.partition_key)
    name = f"{output.asset} [{output.partition}]" if output.partition else output.asset
    if cause.category != StaleCauseCategory.DATA:
        return f"{name} {cause.reason}"
    if truth.problem_of(instance, output):  # made again, it may come out as it was
        return f"if the content of {name} changes"
    return f"{name} changed"


def _changed_deliveries(graph: BaseAssetGraph, instance: dg.DagsterInstance, key: dg.AssetKey) -> list[str]:
    """What became of the deliveries that an asset over all of them was made from."""
    if graph.get(key).is_partitioned:
        return []
    parents = sorted(parent for parent in graph.get(key).parent_keys if graph.get(parent).is_partitioned)
    return [
        words for parent in parents for words in made_from.changes(instance, key, parent.to_user_string())
    ]


def failed_blocking_checks(
    definitions: dg.Definitions, instance: dg.DagsterInstance, assets: tuple[str, ...]
) -> list[str]:
    """The blocking checks that the inputs of `assets` failed when they were made last.

    A delivery that failed its checks is left out by the index and stops nobody, so inputs that are cut
    by delivery are not asked.
    """
    graph = definitions.resolve_asset_graph()
    parents = {parent for name in assets for parent in graph.get(dg.AssetKey(name)).parent_keys}
    checks = [
        check
        for parent in sorted(parents)
        if not graph.get(parent).is_partitioned
        for check in sorted(graph.get(parent).check_keys)
        if graph.get(check).blocking
    ]
    records = {check: last_ended(instance, check) for check in checks}
    return [
        f"{check.asset_key.to_user_string()}:{check.name}"
        for check, record in records.items()
        if record and record.evaluation and not record.evaluation.passed
    ]


def make(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    step: Step,
    run_config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[str, str | None]:
    """Make one step in this process, as a run that the UI shows.

    Returns:
        The run's id, and why it failed (None for success).

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    job = definitions.resolve_implicit_global_asset_job_def()
    keys = {dg.AssetKey(name) for name in step.assets}
    subset = job.get_subset(asset_selection=keys)
    ops = {node.name for node in subset.nodes}
    config = dict(run_config or {})
    config["ops"] = {name: value for name, value in config.get("ops", {}).items() if name in ops}
    config.setdefault("loggers", {"console": {}})
    with _ended_when_interrupted(instance):
        result = subset.execute_in_process(
            instance=instance,
            run_config=config,
            partition_key=step.partition,
            tags={PROCESS_TAG: this_process(instance), STEP_TAG: str(step), **(tags or {})},
            raise_on_error=False,
        )
        if _was_interrupted(result):
            raise KeyboardInterrupt
    tell(instance, result.dagster_run, load_settings())
    return result.run_id, None if result.success else _why(result)


@contextmanager
def _ended_when_interrupted(instance: dg.DagsterInstance) -> Iterator[None]:
    """End the run under way when an interrupt arrives where Dagster does not expect one."""
    try:
        interrupts.check()
        yield
        interrupts.check()  # Dagster drops an interrupt that arrives while no asset's code runs
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        end_own_runs(instance)
        raise KeyboardInterrupt from None


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether somebody pressed Ctrl-C, which Dagster takes for a failure of the step."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(error and error.cls_name == "DagsterExecutionInterruptedError" for error in errors)


def _why(result: dg.ExecuteInProcessResult) -> str:
    failures = (reason_of(event) for event in result.all_events if event.is_step_failure)
    return next(failures, "the run failed before its first step")


def carry_out(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    steps: Iterable[tuple[Step, tuple[str, ...]]],
    run_config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[tuple[Step, tuple[str, ...]] | Outcome]:
    """Make steps one after the other; what hangs on a failed one is not tried.

    Each step is announced before it is made: the iterator yields (step, reasons), then its `Outcome`. The
    next step is asked for only after that.
    """
    truth.report(load_settings(), instance)
    broken: set[Step] = set()
    for step, reasons in steps:
        interrupts.check()
        error = _obstacle(definitions, instance, step, broken)
        run_id = None
        if not error:
            yield step, reasons
            run_id, error = make(definitions, instance, step, run_config, tags)
        yield Outcome(step, reasons, run_id, error)
        if error:
            broken.update(Step((asset,), step.partition) for asset in step.assets)


def update(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: dg.AssetSelection,
    run_config: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Step, tuple[str, ...]] | Outcome]:
    """Make what is missing or out of date among `selection`, inputs first, and nothing else.

    Whether a step is needed is asked after its inputs were made: one whose inputs came out with the
    same content is not made again. Yields what `carry_out` yields.
    """
    settings = load_settings()

    def stale() -> Iterator[tuple[Step, tuple[str, ...]]]:
        for assets in steps_in_order(definitions, selection):
            observe(settings, instance)  # what was registered meanwhile counts
            yield from needed(definitions, instance, assets, run_config).items()

    return carry_out(definitions, instance, stale(), run_config)


def plan(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: dg.AssetSelection,
    run_config: Mapping[str, Any] | None = None,
) -> list[tuple[Step, tuple[str, ...]]]:
    """What `update` would make now, with the reasons; what hangs on content not yet known says so."""
    settings = load_settings()
    observe(settings, instance)
    truth.report(settings, instance)
    graph = definitions.resolve_asset_graph()
    planned: list[tuple[Step, tuple[str, ...]]] = []
    remade: set[str] = set()
    for assets in steps_in_order(definitions, selection):
        stale = needed(definitions, instance, assets, run_config)
        planned += stale.items()
        parents = {p.to_user_string() for name in assets for p in graph.get(dg.AssetKey(name)).parent_keys}
        if stale:
            remade.update(assets)
        elif parents & remade and not graph.get(dg.AssetKey(assets[0])).is_partitioned:
            reason = f"if the content of {', '.join(sorted(parents & remade))} changes"
            planned.append((Step(assets), (reason,)))
            remade.update(assets)
    return planned


def _obstacle(
    definitions: dg.Definitions, instance: dg.DagsterInstance, step: Step, broken: set[Step]
) -> str | None:
    graph = definitions.resolve_asset_graph()
    parents = sorted({parent for name in step.assets for parent in graph.get(dg.AssetKey(name)).parent_keys})
    missing = [
        parent.to_user_string()
        for parent in parents
        if Step((parent.to_user_string(),), step.partition) in broken
        or (graph.get(parent).is_partitioned and not _is_made(instance, parent, step.partition))
        if not _is_emptied(definitions, instance, step, parent)
    ]
    if step.partition is None:
        names = {parent.to_user_string() for parent in parents}
        lost = [loss.output for loss in truth.losses(instance) if loss.output.asset in names]
        missing += [str(Step((output.asset,), output.partition)) for output in lost]
    if missing:
        return f"waits for {', '.join(dict.fromkeys(missing))}"
    checks = failed_blocking_checks(definitions, instance, step.assets)
    return f"held up by the failed check {', '.join(checks)}" if checks else None


def _is_emptied(
    definitions: dg.Definitions, instance: dg.DagsterInstance, step: Step, parent: dg.AssetKey
) -> bool:
    """Whether every partition of an input was removed since the step was materialized: it then holds none."""
    partitions = definitions.resolve_asset_graph().get(parent).partitions_def
    if step.partition is not None or not isinstance(partitions, dg.DynamicPartitionsDefinition):
        return False
    known = instance.get_latest_materialization_event(dg.AssetKey(step.assets[0]))
    return known is not None and not instance.get_dynamic_partitions(str(partitions.name))


def _is_made(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> bool:
    """Whether this partition is materialized; for None, whether any is."""
    there = made_from.versions_now(instance, key.to_user_string())
    return bool(there) if partition is None else partition in there
