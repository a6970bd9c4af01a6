"""Materializes steps in this process, without a daemon, as runs that the UI shows."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg

from captcha_assets import interrupts
from captcha_assets.cli.orchestration.command_lock import cancel_own_runs, this_process
from captcha_assets.cli.orchestration.console_logger import ASSET_MESSAGES
from captcha_assets.cli.orchestration.run_findings import findings
from captcha_assets.cli.orchestration.staleness import Step, partitions_of, stale_steps, steps_in_order
from captcha_assets.defs import input_versions, lost_outputs
from captcha_assets.defs.dagster_internals import last_ended
from captcha_assets.defs.failures import reason_of
from captcha_assets.defs.killed_runs import PROCESS_TAG, STEP_TAG
from captcha_assets.defs.observed_sources import observe
from captcha_assets.defs.partitions import BATCH, TRIAL
from captcha_assets.defs.run_alerts import alert_about
from captcha_assets.settings import load_settings


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    Attributes:
        step: which one.
        reasons: why it was to be materialized.
        run_id: the run that materialized it, None where it was not tried.
        error: why it failed or was not tried, None for success.
        findings: checks that failed without blocking, and rejected files, one line each.
    """

    step: Step
    reasons: tuple[str, ...]
    run_id: str | None = None
    error: str | None = None
    findings: tuple[str, ...] = ()


def materialize(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    step: Step,
    run_config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[str, str | None, tuple[str, ...]]:
    """Materialize one step in this process, as a run that the UI shows.

    Nobody is alerted of a run whose batch was removed meanwhile.

    Returns:
        The run's id, why it failed (None for success), and its findings.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    job = definitions.resolve_implicit_global_asset_job_def()
    keys = {dg.AssetKey(name) for name in step.assets}
    subset = job.get_subset(asset_selection=keys)
    ops = {node.name for node in subset.nodes}
    config = dict(run_config or {})
    config["ops"] = {name: value for name, value in config.get("ops", {}).items() if name in ops}
    config.setdefault("loggers", {ASSET_MESSAGES: {}})
    with _ended_when_interrupted(instance):
        result = subset.execute_in_process(
            instance=instance,
            run_config=config,
            partition_key=step.partition,
            asset_selection=sorted(keys),  # the UI shows it as the run's target
            tags={PROCESS_TAG: this_process(instance), STEP_TAG: str(step), **(tags or {})},
            raise_on_error=False,
        )
        if _was_interrupted(result):
            raise KeyboardInterrupt
    if result.success or not is_removed(definitions, instance, step):
        alert_about(instance, result.dagster_run, load_settings())
    found = findings(result.all_events, step.partition, succeeded=result.success)
    return result.run_id, None if result.success else reason_of_run(result.all_events), found


@contextmanager
def _ended_when_interrupted(instance: dg.DagsterInstance) -> Iterator[None]:
    """End the run under way when an interrupt arrives where Dagster does not expect one."""
    try:
        interrupts.check()
        yield
        interrupts.check()  # Dagster drops an interrupt that arrives while no asset's code runs
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        cancel_own_runs(instance)
        raise KeyboardInterrupt from None


def _was_interrupted(result: dg.ExecuteInProcessResult) -> bool:
    """Whether Ctrl-C was pressed, which Dagster records as a failure of the step."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return any(error and error.cls_name == "DagsterExecutionInterruptedError" for error in errors)


def reason_of_run(events: Iterable[dg.DagsterEvent]) -> str:
    """Return why a run failed, from its events."""
    failures = (reason_of(event) for event in events if event.is_step_failure)
    return next(failures, "the run failed before its first step")


def execute(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    steps: Iterable[tuple[Step, tuple[str, ...]]],
    run_config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    broken: set[Step] | None = None,
) -> Iterator[tuple[Step, tuple[str, ...]] | Outcome]:
    """Materialize steps one after the other; a step that depends on a failed one is skipped.

    The failed ones are those of `broken`, to which further ones are added. A step of a batch that another
    command has removed by now is left out. Each step is announced before it starts: the iterator yields
    (step, reasons), then its `Outcome`. The next step is asked for only after that.
    """
    lost_outputs.report(load_settings().paths, instance)
    broken = set() if broken is None else broken
    for step, reasons in steps:
        interrupts.check()
        if is_removed(definitions, instance, step):
            continue
        error = obstacle(definitions, instance, step, broken)
        run_id: str | None = None
        found: tuple[str, ...] = ()
        if not error:
            yield step, reasons
            try:
                run_id, error, found = materialize(definitions, instance, step, run_config, tags)
            except dg.DagsterUnknownPartitionError as gone:
                error = str(gone)
            if error and is_removed(definitions, instance, step):
                continue  # by another command, just now
        yield Outcome(step, reasons, run_id, error, found)
        if error:
            broken.update(Step((asset,), step.partition) for asset in step.assets)


def is_removed(definitions: dg.Definitions, instance: dg.DagsterInstance, step: Step) -> bool:
    """Whether the partition of a step, such as a batch, is not there any more."""
    partitions = definitions.resolve_asset_graph().get(dg.AssetKey(step.assets[0])).partitions_def
    return (
        step.partition is not None
        and isinstance(partitions, dg.DynamicPartitionsDefinition)
        and not instance.has_dynamic_partition(str(partitions.name), step.partition)
    )


def update(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    selection: dg.AssetSelection,
    run_config: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Step, tuple[str, ...]] | Outcome]:
    """Materialize what is missing or stale among `selection`, inputs first, and nothing else.

    Whether a step is stale is computed after its inputs were materialized: one whose inputs came out with
    the same content is not materialized again. A batch that is registered after the first step of batches is
    left to the next update: its inputs are not materialized. Yields what `execute` yields.
    """
    settings, graph = load_settings(), definitions.resolve_asset_graph()

    def stale() -> Iterator[tuple[Step, tuple[str, ...]]]:
        at_first: dict[str, set[str | None]] = {}
        for assets in steps_in_order(definitions, selection):
            observe(settings, instance)  # a batch may have been registered since the last step
            partitions = str(graph.get(dg.AssetKey(assets[0])).partitions_def)
            known = at_first.setdefault(partitions, {*partitions_of(definitions, instance, assets[0])})
            steps = stale_steps(definitions, instance, assets, run_config)
            yield from ((step, reasons) for step, reasons in steps.items() if step.partition in known)

    return execute(definitions, instance, stale(), run_config)


