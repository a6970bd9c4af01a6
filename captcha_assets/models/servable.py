"""Whether a model can serve: its folder and its ONNX export are there, whole and its own."""

from captcha_assets.atomic_files import fetched
from captcha_assets.models import registry
from captcha_assets.models.manifest import ModelFolderError, verify_files
from captcha_assets.models.registry import Champion
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.paths import Paths


def require_whole(paths: Paths, champion: Champion) -> None:
    """Raise an error if the folder or the export of the champion is missing or damaged.

    Raises:
        RegistryError: the message says what to do.
    """
    model_id = champion.model_id
    if not registry.holds(paths.models, model_id):
        folder = paths.models / model_id
        raise RegistryError(
            f"the champion {model_id} cannot be loaded: {folder} is missing or damaged; restore it from a "
            "backup, or let another model serve (captcha-assets model list, captcha-assets model promote)"
        )
    if not paths.onnx_model(model_id).exists():
        raise RegistryError(
            f"the champion {model_id} cannot be loaded: it is not exported; export it with: captcha-assets "
            f"model export {model_id}"
        )
    verify_export(paths, model_id)


def require_export(paths: Paths, model_id: str) -> None:
    """Refuse a model whose export is missing, damaged or of another model.

    Raises:
        RegistryError: it is not exported; the message says what to do.
        ModelFolderError: the export is damaged, or of another model.
    """
    if not paths.onnx_model(model_id).exists():
        raise RegistryError(
            f"{model_id} is not exported; export it with: captcha-assets model export {model_id}"
        )
    verify_export(paths, model_id)


def verify_export(paths: Paths, model_id: str) -> None:
    """Raise an error if an exported model is damaged or of another model; a missing one passes.

    Raises:
        ModelFolderError: the message says what to do.
    """
    export = paths.onnx_model(model_id)
    if not export.exists():
        return
    with fetched(export) as folder:
        manifest = verify_files(folder, _export_again(model_id))
    if "model.onnx" not in manifest["files"] or manifest.get("model_id") != model_id:
        raise ModelFolderError(f"{export} does not hold the export of {model_id}: {_export_again(model_id)}")


def _export_again(model_id: str) -> str:
    return f"restore the folder, or export it again with: captcha-assets model export {model_id}"
