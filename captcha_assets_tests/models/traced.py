"""A home built with the library alone: two batches, their tables and splits, a model."""

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.index import build_image_index
from captcha_assets.images.split_assignment import update_splits
from captcha_assets.images.split_record import AssignmentRecord
from captcha_assets.images.table import build_image_table
from captcha_assets.images.table_parts import version_of, write_one_file
from captcha_assets.models import registry, training_provenance
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration
from captcha_assets_tests.models.conftest import make_model


def deliver(settings: Settings, batch: str, source: str) -> None:
    """Take a batch through to the splits; it is registered, unless that was done before."""
    if batch_registration.registration(settings.paths, batch) is None:
        batch_registration.register(settings, batch, batch_registration.parse_source(source))
    archive = batch_registration.fetch(settings, batch).path
    build_image_table(
        archive,
        batch,
        settings.paths.image_table(batch),
        settings.paths.rejected_images(batch),
        CAPTCHA,
        processes=0,
    )
    tables = {
        name: settings.paths.image_table(name) for name in batch_registration.known_batches(settings.paths)
    }
    build_image_index(tables, settings.paths.image_index, CAPTCHA, settings.paths.label_decisions)
    record = AssignmentRecord(settings.paths.split_assignments, settings.paths.scratch)
    update_splits(settings.paths.image_index, settings.paths.splits, record, CAPTCHA)


def train(settings: Settings, batches: list[str], seed: int = 0, sample_size: int | None = None) -> str:
    """Put a model into the registry that says it was trained on today's splits."""
    model_id = make_model(
        settings.paths.scratch / "model",
        seed,
        splits_version=version_of(settings.paths.splits),
        settings={"epochs": 1, "sample_size": sample_size},
        provenance={
            "run_id": f"run-{seed}",
            "batches": batches,
            **training_provenance.recorded(settings.paths, batches),
        },
    )
    settings.paths.training_splits(model_id).parent.mkdir(parents=True, exist_ok=True)
    write_one_file(settings.paths.splits, settings.paths.training_splits(model_id))
    return registry.add_candidate(settings.paths.models, settings.paths.scratch / "model")
