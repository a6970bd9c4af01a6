"""All batches together: distinct images, and the split of each. The work is in `captcha_assets.images`."""

from collections.abc import Sequence

import dagster as dg
from pydantic import Field

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs import input_versions, lost_split_record
from captcha_assets.defs.names import names_of
from captcha_assets.defs.partitions import BATCH
from captcha_assets.defs.presentation import (
    check_specs,
    column_lineage,
    column_schema,
    counts,
    link,
    published,
)
from captcha_assets.images import index, label_decisions
from captcha_assets.images import split_assignment as split_table
from captcha_assets.images.local_tables import batches_of
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.quality import suites, validation_result
from captcha_assets.settings import Settings
from captcha_assets.stored_outputs import require_materialized

_DECISIONS = dg.AssetCheckSpec(
    "label_decisions",
    asset="image_index",
    description="Every line of `label_decisions.csv` has an effect.",
)


def _decisions_result(idle: Sequence[str]) -> dg.AssetCheckResult:
    """Warn of decisions without effect: their batch may be gone, or come later, so they stop nothing."""
    return dg.AssetCheckResult(
        asset_key="image_index",
        check_name=_DECISIONS.name,
        passed=not idle,
        severity=dg.AssetCheckSeverity.WARN,
        description=label_decisions.describe_idle(idle),
        metadata={"lines": list(idle)},
    )


def _conflicts(settings: Settings, first: str | None) -> dict[str, dg.MetadataValue]:
    """Return metadata of the label conflicts: the first of them with what to do, and the file of all."""
    if first is None:
        return {}
    return {
        "conflicts": dg.MetadataValue.md(first),
        "all conflicts": link(settings, settings.paths.label_conflicts),
    }


def image_index(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset of all distinct images of a data set."""

    @dg.asset(
        deps=["image_table", "batch_catalog", "label_decisions"],
        group_name="dataset",
        kinds={"parquet", "polars", "great_expectations"},
        code_version=f"3.{suites.version('image_index', spec)}.{spec.version}",
        description="One row per distinct image over all batches; duplicates, near-duplicate groups and "
        "label conflicts marked. Conflicts are resolved by `label_decisions.csv`.",
        metadata=column_schema(index.INDEX_SCHEMA, index.COLUMN_DESCRIPTIONS)
        | column_lineage(index.COLUMN_ORIGINS),
        check_specs=[*check_specs("image_index", suites.expectations("image_index", spec)), _DECISIONS],
    )
    def image_index(
        context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
    ) -> dg.MaterializeResult:
        """Index the batches that passed their checks; the metadata names the quarantined ones."""
        from captcha_assets.quality import conflicts, validation

        paths, names = settings.paths, names_of(context)
        versions = input_versions.versions_now(context.instance, "image_table", names)
        batches = context.instance.get_dynamic_partitions(names.name(BATCH))
        if not versions:
            require_materialized(paths, paths.image_index, "image_table")
        folders = {name: paths.validation_results("image_table", name) for name in batches}
        passed = [name for name, folder in folders.items() if validation_result.has_passed(folder)]
        tables = {name: paths.image_table(name) for name in passed}
        summary = index.build_image_index(tables, paths.image_index, spec, paths.label_decisions)
        found = validation.validate_image_index(
            paths.image_index, spec, tables, before=paths.validation_results("image_index")
        )
        results, report = published(settings, found, "image_index")
        return dg.MaterializeResult(
            data_version=dg.DataVersion(summary.version),
            check_results=[*results, _decisions_result(summary.idle_decisions)],
            metadata={
                "dagster/row_count": summary.images,
                "usable": summary.usable,
                "exact duplicates": summary.duplicates,
                "label conflicts": summary.conflicts,
                "near-duplicate groups": summary.groups,
                "images in groups": summary.images_in_groups,
                "images by class": counts(summary.by_class, "class"),
                "decisions without effect": list(summary.idle_decisions),
                "quarantined batches": sorted(set(batches) - set(passed)),
                "path": dg.MetadataValue.path(str(paths.image_index)),
                **column_lineage(index.COLUMN_ORIGINS),
                "quality report": report,
                **_conflicts(settings, conflicts.publish(paths, tables, spec)),
                **input_versions.record(versions, "image_table"),
            },
        )

    return image_index


class SplitsConfig(dg.Config):
    """The run config of `splits`."""

    accept_loss: bool = Field(
        default=False,
        description="Where split assignments are lost: continue with those that data/splits and "
        "artifacts/splits still hold, and assign a new split to every other image.",
    )


def splits(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset of the splits of a data set."""

    @dg.asset(
        deps=["image_index"],
        group_name="dataset",
        kinds={"parquet", "polars", "great_expectations"},
        code_version=f"4.{suites.version('splits', spec)}.{spec.version}",
        description="The split of every image, assigned once and never changed: image id, label, group, "
        "split, "
        "batch. The assignments are recorded in `data/splits`.",
        metadata=column_schema(split_table.SPLITS_SCHEMA, split_table.COLUMN_DESCRIPTIONS)
        | column_lineage(split_table.COLUMN_ORIGINS),
        check_specs=check_specs("splits", suites.expectations("splits", spec)),
    )
    def splits(
        context: dg.AssetExecutionContext, config: SplitsConfig, settings: dg.ResourceParam[Settings]
    ) -> dg.MaterializeResult:
        """Assign a split to every new image; an image that has one keeps it."""
        from captcha_assets.quality import validation

        paths = settings.paths
        require_materialized(paths, paths.image_index, "image_index")
        record = AssignmentRecord.of(paths)
        if not config.accept_loss:
            lost_split_record.require_known(context.instance, paths, record, names_of(context))
        summary = split_table.update_splits(
            paths.image_index,
            paths.splits,
            record,
            spec,
            paths.image_table,
            accept_loss=config.accept_loss,
        )
        tables = {name: paths.image_table(name) for name in batches_of(paths.splits)}
        results_before = paths.validation_results("splits")
        found = validation.validate_splits(
            paths.splits, paths.image_index, record, spec, tables, before=results_before
        )
        results, report = published(settings, found, "splits")
        sizes = {"train": summary.train, "validation": summary.validation, "test": summary.test}
        return dg.MaterializeResult(
            data_version=dg.DataVersion(summary.version),
            check_results=results,
            metadata={
                "dagster/row_count": sum(sizes.values()) + summary.excluded,
                "images by split": counts(sizes, "split"),
                "excluded": summary.excluded,
                "new images": summary.new,
                "removed images": summary.removed,
                "path": dg.MetadataValue.path(str(paths.splits)),
                **column_lineage(split_table.COLUMN_ORIGINS),
                "quality report": report,
                **lost_split_record.named(record),
            },
        )

    return splits
