"""The features of an exported model: what its last layer is given. Computed offline, never by the service."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captcha_assets.models.folder import read_config
from captcha_assets.models.manifest import ModelFolderError, how_to_export_again, verify_files
from captcha_assets.models.predictor import channels_first, checked, open_session

if TYPE_CHECKING:
    import onnx
    from onnxruntime import InferenceSession

#: Operators of a last layer: its first input are the features.
_LAST_LAYER = {"Gemm", "MatMul"}


class FeatureExtractor:
    """An exported model that returns its features beside the probabilities, run by onnxruntime.

    The file stays as it is: the output is added to the graph in memory.

    Args:
        folder: local folder that `onnx_export.export` wrote.
        batch_size: most images at once.
        threads: threads of one call; by default as many as the process may use cores.

    Raises:
        ModelFolderError: the folder is damaged, or the graph does not end with a linear layer.
    """

    def __init__(self, folder: Path, batch_size: int = 256, threads: int | None = None) -> None:
        import onnx  # noqa: PLC0415

        advice = how_to_export_again(folder)
        if "model.onnx" not in verify_files(folder, advice)["files"]:
            raise ModelFolderError(f"{folder} holds no model.onnx: {advice}")
        self.config = read_config(folder)
        self._batch_size = batch_size
        model = onnx.load(folder / "model.onnx")
        name = _input_of_the_last_layer(model.graph, folder)
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        self._session: InferenceSession = open_session(model.SerializeToString(), threads)

    def extract(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return probabilities (N, classes) and features (N, d) of uint8 images (N, H, W) or (N, H, W, 3).

        Raises:
            ImageSizeError: the images are of another size or type than the model's.
        """
        images = checked(images, self.config)
        starts = range(0, max(len(images), 1), self._batch_size)
        parts = [
            self._session.run(None, {"images": channels_first(images[start : start + self._batch_size])})
            for start in starts
        ]
        probabilities, features = zip(*parts, strict=True)
        return np.concatenate(probabilities), np.concatenate(features)


def _input_of_the_last_layer(graph: "onnx.GraphProto", folder: Path) -> str:
    """Return the name of the tensor that the last linear layer is given."""
    for node in reversed(graph.node):
        if node.op_type in _LAST_LAYER:
            return str(node.input[0])
    raise ModelFolderError(f"{folder / 'model.onnx'} has no linear layer: it has no features to compare")
