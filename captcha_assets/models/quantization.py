"""An exported model as int8: quantized from its fp32 export, measured against it, and refused if it loses.

    model.onnx          the same input and output as the fp32 export; what is computed in between is int8
    config.json         the model's
    quantization.json   `Quantization`: what both exports answer on the test split, and how fast
    manifest.json       the model's id and the SHA-256 of every file; written last

The service reads these folders, so nothing outside `quantize` needs more than the standard library.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from captcha_assets.atomic_files import AnyPath, json_text
from captcha_assets.models.manifest import (
    ModelFolderError,
    how_to_export_again,
    read_json,
    sha256,
    verify_files,
    writing_folder,
)
from captcha_assets.models.predictor import channels_first, open_session, run_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Precision = Literal["fp32", "int8"]
#: How onnxruntime writes a quantized model.
Format = Literal["QDQ", "QOperator"]

#: Most accuracy that an int8 export may lose on the test split, as a share of the images.
LARGEST_LOSS = 0.002
#: The faster one of the two, at the same accuracy: see docs/serving.md.
FORMAT: Format = "QOperator"
#: What is quantized. Normalisation, the last layer and the softmax stay fp32: a probability has more than 256
#: values, and they cost next to nothing.
OPERATORS = ("Conv", "Relu", "Add", "MaxPool")

RECORD = "quantization.json"
#: Images of one call when both exports are timed, and calls.
_BATCH_SIZE, _ROUNDS = 32, 20


class QuantizationError(RuntimeError):
    """A model that cannot be quantized, or images to calibrate or to measure with that are missing."""


class RefusedQuantizationError(RuntimeError):
    """An int8 export that may not answer; the message says why."""


@dataclass(frozen=True)
class Quantization:
    """What the int8 export of a model is worth beside the fp32 export that it was made from."""

    images: int
    """Images of the test split that both were measured on."""
    accuracy_fp32: float
    accuracy_int8: float
    agreement: float
    """Share of images of which both name the same class."""
    images_per_second_fp32: float
    """In mini-batches of 32, on the machine that quantized; moves with its load."""
    images_per_second_int8: float
    calibration_images: int
    bytes_fp32: int
    """Size of `model.onnx`."""
    bytes_int8: int
    made_from: str
    """SHA-256 of the `model.onnx` that was quantized."""
    version: str
    """Hash of the quantized `model.onnx`."""

    @property
    def lost(self) -> int:
        """Images that int8 loses: those that only fp32 reads, less those that only int8 reads."""
        return round((self.accuracy_fp32 - self.accuracy_int8) * self.images)

    @property
    def loss(self) -> float:
        """Accuracy that int8 loses, as a share of the images; below zero where it gains."""
        return self.lost / self.images

    @property
    def passed(self) -> bool:
        """Whether the int8 export may stand for the fp32 export."""
        return self.loss <= LARGEST_LOSS

    @property
    def words(self) -> str:
        """What was measured, and whether the export is refused for it, in one line."""
        state = "" if self.passed else "refused: "
        verb = "gains" if self.lost < 0 else "loses"
        return (
            f"{state}int8 {verb} {abs(self.loss) * 100:.2f} percentage points of accuracy "
            f"({self.accuracy_fp32:.4f} to {self.accuracy_int8:.4f}: {abs(self.lost):,} of {self.images:,} "
            f"test images); {LARGEST_LOSS * 100:g} may be lost"
        )


def quantize(
    export: Path,
    target: AnyPath,
    calibration: NDArray[np.uint8],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> Quantization:
    """Write the int8 export of a model, and measure both exports on the same images.

    An export that loses too much is written too, with what was measured: `require_passed` refuses it.
    The folder appears complete or not at all; the same export and images give the same `model.onnx`.

    Args:
        export: local folder that `onnx_export.export` wrote.
        target: folder to make.
        calibration: uint8 (N, H, W), or (N, H, W, 3) in RGB: what the ranges of int8 are taken from; real
            ones, none of them among `images`.
        images: what both exports are measured on, as `calibration`.
        labels: (N,) the classes of `images`, as positions in the model's classes.

    Raises:
        QuantizationError: there are no images to calibrate or to measure with.
        ModelFolderError: the export is damaged.
    """
    for name, given in (("calibrated", calibration), ("measured", images)):
        if len(given) == 0:
            raise QuantizationError(f"int8 cannot be {name} on no images: add a batch, and update")
    model_id = verify_files(export, how_to_export_again(export)).get("model_id")
    with writing_folder(target, model_id=model_id) as part:
        write_quantized(export / "model.onnx", part / "model.onnx", calibration)
        (part / "config.json").write_bytes((export / "config.json").read_bytes())
        measured = _measured(export / "model.onnx", part / "model.onnx", images, labels, len(calibration))
        (part / RECORD).write_text(json_text(asdict(measured)))
    return measured


def write_quantized(model: Path, target: Path, calibration: NDArray[np.uint8], form: Format = FORMAT) -> None:
    """Write a `model.onnx` as int8: weights per channel, activations by their extremes in calibration.

    Weights take 7 of the 8 bits (`reduce_range`). A processor without VNNI adds pairs of products in 16 bits,
    which 8-bit weights overflow: the same file would answer otherwise there, by 9 images in 100.
    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    import onnx  # noqa: PLC0415
    from onnxruntime import quantization as ort  # noqa: PLC0415
    from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: PLC0415

    class Images(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self._left = _mini_batches(calibration)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._left, None)

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        ort.quantize_static(
            str(prepared),
            str(target),
            Images(),
            quant_format=ort.QuantFormat[form],
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            reduce_range=True,
            activation_type=ort.QuantType.QUInt8,
            weight_type=ort.QuantType.QInt8,
        )
    target.write_bytes(onnx.load(target).SerializeToString(deterministic=True))


