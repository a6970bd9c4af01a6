"""A home made with the library alone: two deliveries, their tables and splits, a model."""

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.assignments import AssignmentRecord
from captcha_assets.images.content import content_hash
from captcha_assets.images.index import build_image_index
from captcha_assets.images.splits import update_splits
from captcha_assets.images.table import build_image_table
from captcha_assets.models import provenance, registry
from captcha_assets.settings import Settings
from captcha_assets.sources import deliveries
from captcha_assets_tests.models.conftest import make_model


def deliver(settings: Settings, batch: str, source: str) -> None:
    """Take a batch through to the splits; it is registered, unless that was done before."""
    if deliveries.registration(settings, batch) is None:
        deliveries.register(settings, batch, deliveries.parse_source(source))
    archive = deliveries.fetch(settings, batch).path
    build_image_table(
        archive, batch, settings.image_table(batch), settings.rejected_images(batch), CAPTCHA, processes=0
    )
    tables = {name: settings.image_table(name) for name in deliveries.known_batches(settings)}
    build_image_index(tables, settings.image_index, CAPTCHA, settings.label_decisions)
    record = AssignmentRecord(settings.split_assignments, settings.scratch)
    update_splits(settings.image_index, settings.splits, record, CAPTCHA)


def train(settings: Settings, batches: list[str], seed: int = 0, sample_size: int | None = None) -> str:
    """Put a model into the registry that says it was trained on today's splits."""
    model_id = make_model(
        settings.scratch / "model",
        seed,
        splits_version=content_hash(settings.splits),
        settings={"epochs": 1, "sample_size": sample_size},
        provenance={"run_id": f"run-{seed}", "deliveries": batches, **provenance.recorded(settings, batches)},
    )
    settings.training_splits(model_id).parent.mkdir(parents=True, exist_ok=True)
    settings.training_splits(model_id).write_bytes(settings.splits.read_bytes())
    return registry.add_candidate(settings.models, settings.scratch / "model")
