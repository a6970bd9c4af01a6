"""The asset `data_report`. The work is in `captcha_assets.quality.data_report`."""

import dagster as dg

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs import input_versions
from captcha_assets.defs.names import names_of
from captcha_assets.defs.partitions import BATCH
from captcha_assets.defs.presentation import counts, link
from captcha_assets.settings import Settings
from captcha_assets.stored_outputs import require_materialized

_TABLES = ("image_table", "rejected_images")


def data_report(spec: DatasetSpec) -> dg.AssetsDefinition:
    """Return the asset of the page on all batches of a data set."""

    @dg.asset(
        deps=[*_TABLES, "batch_catalog", "image_index", "splits"],
        group_name="dataset",
        kinds={"polars", "html"},
        code_version=f"3.{spec.shown_version}",
        description="One page on all batches together: the way from files to splits, the classes with "
        "examples, the batches, what was rejected and why, near-duplicates.",
    )
    def data_report(
        context: dg.AssetExecutionContext,
        settings: dg.ResourceParam[Settings],
        dataset: dg.ResourceParam[DatasetSpec],
    ) -> dg.MaterializeResult:
        """Write the page from the tables as they are."""
        from captcha_assets.quality.data_report import write_data_report

        paths, names = settings.paths, names_of(context)
        require_materialized(paths, paths.splits, "splits")
        versions = {name: input_versions.versions_now(context.instance, name, names) for name in _TABLES}
        batches = context.instance.get_dynamic_partitions(names.name(BATCH))
        written = write_data_report(paths, batches, dataset)
        return dg.MaterializeResult(
            data_version=dg.DataVersion(written.version),
            metadata={
                "report": link(settings, written.path),
                "images": written.images,
                "images by class": counts(written.classes, "class"),
                **input_versions.record(versions["image_table"], "image_table"),
                **input_versions.record(versions["rejected_images"], "rejected_images"),
            },
        )

    return data_report
