"""mosec: HTTP in Rust, one worker of the model, images as they are, batches after a millisecond at most."""

from typing import Any

from mosec import Server, Worker

from benchmarks.serving.model import BATCH_SIZE, Model, as_json


class Predictor(Worker):
    def __init__(self) -> None:
        super().__init__()
        self._model = Model()

    def deserialize(self, data: bytes) -> Any:
        return self._model.pixels(data)

    def forward(self, data: list[Any]) -> list[dict]:
        return self._model.answers(data)

    def serialize(self, data: dict) -> bytes:
        return as_json(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Predictor, num=1, max_batch_size=BATCH_SIZE, max_wait_time=1, timeout=60)
    server.run()
