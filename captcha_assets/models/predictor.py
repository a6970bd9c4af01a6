"""From images to probabilities, with torch or with onnxruntime, in the same words."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from captcha_assets.dataset import DatasetSpec
from captcha_assets.models import folder as model_folder
from captcha_assets.models.folder import ModelConfig
from captcha_assets.models.manifest import ModelFolderError, how_to_export_again, verify_files

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class ImageSizeError(ValueError):
    """Images that the model does not accept."""


class Predictor(Protocol):
    """What both predictors are."""

    config: ModelConfig

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of uint8 images (N, H, W), or (N, H, W, 3) in RGB."""
        ...


def spec_of_inputs(config: ModelConfig, spec: DatasetSpec) -> DatasetSpec:
    """Return what a model's images look like: size and channels are the model's, both formats are read.

    Args:
        config: the model.
        spec: the data set: how large a file may be, and whether images of another size are resized.
    """
    height, width = config.input_size
    return replace(spec, height=height, width=width, channels=config.input_channels, formats=("png", "jpeg"))


def checked(images: NDArray[np.uint8], config: ModelConfig) -> NDArray[np.uint8]:
    """Return images in contiguous memory.

    Raises:
        ImageSizeError: the images are of another size or type than the model's.
    """
    if images.dtype != np.uint8 or images.shape[1:] != config.image_shape:
        taken = ", ".join(map(str, config.image_shape))
        raise ImageSizeError(f"images are {images.dtype} {images.shape}: the model takes uint8 (N, {taken})")
    return np.ascontiguousarray(images)


def channels_first(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images (N, H, W) or (N, H, W, 3) as networks take them: (N, channels, H, W)."""
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


class TorchPredictor:
    """A model folder, run by torch.

    Args:
        folder: local model folder.
        batch_size: most images at once.
        device: where to run.

    Raises:
        ModelFolderError: the folder is damaged.
    """

    def __init__(self, folder: Path, batch_size: int = 256, device: str = "cpu") -> None:
        from captcha_assets.models.network import Served  # noqa: PLC0415

        loaded = model_folder.load(folder)
        self.config = loaded.config
        self._batch_size, self._device = batch_size, device
        served = Served(loaded.model, self.config.mean, self.config.std, self.config.temperature)
        self._served = served.eval().to(device)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of uint8 images (N, H, W), or (N, H, W, 3) in RGB.

        Raises:
            ImageSizeError: the images are of another size or type than the model's.
        """
        import torch  # noqa: PLC0415

        images = checked(images, self.config)
        answers = [np.zeros((0, len(self.config.classes)), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images), self._batch_size):
                batch = torch.from_numpy(channels_first(images[start : start + self._batch_size]).copy())
                answers.append(self._served(batch.to(self._device)).cpu().numpy())
        return np.concatenate(answers)


def open_session(model: Path | bytes, threads: int | None = None) -> "InferenceSession":
    """Open an exported model.

    Args:
        model: path of `model.onnx`, or its content.
        threads: threads of one call; by default as many as the process may use cores.
    """
    import onnxruntime  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    # Threads that wait by spinning take the cores from everyone else on the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_session(
    session: "InferenceSession", images: NDArray[np.uint8], batch_size: int
) -> NDArray[np.float32]:
    """Return the probabilities (N, classes) of uint8 images (N, H, W), so many at once."""
    starts = range(0, max(len(images), 1), batch_size)
    parts = (channels_first(images[start : start + batch_size]) for start in starts)
    return np.concatenate([session.run(None, {"images": part})[0] for part in parts])


class OnnxPredictor:
    """An exported model (`model.onnx` and `config.json`), run by onnxruntime; imports no torch.

    Args:
        folder: local folder that `onnx_export.export` wrote.
        batch_size: most images at once.
        threads: threads of one call; by default as many as the process may use cores.
        advice: what to do where a file is missing or damaged; default: to export the model again.

    Raises:
        ModelFolderError: the folder is damaged.
    """

    def __init__(
        self,
        folder: Path,
        batch_size: int = 256,
        threads: int | None = None,
        *,
        advice: str | None = None,
    ) -> None:
        advice = advice or how_to_export_again(folder)
        if "model.onnx" not in verify_files(folder, advice)["files"]:
            raise ModelFolderError(f"{folder} holds no model.onnx: {advice}")
        self.config = model_folder.read_config(folder)
        self._batch_size = batch_size
        self._session = open_session(folder / "model.onnx", threads)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities (N, classes) of uint8 images (N, H, W), or (N, H, W, 3) in RGB.

        Raises:
            ImageSizeError: the images are of another size or type than the model's.
        """
        return run_session(self._session, checked(images, self.config), self._batch_size)
