"""Backfills: chosen partitions of chosen assets, materialized with or without a daemon.

They are materialized in this process, one after the other; those of batches on the Ray cluster of the
settings, several at once, where its nodes reach the database and the store (profile `shared`).

The steps are written to a file before the first one starts, and each run is tagged with its backfill: so
an interrupted or killed backfill can be resumed, and its failed steps tried again, by any later command.
"""

import json
import secrets
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

import dagster as dg

from captcha_assets.atomic_files import write_json
from captcha_assets.cli.orchestration.execution import Outcome, execute
from captcha_assets.cli.orchestration.ray_execution import RayExecution
from captcha_assets.cli.orchestration.staleness import Step, partitions_of, steps_in_order
from captcha_assets.defs.killed_runs import STEP_TAG
from captcha_assets.defs.partitions import BATCH, TRIAL
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings

#: Name of the partition set of every asset that is partitioned by day.
DAY = "day"

#: Tag of the runs of a backfill: which one.
BACKFILL_TAG = "captcha_assets/backfill"


class BackfillError(ValueError):
    """An asset, partition or backfill that does not exist; the message lists those that do."""


@dataclass(frozen=True)
class Backfill:
    """The steps to materialize, inputs first."""

    name: str
    steps: tuple[Step, ...]


def plan(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    assets: Sequence[str],
    chosen: Mapping[str, Sequence[str] | None],
) -> list[Step]:
    """The steps that materialize `assets` for the chosen partitions, inputs first.

    Args:
        definitions: the assets.
        instance: the instance that holds the partitions.
        assets: names of assets.
        chosen: partition set (`batch`, `trial`, `day`) to the keys that are wanted; all keys of a set
            that is not named, or None. Days may be ranges, `2026-11-01..2026-11-07`, both ends included.

    Raises:
        BackfillError: an asset or a partition is not known.
    """
    graph = definitions.resolve_asset_graph()
    known = {key.to_user_string() for key in graph.materializable_asset_keys}
    if strange := set(assets) - known:
        raise BackfillError(
            f"no such asset: {', '.join(sorted(strange))}; known are {', '.join(sorted(known))}"
        )
    steps: list[Step] = []
    keys: dict[str | None, list[str] | list[None]] = {}
    for assets_of_step in steps_in_order(definitions, dg.AssetSelection.assets(*assets)):
        name = partition_set(graph.get(dg.AssetKey(assets_of_step[0])).partitions_def)
        keys[name] = partitions_of(definitions, instance, assets_of_step[0])
        wanted = chosen.get(name) if name else None
        steps += [
            Step(assets_of_step, key)
            for key in keys[name]
            if key is None or wanted is None or _is_in(key, wanted)
        ]
    for name, asked in chosen.items():
        _check_known(name, asked or (), keys)
    if not steps:
        raise BackfillError(
            "nothing to materialize: these assets have no such partition yet (captcha-assets batch add, "
            "captcha-assets sweep run)"
        )
    return steps


def partition_set(partitions: dg.PartitionsDefinition | None) -> str | None:
    """The partition set of an asset: `batch`, `trial`, `day`; None for one that is not partitioned."""
    if isinstance(partitions, dg.DynamicPartitionsDefinition):
        return partitions.name
    return DAY if isinstance(partitions, dg.TimeWindowPartitionsDefinition) else None


def _is_in(key: str, wanted: Sequence[str]) -> bool:
    for one in wanted:
        first, is_range, last = one.partition("..")
        if key == one or (is_range and first <= key <= last):
            return True
    return False


def _check_known(name: str, asked: Sequence[str], keys: Mapping[str | None, list[str] | list[None]]) -> None:
    where = {BATCH: "batch", TRIAL: "trial", DAY: "day"}[name]
    if name not in keys:
        raise BackfillError(f"none of these assets is partitioned by {where}")
    known = [key for key in keys[name] if key]
    if strange := [one for one in asked if not any(_is_in(key, [one]) for key in known)]:
        listed = ", ".join(known[:20]) + ", ..." * (len(known) > 20)
        raise BackfillError(f"no such {where}: {', '.join(strange)}; known are: {listed or 'none'}")


def _record(paths: Paths, name: str) -> Path:
    return paths.scratch / "backfills" / f"{name}.json"


