"""`/v1` routes of the web page: logged predictions, and images as the model sees them."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal, TypeVar

import cv2
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from captcha_assets.serving.prediction_api import DECIMALS
from captcha_assets.serving.prediction_log import (
    INFERENCE_ID,
    RECENT,
    LoggedPrediction,
    PredictionLog,
    PredictionLogUnavailableError,
    UnknownPredictionError,
)
from captcha_assets.serving.problems import ProblemError, described
from captcha_assets.serving.service import Service
from captcha_assets.serving.uploads import IMAGE_BODY, decoded

#: Most predictions of one answer; the least certain are looked for among as many.
MOST = RECENT
#: Reads of the log at once; the threads are shared with the rest of the service.
_READS = 2
#: Reads that may wait for them.
_WAITING_READS = 64

Value = TypeVar("Value")


class ModelDescription(BaseModel):
    """The model that answers, and the images that it reads."""

    name: str
    version: str
    precision: str
    classes: list[str]
    width: int
    height: int
    formats: list[str]
    resizes: bool
    """Whether an image of another size is resized; else it is rejected."""


class ImageDescription(BaseModel):
    """The images that the service takes: those of its model, or of the data set while there is none."""

    width: int
    height: int
    formats: list[str]
    resizes: bool


class ServiceStatus(BaseModel):
    """What a person who uses the service should know."""

    model: ModelDescription | None
    images: ImageDescription
    problem: str | None
    """Why no model answers, or why another one than the champion does."""
    log: Literal["on", "off", "unavailable"]
    pending_corrections: int | None
    """Corrected predictions that wait for the next batch; null where there is no log now."""
    corrections_in_batch: int
    """So many corrections become batches."""
    max_body: int
    """Most bytes of an image."""


class CorrectedLabel(BaseModel):
    """The latest correction of a prediction."""

    label: str
    annotator: str | None
    time: datetime


class PredictionEntry(BaseModel):
    """A prediction as it was logged."""

    model_config = ConfigDict(protected_namespaces=())

    inference_id: str
    time: datetime
    model_name: str
    model_version: str
    label: str
    score: float
    scores: dict[str, float]
    correction: CorrectedLabel | None


class PredictionEntries(BaseModel):
    """Some of the latest predictions."""

    predictions: list[PredictionEntry]


class _LogReads:
    """Reads of the log: two at once, some wait, and one beyond is answered 429."""

    def __init__(self, log: PredictionLog | None) -> None:
        self._log = log
        self._in_progress = 0
        self._turn = asyncio.Semaphore(_READS)

    async def read(self, what: Callable[[PredictionLog], Value]) -> Value:
        """Return what a function reads in a thread.

        Raises:
            ProblemError: nothing is logged (501), the prediction is unknown (404), too many read (429), or
                the log cannot be read now (503).
        """
        if self._log is None:
            raise ProblemError(501, "predictions are not logged here")
        if self._in_progress >= _WAITING_READS:
            detail = "too many read the log: try again in 1 s"
            raise ProblemError(429, detail, headers={"Retry-After": "1"})
        self._in_progress += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(what, self._log)
        except UnknownPredictionError as error:
            raise ProblemError(404, str(error)) from error
        except PredictionLogUnavailableError as error:
            detail = "the prediction log cannot be read now: try again later"
            raise ProblemError(503, detail, headers={"Retry-After": "5"}) from error
        finally:
            self._in_progress -= 1


def logged_prediction_routes(service: Service) -> APIRouter:
    """Return the routes that the page uses beside `/v1/predict` and `/v1/feedback`."""
    router = APIRouter(prefix="/v1", tags=["corrections"])
    reads = _LogReads(service.log)

    @router.get("/status", responses=described(429))
    async def status() -> ServiceStatus:
        """Say which model answers, whether predictions are logged, and how many corrections wait."""
        return await _status(service, reads)

    @router.get("/predictions", responses=described(422, 429, 501, 503))
    async def predictions(
        order: Literal["latest", "least-certain"] = "latest",
        limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
    ) -> PredictionEntries:
        """Return the latest predictions, or the least certain of the latest 1,000 without a correction."""
        by: Literal["latest", "least certain"] = "latest" if order == "latest" else "least certain"
        found = await reads.read(lambda log: log.recent(limit, by))
        return PredictionEntries(predictions=[_entry(one) for one in found])

    @router.get(
        "/predictions/{inference_id:path}/image",
        response_class=Response,
        responses={200: _IMAGE_ANSWER, **described(404, 429, 501, 503)},
    )
    async def image(inference_id: str) -> Response:
        """Return the image of a prediction as it was received."""
        if not INFERENCE_ID.fullmatch(inference_id):
            raise ProblemError(404, "no prediction has this inference id")
        found = (await reads.read(lambda log: log.prediction(inference_id))).image
        media_type = "image/jpeg" if found.startswith(b"\xff\xd8") else "image/png"
        return Response(found, media_type=media_type)

    @router.post(
        "/decode",
        response_class=Response,
        responses={200: _IMAGE_ANSWER, **described(408, 413, 415, 422, 429, 503)},
        openapi_extra={"requestBody": IMAGE_BODY},
    )
    async def decode(request: Request) -> Response:
        """Return an image as the model sees it: gray or RGB, and of the size that it reads."""
        (pixels,) = await decoded(service.model(), [await request.body()])
        shown = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
        return Response(cv2.imencode(".png", shown)[1].tobytes(), media_type="image/png")

    return router


_IMAGE_ANSWER = {
    "description": "The image.",
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_BODY["content"]},
}


async def _status(service: Service, reads: _LogReads) -> ServiceStatus:
    log: Literal["on", "off", "unavailable"] = "on" if service.log else "off"
    pending = None
    if service.log:
        try:
            pending = await reads.read(PredictionLog.pending_corrections)
        except ProblemError as problem:
            if problem.status_code != 503:
                raise
            log = "unavailable"
    spec = service.champion.spec
    return ServiceStatus(
        model=_described(service),
        images=ImageDescription(
            width=spec.width,
            height=spec.height,
            formats=list(spec.formats),
            resizes=spec.other_sizes == "resize",
        ),
        problem=service.champion.problem or service.champion.precision_problem,
        log=log,
        pending_corrections=pending,
        corrections_in_batch=service.corrections_in_batch,
        max_body=service.settings.max_body,
    )


def _described(service: Service) -> ModelDescription | None:
    model = service.champion.current
    if model is None:
        return None
    return ModelDescription(
        name=model.name,
        version=model.version,
        precision=model.precision,
        classes=list(model.classes),
        width=model.spec.width,
        height=model.spec.height,
        formats=list(model.spec.formats),
        resizes=model.spec.other_sizes == "resize",
    )


def _entry(found: LoggedPrediction) -> PredictionEntry:
    given = found.correction
    correction = None
    if given:
        correction = CorrectedLabel(label=given.label, annotator=given.annotator, time=given.time)
    scores = [round(probability, DECIMALS) for probability in found.probabilities]
    return PredictionEntry(
        inference_id=found.inference_id,
        time=found.time,
        model_name=found.model_name,
        model_version=found.model_version,
        label=found.label,
        score=round(found.score, DECIMALS),
        scores=dict(zip(found.classes, scores, strict=True)),
        correction=correction,
    )
