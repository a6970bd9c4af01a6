"""LitServe: one worker of the model, one of the API, images as base64 in JSON, greedy batches."""

import sys
from typing import Any

import litserve
import numpy as np

from benchmarks.serving.model import BATCH_SIZE, Model


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's
        self._model = Model()

    def decode_request(self, request: dict[str, Any]) -> np.ndarray:
        return self._model.pixels_of_base64(request["image"])

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        return inputs

    def predict(self, x: list[np.ndarray]) -> list[dict]:
        return self._model.answers(x)

    def unbatch(self, output: list[dict]) -> list[dict]:
        return output

    def encode_response(self, output: dict) -> dict:
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=BATCH_SIZE, batch_timeout=0.0), accelerator="cpu", workers_per_device=1, timeout=60
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
        access_log=False,
    )
