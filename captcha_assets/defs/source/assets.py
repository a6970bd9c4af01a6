"""Where the data comes from. What each asset does is in `captcha_assets.sources`."""

import warnings

import dagster as dg

from captcha_assets.defs import input_versions, lost_outputs, lost_split_record
from captcha_assets.defs.automation import OWNERS
from captcha_assets.defs.names import names_of
from captcha_assets.defs.partitions import batches
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, dvc_snapshot

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)


@dg.multi_observable_source_asset(
    specs=[
        dg.AssetSpec(
            "kaggle_dataset",
            group_name="source",
            kinds={"kaggle"},
            description="The published version of the Kaggle data set. Observed, never materialized.",
            automation_condition=dg.AutomationCondition.on_cron("0 6 * * *"),
            owners=OWNERS,
        )
    ]
)
def kaggle_dataset(settings: dg.ResourceParam[Settings]) -> dg.ObserveResult:
    """Read the published version from Kaggle; the data version is its number."""
    from captcha_assets.sources import kaggle

    if settings.kaggle_dataset is None:
        return dg.ObserveResult(data_version=dg.DataVersion("none"), metadata={"data set": "none on Kaggle"})
    published = kaggle.published_version(settings.kaggle_dataset)
    return dg.ObserveResult(
        data_version=dg.DataVersion(str(published.version)),
        metadata={"data set": published.dataset, "version": published.version},
    )


@dg.asset(
    partitions_def=batches,
    group_name="source",
    kinds={"zip"},
    code_version="1",
    description="The archive exactly as delivered, immutable: `data/raw/<batch>.zip`.",
)
def raw_batch(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """Fetch the batch from where it was registered; the data version is the archive's SHA-256."""
    raw = batch_registration.fetch(settings, context.partition_key, progress=context.log.info)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(raw.sha256),
        metadata={
            "source": raw.source,
            "path": dg.MetadataValue.path(str(raw.path)),
            "sha256": raw.sha256,
            "md5": raw.md5,
            "dagster/partition_row_count": raw.members,
            "size": dg.MetadataValue.int(raw.bytes),
            "kaggle version": raw.kaggle_version or "not from Kaggle",
            "files that could not be read": dg.MetadataValue.json(
                [f"{file.member}: {file.reason}" for file in raw.unreadable]
            ),
        },
    )


@dg.asset(
    # after the splits: their assignments lie in `data/` too
    deps=[raw_batch, "batch_catalog", "splits"],
    group_name="source",
    kinds={"dvc"},
    code_version="1",
    description="DVC's record of `data/`: md5, size, pushed or not (`data.dvc`).",
)
def data_snapshot(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """Run `dvc add`, and `dvc push` where a remote is configured; the data version is DVC's md5."""
    names = names_of(context)
    versions = input_versions.versions_now(context.instance, "raw_batch", names)
    batch_registration.require_archives(settings.paths, versions)
    record = AssignmentRecord.of(settings.paths)
    # a loss is not recorded
    lost_split_record.require_known(context.instance, settings.paths, record, names)
    record.read()  # nor is damage
    taken = dvc_snapshot.snapshot(settings.paths)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(taken.md5),
        metadata={
            "md5": taken.md5,
            "size": dg.MetadataValue.int(taken.size),
            "files": taken.files,
            lost_outputs.PUSHED_TO: taken.remote or "nowhere: no remote is configured",
            **input_versions.record(versions, "raw_batch"),
        },
    )
