"""`/v1`: images in, classes out, and the corrections that people give."""

import asyncio
import json
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from captcha_assets.serving.prediction_log import (
    PredictionLogUnavailableError,
    UnknownClassError,
    UnknownPredictionError,
)
from captcha_assets.serving.problems import ProblemError, described
from captcha_assets.serving.service import Answer, Service
from captcha_assets.serving.uploads import BODY, decoded, images_of

#: Decimals of a probability.
DECIMALS = 6

_INFERENCE_ID = {
    "name": "X-Inference-Id",
    "in": "header",
    "description": "Names a single image.",
    "schema": {"type": "string", "pattern": r"^[!-~]{1,200}$"},
}


class PredictedClass(BaseModel):
    """What the model says about one image."""

    inference_id: str
    label: str
    score: float
    """Probability of `label`."""
    scores: dict[str, float]
    """Probability of every class."""


class PredictAnswer(BaseModel):
    """What one model says about the images of a request, in the order sent."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    predictions: list[PredictedClass]


class Feedback(BaseModel):
    """The class that a person gives to an image."""

    model_config = ConfigDict(extra="forbid")

    inference_id: Annotated[str, Field(min_length=1, max_length=200)]
    label: Annotated[str, Field(min_length=1, max_length=200)]
    annotator: Annotated[str | None, Field(max_length=200)] = None


class StoredFeedback(BaseModel):
    """A correction as it is stored; it supersedes earlier ones of the same prediction."""

    inference_id: str
    label: str
    annotator: str | None
    time: str
    """UTC, ISO 8601."""


def _rendered(answer: Answer) -> bytes:
    """Return an answer as JSON; written by hand, since this is the path of every request."""
    rounded = np.round(answer.probabilities.astype(np.float64), DECIMALS).tolist()
    predictions: list[dict[str, Any]] = [
        {
            "inference_id": inference_id,
            "label": label,
            "score": max(probabilities),
            "scores": dict(zip(answer.model.classes, probabilities, strict=True)),
        }
        for inference_id, label, probabilities in zip(
            answer.inference_ids, answer.labels, rounded, strict=True
        )
    ]
    model = {"model_name": answer.model.name, "model_version": answer.model.version}
    return json.dumps(model | {"predictions": predictions}).encode()


def prediction_routes(service: Service) -> APIRouter:
    """Return the routes of `/v1`."""
    router = APIRouter(prefix="/v1", tags=["predictions"])
    problems = described(400, 408, 413, 415, 422, 429, 503, 504)

    @router.post(
        "/predict",
        response_class=Response,
        responses={200: {"model": PredictAnswer}, **problems},
        openapi_extra={"requestBody": BODY, "parameters": [_INFERENCE_ID]},
    )
    async def predict(request: Request) -> Response:
        """Return the class of each image: one as the body, or several as parts of a form named `image`."""
        model = service.model()
        files = await images_of(request, service.settings.max_images)
        pixels = await decoded(model, files)
        named = request.headers.get("x-inference-id")
        answer = await service.predict(model, pixels, named, files)
        return Response(_rendered(answer), media_type="application/json")

    @router.post("/feedback", responses=described(400, 404, 408, 413, 415, 422, 429, 501, 503))
    async def feedback(correction: Feedback) -> StoredFeedback:
        """Store the class that a person gives to a predicted image."""
        if service.log is None:
            raise ProblemError(501, "nothing is logged here, so nothing can be corrected")
        given = correction.inference_id, correction.label, correction.annotator
        try:
            stored = await asyncio.to_thread(service.log.correct, *given)
        except UnknownPredictionError as error:
            raise ProblemError(404, str(error)) from error
        except UnknownClassError as error:
            raise ProblemError(422, str(error), reason="unknown_class") from error
        except ValueError as error:
            raise ProblemError(422, str(error)) from error
        except PredictionLogUnavailableError as error:
            detail = "the correction cannot be stored now: try again later"
            raise ProblemError(503, detail, headers={"Retry-After": "5"}) from error
        return StoredFeedback(
            inference_id=stored.inference_id,
            label=stored.label,
            annotator=stored.annotator,
            time=stored.time.isoformat(),
        )

    return router