def obstacle(
    definitions: dg.Definitions, instance: dg.DagsterInstance, step: Step, broken: set[Step]
) -> str | None:
    """Return why a step cannot be materialized now, because of its inputs; None where it can."""
    graph = definitions.resolve_asset_graph()
    parents = sorted({parent for name in step.assets for parent in graph.get(dg.AssetKey(name)).parent_keys})
    missing = [
        parent.to_user_string()
        for parent in parents
        if Step((parent.to_user_string(),), step.partition) in broken
        or (
            graph.get(parent).is_materializable
            and graph.get(parent).is_partitioned
            and not _is_materialized(instance, parent, step.partition)
        )
        if not _is_emptied(definitions, instance, step, parent)
    ]
    if step.partition is not None and missing and not _are_any_broken(missing, step.partition, broken):
        return _not_materialized(graph.get(dg.AssetKey(missing[0])).partitions_def, missing, step)
    if step.partition is None:
        names = {parent.to_user_string() for parent in parents}
        lost = [loss.output for loss in lost_outputs.losses(instance) if loss.output.asset in names]
        missing += [str(Step((output.asset,), output.partition)) for output in lost]
    if missing:
        return f"waits for {', '.join(dict.fromkeys(missing))}"
    checks = failed_blocking_checks(definitions, instance, step.assets)
    return f"blocked by the failed check {', '.join(checks)}" if checks else None


def _are_any_broken(assets: Iterable[str], partition: str | None, broken: set[Step]) -> bool:
    return any(Step((asset,), partition) in broken for asset in assets)


def _not_materialized(partitions: dg.PartitionsDefinition | None, missing: Sequence[str], step: Step) -> str:
    """Say that inputs of a step are not there, nor about to be, and the commands that materialize them."""
    name = partitions.name if isinstance(partitions, dg.DynamicPartitionsDefinition) else None
    option = {BATCH: "--batches", TRIAL: "--trials"}.get(str(name), "--days")
    inputs = ", ".join(str(Step((asset,), step.partition)) for asset in missing)
    assets = " ".join([*missing, step.assets[0]])
    return (
        f"{inputs} {'is' if len(missing) == 1 else 'are'} not materialized: captcha-assets backfill {assets} "
        f"{option} {step.partition}, or captcha-assets update"
    )


def failed_blocking_checks(
    definitions: dg.Definitions, instance: dg.DagsterInstance, assets: tuple[str, ...]
) -> list[str]:
    """The blocking checks that failed on the last materialization of the inputs of `assets`.

    The index leaves out a quarantined batch, so the checks of partitioned inputs are not asked.
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


def _is_emptied(
    definitions: dg.Definitions, instance: dg.DagsterInstance, step: Step, parent: dg.AssetKey
) -> bool:
    """Whether every partition of an input was removed since the step was materialized: it then holds none."""
    partitions = definitions.resolve_asset_graph().get(parent).partitions_def
    if step.partition is not None or not isinstance(partitions, dg.DynamicPartitionsDefinition):
        return False
    known = instance.get_latest_materialization_event(dg.AssetKey(step.assets[0]))
    return known is not None and not instance.get_dynamic_partitions(str(partitions.name))


def _is_materialized(instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None) -> bool:
    """Whether this partition is materialized; for None, whether any is."""
    if partition is None:
        return bool(input_versions.versions_now(instance, key.to_user_string()))
    return input_versions.version_of(instance, key.to_user_string(), partition) is not None
