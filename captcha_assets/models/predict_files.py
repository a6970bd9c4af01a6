"""Reading image files with a model of the registry, or of any folder."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from captcha_assets.atomic_files import AnyPath, fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.decode import decode
from captcha_assets.images.rejection import Rejection
from captcha_assets.models import registry
from captcha_assets.models.manifest import ModelFolderError, how_to_export_again, read_manifest
from captcha_assets.models.predictor import OnnxPredictor, Predictor, TorchPredictor, spec_of_inputs
from captcha_assets.paths import Paths


class ModelChoiceError(ValueError):
    """A model that is not there; the message says which are."""


class UnreadableFileError(ValueError):
    """A file whose bytes cannot be read; the message says why."""


@dataclass(frozen=True)
class Reading:
    """What a model reads in one file: a label and its probability, or why the file cannot be read."""

    path: Path
    label: str | None = None
    probability: float | None = None
    error: str | None = None


@contextmanager
def opened_predictor(paths: Paths, model: str) -> Iterator[Predictor]:
    """Open a model for reading: the exported one where there is one, which starts without torch.

    Args:
        paths: where things are kept.
        model: "champion", "candidate", a model's id, or a folder.

    Raises:
        ModelChoiceError: there is no such model.
        ModelFolderError: the model is damaged, or its export is of another model.
    """
    given = Path(model) if model and Path(model).is_dir() else None
    with fetched(given or _place(paths, resolve(paths, model))) as folder:
        manifest = read_manifest(folder)
        if given is None and manifest.get("model_id", folder.name) != folder.name:
            of_another = f"{folder} holds the export of {manifest['model_id']}"
            raise ModelFolderError(f"{of_another}: {how_to_export_again(folder)}")
        yield OnnxPredictor(folder) if "model.onnx" in manifest["files"] else TorchPredictor(folder)


def _place(paths: Paths, model_id: str) -> AnyPath:
    exported = paths.onnx_model(model_id)
    return exported if exported.exists() else registry.model_folder(paths.models, model_id)


def resolve(paths: Paths, model: str) -> str:
    """The id that "champion", "candidate" or an id stands for.

    Raises:
        ModelChoiceError: there is no such model.
    """
    pointers = {"champion": registry.champion, "candidate": registry.candidate}
    if model in pointers:
        found = pointers[model](paths.models)
        if found is None:
            raise ModelChoiceError(f"there is no {model} yet; train one with: captcha-assets update")
        return found.model_id
    known = registry.list_models(paths.models)
    if model not in known:
        raise ModelChoiceError(
            f"{model!r} is no folder and no model; known are: {', '.join(known) or 'none'}"
        )
    return model


def read_files(predictor: Predictor, paths: Iterable[Path], spec: DatasetSpec) -> Iterator[Reading]:
    """Classify the image in each file; a file that cannot be used gives its reason.

    Args:
        predictor: the model.
        paths: image files.
        spec: whether images of another size are resized; size and channels are the model's.
    """
    spec = spec_of_inputs(predictor.config, spec)
    for path in paths:
        try:
            image = decode(read_image_file(path), spec).pixels
        except (Rejection, UnreadableFileError) as error:
            yield Reading(path, error=str(error))
            continue
        probabilities = predictor.predict(image[None])[0]
        best = int(probabilities.argmax())
        yield Reading(path, predictor.config.classes[best], round(float(probabilities[best]), 4))


def read_image_file(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        UnreadableFileError: it is no file, or cannot be read.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UnreadableFileError("no file that holds an image")  # a pipe would be waited for
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(_unreadable(path, error)) from error


def _unreadable(path: Path, error: OSError) -> str:
    if path.is_symlink() and not path.exists():
        return f"a broken link to {path.readlink()}"
    return "a folder, not an image" if path.is_dir() else (error.strerror or str(error))
