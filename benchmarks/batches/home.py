"""A home of many small batches, as if each had come through `update`.

Its files are made by the functions that the assets call, but for the validation results: those of one batch
are stored for all. The events are those of the first batch, which really ran, with other versions.
"""

import hashlib
import zipfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import cv2
import dagster as dg

from captcha_assets.cli.orchestration import execution, staleness
from captcha_assets.cli.orchestration.console_logger import with_quiet_console
from captcha_assets.cli.orchestration.instance import open_instance
from captcha_assets.dataset import CAPTCHA
from captcha_assets.definitions import defs
from captcha_assets.images.table import IngestSummary, build_image_table
from captcha_assets.paths import Paths
from captcha_assets.quality import report, validation_result
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration
from captcha_assets.sources.synthetic_batches import generate

#: Images of a batch.
SIZE = 8
#: What a batch is taken through, models aside.
SELECTION = '+key:"splits"'

_BY_BATCH = ("raw_batch", "image_table", "rejected_images")


def name_of(number: int) -> str:
    return f"batch-{number:05}"


def archives(folder: Path, count: int) -> list[Path]:
    """Zips of generated images, no two alike."""
    folder.mkdir(parents=True, exist_ok=True)
    images, paths = generate(count * SIZE, seed=7), []
    for number in range(count):
        paths.append(folder / f"{name_of(number)}.zip")
        with zipfile.ZipFile(paths[-1], "w") as archive:
            for position, (label, pixels) in enumerate(islice(images, SIZE)):
                archive.writestr(f"{label}_{position}.png", cv2.imencode(".png", pixels)[1].tobytes())
    return paths


class Home:
    """A home to which batches are added by the hundred."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(paths=Paths(home=folder))
        self.paths = self.settings.paths
        self.definitions = with_quiet_console(defs())
        self.instance = open_instance(self.settings)
        self._examples: dict[str, dg.AssetMaterialization] = {}

    def update(self) -> int:
        """Materialize what is stale up to the splits, as `update` does; return the number of steps."""
        events = execution.update(self.definitions, self.instance, staleness.selected(SELECTION), {})
        outcomes = [event for event in events if isinstance(event, execution.Outcome)]
        if failed := [one for one in outcomes if one.error]:
            raise SystemExit(f"{failed[0].step} failed: {failed[0].error}")
        return len(outcomes)

    def register(self, archive: Path) -> str:
        """Register a batch and make it known to Dagster."""
        batch = archive.stem
        batch_registration.register(self.settings, batch, batch_registration.parse_source(str(archive)))
        self.instance.add_dynamic_partitions("batch", [batch])
        return batch

    def add_really(self, archive: Path) -> None:
        """Add a batch by runs."""
        batch = self.register(archive)
        self.update()
        for asset in _BY_BATCH:
            key = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[batch])
            (record,) = self.instance.fetch_materializations(key, limit=1).records
            assert record.asset_materialization
            self._examples[asset] = record.asset_materialization
        self._results = validation_result.load(self.paths.validation_results("image_table", batch))

    def add_as_if(self, batches: Sequence[Path]) -> None:
        """Add batches without runs: their files, and an event for each of their assets."""
        page = report.page(self._results)
        for archive in batches:
            batch = self.register(archive)
            sha256 = batch_registration.fetch(self.settings, batch).sha256
            table, rejected = self.paths.image_table(batch), self.paths.rejected_images(batch)
            built = build_image_table(self.paths.raw / f"{batch}.zip", batch, table, rejected, CAPTCHA)
            validation_result.save(self._results, page, self.paths.validation_results("image_table", batch))
            self._report(batch, sha256, built)

    def _report(self, batch: str, sha256: str, built: IngestSummary) -> None:
        versions = dict(zip(_BY_BATCH, (sha256, built.table_version, built.rejected_version), strict=True))
        read: dict[str, str] = {}
        for asset, example in self._examples.items():
            known = example.tags or {}
            tags = {**known, "dagster/data_version": versions[asset]} | {
                tag: value for tag, value in read.items() if tag in known
            }
            event = dg.AssetMaterialization(asset, partition=batch, tags=tags, metadata=example.metadata)
            self.instance.report_runless_asset_event(event)
            if asset == "raw_batch":
                read = self._as_read(batch, sha256)

    def _as_read(self, batch: str, sha256: str) -> dict[str, str]:
        """Tags of what was materialized from an archive: Dagster hashes the versions that were read."""
        key = dg.AssetRecordsFilter(dg.AssetKey("raw_batch"), asset_partitions=[batch])
        (record,) = self.instance.fetch_materializations(key, limit=1).records
        return {
            "dagster/input_data_version/raw_batch": hashlib.sha256(sha256.encode()).hexdigest(),
            "dagster/input_event_pointer/raw_batch": str(record.storage_id),
        }
