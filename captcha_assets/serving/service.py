"""A prediction request, whatever its protocol: the queue, the answer, the metrics and the log."""

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray
from prometheus_client.core import Metric

from captcha_assets.serving import metrics
from captcha_assets.serving.batching import Batcher, Computed, DeadlineError, QueueFullError
from captcha_assets.serving.champion_reloader import Alert, ChampionReloader, ServedModel
from captcha_assets.serving.metrics import Metrics
from captcha_assets.serving.prediction_log import INFERENCE_ID, Prediction, PredictionLog
from captcha_assets.serving.problems import ProblemError
from captcha_assets.serving.settings import ServingSettings

Pixels = NDArray[np.uint8]

#: Seconds between two looks at what is wrong with the log.
_LOG_INTERVAL = 0.5


@dataclass(frozen=True)
class Answer:
    """What one model says about the images of one request, in their order."""

    model: ServedModel
    inference_ids: list[str]
    probabilities: NDArray[np.float32]

    @property
    def labels(self) -> list[str]:
        """The predicted classes."""
        return [self.model.classes[best] for best in self.probabilities.argmax(1)]


class Service:
    """What answers: the champion behind a queue, with metrics and a log.

    Args:
        settings: limits and policies.
        champion: keeps the model that serves.
        log: takes every prediction; None where nothing is logged.
        alert: sends an alert about a log that cannot be used.
        corrections_in_batch: so many corrections become batches, as the settings of the home say.
    """

    def __init__(
        self,
        settings: ServingSettings,
        champion: ChampionReloader,
        log: PredictionLog | None,
        alert: Alert,
        corrections_in_batch: int,
    ) -> None:
        self.settings, self.champion, self.log, self._alert = settings, champion, log, alert
        self.corrections_in_batch = corrections_in_batch
        self.metrics = Metrics()
        self.batcher = Batcher(
            settings.batch_size, settings.queue_length, settings.deadline, self._observe_call
        )
        self.metrics.queue_images.set_function(lambda: self.batcher.waiting)
        self.metrics.collect_from(self._state)

    def model(self) -> ServedModel:
        """Return the model that answers now.

        Raises:
            ProblemError: there is none (503).
        """
        if self.champion.current is None:
            raise ProblemError(
                503, self.champion.problem or "no model is loaded", headers={"Retry-After": "5"}
            )
        return self.champion.current

    @property
    def log_problem(self) -> str | None:
        """Why predictions are not logged now, without a path; None where they are, or are not to be."""
        if self.log is None or self.log.error is None:
            return None
        return (
            "the prediction log cannot be used: predictions are answered and wait in the buffer, corrections "
            "are rejected; the log of the service and alerts.jsonl say why"
        )

    async def watch_log(self) -> None:
        """Send one alert each time that the log cannot be used any more, until cancelled."""
        reported = False
        while self.log:
            error = self.log.error
            if error and not reported:
                title = "predictions cannot be logged: they are answered and wait in the buffer"
                await asyncio.to_thread(self._alert, title, [error])
            reported = error is not None
            await asyncio.sleep(_LOG_INTERVAL)

    async def predict(
        self, model: ServedModel, pixels: Pixels, inference_id: str | None, files: Sequence[bytes] = ()
    ) -> Answer:
        """Answer the images of one request.

        Args:
            model: what `model` returned when the request came.
            pixels: uint8 (N, H, W), or (N, H, W, 3) in RGB.
            inference_id: the caller's name of a single image.
            files: the images as they were received, where they were files.

        Raises:
            ProblemError: too many wait (429), the model did not come to it in time (504), or the inference id
                cannot be used (422).
        """
        ids = _inference_ids(inference_id, len(pixels))
        try:
            computed = await self.batcher.predict(model, pixels)
        except QueueFullError as error:
            raise ProblemError(429, str(error), headers={"Retry-After": str(error.retry_after)}) from error
        except DeadlineError as error:
            raise ProblemError(504, str(error)) from error
        answer = Answer(model, ids, computed.probabilities)
        self.metrics.queue_seconds.observe(computed.queue_seconds)
        for label, score in zip(answer.labels, answer.probabilities.max(1), strict=True):
            self.metrics.predictions.labels(label).inc()
            self.metrics.score.observe(score)
        if self.log:
            self._record(self.log, answer, computed, pixels, files)
        return answer

    def _record(
        self, log: PredictionLog, answer: Answer, computed: Computed, pixels: Pixels, files: Sequence[bytes]
    ) -> None:
        """Give predictions to the log, which never waits; pixels that came as such become a PNG file."""
        model, now = answer.model, datetime.now(UTC)
        for position, inference_id in enumerate(answer.inference_ids):
            image = files[position] if files else _png(pixels[position])
            probabilities = answer.probabilities[position].tolist()
            best = probabilities.index(max(probabilities))
            log.record(
                Prediction(
                    inference_id=inference_id,
                    time=now,
                    model_name=model.name,
                    model_version=model.version,
                    model_digest=model.digest,
                    image=image,
                    image_hash=xxhash.xxh3_128_hexdigest(image),
                    label=model.classes[best],
                    score=probabilities[best],
                    classes=model.classes,
                    probabilities=tuple(probabilities),
                    statistics={},
                    status=200,
                    queue_seconds=computed.queue_seconds,
                    compute_seconds=computed.compute_seconds,
                    batch_size=computed.batch_size,
                    pixels=pixels[position],
                )
            )

    def _observe_call(self, images: int, seconds: float) -> None:
        self.metrics.batch_images.observe(images)
        self.metrics.compute_seconds.observe(seconds)

    def _state(self) -> Iterable[Metric]:
        """Yield what is known of the model and the log now."""
        model = self.champion.current
        if model:
            facts = {"name": model.name, "version": model.version, "digest": model.digest}
            facts["precision"] = model.precision
            yield metrics.info("model", "The model that answers.", facts)
        yield metrics.gauge("ready", "Whether a model answers.", float(model is not None))
        problem = float(self.champion.problem is not None)
        yield metrics.gauge("champion_problem", "Whether the champion is not the one that answers.", problem)
        problem = float(self.champion.precision_problem is not None)
        yield metrics.gauge("precision_problem", "Whether fp32 answers although int8 is wanted.", problem)
        if self.log:
            log = self.log
            problem = float(log.error is not None)
            yield metrics.gauge("prediction_log_problem", "Whether the log cannot be used now.", problem)
            yield metrics.count("prediction_log_written", "Rows of the log that are written.", log.written)
            yield metrics.count("prediction_log_dropped", "Rows of the log that are lost.", log.dropped)


def _inference_ids(given: str | None, images: int) -> list[str]:
    if given is None:
        return [uuid.uuid4().hex for _ in range(images)]
    if images != 1:
        raise ProblemError(422, f"an inference id names one image, and {images} were sent: leave it out")
    if not INFERENCE_ID.fullmatch(given):
        raise ProblemError(422, "an inference id has 1 to 200 printable ASCII characters and no space")
    return [given]


def _png(pixels: Pixels) -> bytes:
    image = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", image)[1].tobytes()
