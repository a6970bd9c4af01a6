"""Exporting a model of the registry as ONNX, compared with the original on the test split."""

from captcha_assets.images.local_tables import local_tables
from captcha_assets.images.reader import read_split
from captcha_assets.models import onnx_export, registry
from captcha_assets.models.folder import read_config
from captcha_assets.models.onnx_export import Parity
from captcha_assets.models.predict_files import resolve
from captcha_assets.paths import Paths


def export_stored(paths: Paths, name: str) -> Parity:
    """Export a model ("champion", "candidate" or an id) to its place, and compare both on real images.

    Raises:
        ModelChoiceError: there is no such model.
        ModelFolderError: it is damaged.
        ExportError: torch cannot export it, or there are no test images.
    """
    model_id = resolve(paths, name)
    with (
        local_tables(paths) as data,
        registry.verified(paths.models, model_id) as model,
    ):
        config = read_config(model)
        images = read_split(
            data.tables, data.splits, "test", classes=config.classes, shape=config.image_shape
        ).pixels
        return onnx_export.export(model, paths.onnx_model(model_id), images)
