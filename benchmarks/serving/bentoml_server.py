"""BentoML, tuned: one worker, base64 in JSON, no access log, no metrics, batches as large as ours."""

import bentoml

from benchmarks.serving.model import BATCH_SIZE, Model


@bentoml.service(
    workers=1,
    traffic={"timeout": 60, "max_concurrency": 512},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Service:
    def __init__(self) -> None:
        self._model = Model()

    @bentoml.api(batchable=True, max_batch_size=BATCH_SIZE, max_latency_ms=10_000)
    def predict(self, images: list[str]) -> list[dict]:
        return self._model.answers([self._model.pixels_of_base64(image) for image in images])