def _mini_batches(images: NDArray[np.uint8]) -> Iterator[dict[str, NDArray[np.uint8]]]:
    for start in range(0, len(images), 64):
        yield {"images": channels_first(images[start : start + 64])}


def _measured(
    fp32: Path, int8: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], calibrated: int
) -> Quantization:
    """Run both exports on the same images."""
    sessions = [open_session(fp32), open_session(int8)]
    expected, found = (run_session(one, images, batch_size=256).argmax(1) for one in sessions)
    per_second = [_BATCH_SIZE / seconds for seconds in _median_seconds(sessions, images)]
    return Quantization(
        images=len(images),
        accuracy_fp32=float((expected == labels).mean()),
        accuracy_int8=float((found == labels).mean()),
        agreement=float((expected == found).mean()),
        images_per_second_fp32=round(per_second[0], 1),
        images_per_second_int8=round(per_second[1], 1),
        calibration_images=calibrated,
        bytes_fp32=fp32.stat().st_size,
        bytes_int8=int8.stat().st_size,
        made_from=sha256(fp32),
        version=sha256(int8)[:32],
    )


def _median_seconds(sessions: "Sequence[InferenceSession]", images: NDArray[np.uint8]) -> list[float]:
    """Return the median time of one call of each session, called in turns, so that both see the same load."""
    batch = images[np.arange(_BATCH_SIZE) % len(images)]
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(_ROUNDS):
        for session, measured in zip(sessions, times, strict=True):
            began = time.perf_counter()
            run_session(session, batch, len(batch))
            measured.append(time.perf_counter() - began)
    return [statistics.median(measured) for measured in times]


def read_quantization(folder: Path) -> Quantization:
    """Read what was measured of an int8 export.

    Raises:
        ModelFolderError: the record is missing or damaged.
    """
    found: Any = read_json(folder / RECORD)
    names = {entry.name for entry in fields(Quantization)}
    if not isinstance(found, dict) or set(found) != names or not _counts(found["images"]):
        raise ModelFolderError(f"{folder / RECORD} is damaged: quantize the model again")
    return Quantization(**found)


def _counts(value: Any) -> bool:
    return isinstance(value, int) and value > 0


def require_passed(folder: Path) -> Quantization:
    """Return what was measured of an int8 export that may answer.

    Raises:
        RefusedQuantizationError: it loses too much accuracy.
        ModelFolderError: the record is missing or damaged.
    """
    found = read_quantization(folder)
    if not found.passed:
        raise RefusedQuantizationError(found.words)
    return found