def begin(paths: Paths, steps: Sequence[Step]) -> Backfill:
    """Record a backfill, so that it can be resumed if it is interrupted."""
    backfill = Backfill(secrets.token_hex(4), tuple(steps))
    write_json(_record(paths, backfill.name), [asdict(step) for step in steps])
    return backfill


def unfinished(paths: Paths) -> list[str]:
    """The names of the backfills that were interrupted or had failures, the latest last."""
    found = sorted(_record(paths, "*").parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
    return [path.stem for path in found]


def find(paths: Paths, name: str | None = None) -> Backfill:
    """The backfill of this name, by default the latest one that was interrupted or had failures.

    Raises:
        BackfillError: there is none.
    """
    names = unfinished(paths)
    if not names or (name and name not in names):
        others = f"; unfinished are: {', '.join(names)}" if names else ""
        raise BackfillError(f"no backfill to resume{others}")
    name = name or names[-1]
    steps = [
        Step(tuple(one["assets"]), one["partition"]) for one in json.loads(_record(paths, name).read_text())
    ]
    return Backfill(name, tuple(steps))


def remaining(instance: dg.DagsterInstance, backfill: Backfill) -> list[Step]:
    """The steps that were not materialized yet, or failed."""
    succeeded = dg.RunsFilter(tags={BACKFILL_TAG: backfill.name}, statuses=[dg.DagsterRunStatus.SUCCESS])
    done = {run.tags[STEP_TAG] for run in instance.get_runs(succeeded)}
    return [step for step in backfill.steps if str(step) not in done]


def delete_record(paths: Paths, backfill: Backfill) -> None:
    """Delete the record of a backfill that is complete."""
    _record(paths, backfill.name).unlink(missing_ok=True)


def run(
    settings: Settings, definitions: dg.Definitions, instance: dg.DagsterInstance, backfill: Backfill
) -> Generator[Step | Outcome]:
    """Materialize the remaining steps of a backfill, and delete its record once all have succeeded.

    Each step is announced before it starts: the iterator yields it and, perhaps after others, its `Outcome`.
    """
    failed = False
    for event in _events(settings, definitions, instance, backfill):
        failed |= isinstance(event, Outcome) and event.error is not None
        yield event
    if not failed:
        delete_record(settings.paths, backfill)


def _events(
    settings: Settings, definitions: dg.Definitions, instance: dg.DagsterInstance, backfill: Backfill
) -> Generator[Step | Outcome]:
    tags, broken = {BACKFILL_TAG: backfill.name}, set[Step]()
    cluster = RayExecution(settings, definitions, instance, tags) if _uses_cluster(settings) else None
    steps = remaining(instance, backfill)
    # The steps of an asset follow each other: the outputs that they need are there before the first starts.
    for suits, group in groupby(steps, lambda step: _suits_a_cluster(definitions, step)):
        if cluster and suits:
            yield from cluster.execute(group, broken)
            continue
        unexplained = ((step, ()) for step in group)
        for event in execute(definitions, instance, unexplained, tags=tags, broken=broken):
            yield event if isinstance(event, Outcome) else event[0]


def _names_ray(settings: Settings) -> bool:
    """Whether the settings name a Ray cluster; the others that they may name only train."""
    return settings.compute.startswith(("http://", "https://"))


def _uses_cluster(settings: Settings) -> bool:
    return _names_ray(settings) and settings.paths.profile == "shared"


def _suits_a_cluster(definitions: dg.Definitions, step: Step) -> bool:
    """Whether a step is of a batch, and reads nothing that only this machine may have.

    An archive is fetched here: its source may be a path of this machine.
    """
    partitions = definitions.resolve_asset_graph().get(dg.AssetKey(step.assets[0])).partitions_def
    return partition_set(partitions) == BATCH and step.assets != ("raw_batch",)


def why_not_on_the_cluster(
    settings: Settings, definitions: dg.Definitions, steps: Sequence[Step]
) -> str | None:
    """Return why steps that suit a Ray cluster are not executed on that of the settings, None if they are."""
    if not _names_ray(settings) or _uses_cluster(settings):
        return None
    if not any(_suits_a_cluster(definitions, step) for step in steps):
        return None
    return (
        f"batches are materialized on this machine, not on {settings.compute}: the nodes of a cluster reach "
        "a home with CAPTCHA_PROFILE=shared only"
    )
