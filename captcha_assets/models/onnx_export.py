"""A model as ONNX: uint8 images in, probabilities out, and how far it agrees with torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captcha_assets.atomic_files import AnyPath, json_text
from captcha_assets.models import folder as model_folder
from captcha_assets.models.manifest import sha256, writing_folder
from captcha_assets.models.predictor import TorchPredictor, open_session, run_session

if TYPE_CHECKING:
    import onnx

OPSET = 18
#: What an export is held to.
LEAST_AGREEMENT, LARGEST_DIFFERENCE = 0.999, 1e-3


class ExportError(RuntimeError):
    """A model that cannot be exported, or real images to compare with that are missing."""


@dataclass(frozen=True)
class Parity:
    """How far an exported model agrees with the model that was exported."""

    max_abs_difference: float
    """Largest difference of any probability."""
    agreement: float
    """Share of images of which both name the same class."""
    images: int
    opset: int
    bytes: int
    """Size of `model.onnx`."""
    version: str
    """Hash of `model.onnx`."""

    @property
    def passed(self) -> bool:
        """Whether the exported model may stand for the original."""
        return self.agreement >= LEAST_AGREEMENT and self.max_abs_difference <= LARGEST_DIFFERENCE


def _exported(folder: Path) -> "onnx.ModelProto":
    """Return the model as ONNX: `images`, uint8 (N, channels, H, W), to `probabilities` (N, classes)."""
    import torch  # noqa: PLC0415

    from captcha_assets.models.network import Served  # noqa: PLC0415

    loaded = model_folder.load(folder)
    config = loaded.config
    network = loaded.model.to(memory_format=torch.contiguous_format)
    served = Served(network, config.mean, config.std, config.temperature).eval()
    program = torch.onnx.export(
        served,
        (torch.zeros(2, config.input_channels, *config.input_size, dtype=torch.uint8),),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ExportError(f"torch could not export {folder}")
    return program.model_proto


def _without_traces(model: "onnx.ModelProto") -> bytes:
    """Return the checked model without the exporter's notes, which name source files of this machine."""
    import onnx  # noqa: PLC0415

    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (model, model.graph, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    for tensor in model.graph.initializer:
        del tensor.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _compare(model: Path, exported: Path, images: NDArray[np.uint8]) -> Parity:
    """Compare the file `exported` with the folder of the model that was exported, on uint8 images."""
    ours = TorchPredictor(model).predict(images)
    theirs = run_session(open_session(exported), images, batch_size=256)
    return Parity(
        max_abs_difference=float(np.abs(ours - theirs).max()),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        images=len(images),
        opset=OPSET,
        bytes=exported.stat().st_size,
        version=sha256(exported)[:32],
    )


def export(model: Path, target: AnyPath, images: NDArray[np.uint8]) -> Parity:
    """Write a model as ONNX and compare it with torch on real images.

    The folder holds `model.onnx` (input `images`, uint8 (N, channels, H, W); output `probabilities`, float32
    (N, classes); normalisation and temperature inside), the model's `config.json`, `parity.json` and
    `manifest.json`. It appears complete or not at all; the same model gives the same `model.onnx`.

    Args:
        model: local model folder.
        target: folder to write.
        images: uint8 (N, H, W), or (N, H, W, 3) in RGB; real ones.

    Raises:
        ExportError: torch cannot export the model, or there are no images.
        ModelFolderError: the model folder is damaged.
    """
    if len(images) == 0:
        raise ExportError("the exported model cannot be compared on no images: give some real ones")
    with writing_folder(target, model_id=model_folder.model_id(model)) as part:
        (part / "model.onnx").write_bytes(_without_traces(_exported(model)))
        (part / "config.json").write_bytes((model / "config.json").read_bytes())
        parity = _compare(model, part / "model.onnx", images)
        (part / "parity.json").write_text(json_text(asdict(parity)))
    return parity
