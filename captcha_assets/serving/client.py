"""A client of the service: `PredictionClient`, and `AsyncPredictionClient` with the same methods.

    with PredictionClient("http://localhost:8000") as client:
        answer = client.predict([Path("a.png").read_bytes()])
        answer.predictions[0].label

A request that the service rejects because it is full (429) is sent again, after the time that the service
names or after waits that double.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

#: Longest wait before a request is sent again, in seconds.
LONGEST_WAIT = 30.0

_PNG = b"\x89PNG\r\n\x1a\n"


class PredictionClientError(RuntimeError):
    """The service is not reached, or does not answer a request.

    Attributes:
        status: the HTTP status; None where the service is not reached.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class PredictedImage:
    """What the service says about one image."""

    inference_id: str
    label: str
    score: float
    """Probability of `label`."""
    scores: dict[str, float]
    """Probability of every class."""


@dataclass(frozen=True)
class PredictedImages:
    """What one model says about images, in the order sent."""

    model_name: str
    model_version: str
    predictions: list[PredictedImage]


@dataclass(frozen=True)
class _Call:
    """A request of the service, and how its answer is read."""

    method: str
    path: str
    arguments: dict[str, Any]
    read: Callable[[Any], Any]


def _predict(images: Sequence[bytes], inference_id: str | None) -> _Call:
    if not images:
        raise ValueError("give at least one image")
    headers = {} if inference_id is None else {"X-Inference-Id": inference_id}
    if len(images) == 1:
        headers["Content-Type"] = _type_of(images[0])
        arguments: dict[str, Any] = {"content": images[0], "headers": headers}
    else:
        parts = [("image", (f"{number}", image, _type_of(image))) for number, image in enumerate(images)]
        arguments = {"files": parts, "headers": headers}
    return _Call("POST", "v1/predict", arguments, _read_predictions)


def _type_of(image: bytes) -> str:
    return "image/png" if image.startswith(_PNG) else "image/jpeg"


def _read_predictions(body: Any) -> PredictedImages:
    predictions = [PredictedImage(**one) for one in body["predictions"]]
    return PredictedImages(body["model_name"], body["model_version"], predictions)


def _correct(inference_id: str, label: str, annotator: str | None) -> _Call:
    body = {"inference_id": inference_id, "label": label, "annotator": annotator}
    return _Call("POST", "v1/feedback", {"json": body}, lambda _: None)


def _ready() -> _Call:
    return _Call("GET", "v2/health/ready", {}, lambda body: str(body["model_version"]))


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    """Return the options of httpx' clients.

    Raises:
        PredictionClientError: the address is none of a service.
    """
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise PredictionClientError(f"{url!r} is no address: {error}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise PredictionClientError(f"{url!r} is no address: give http://host[:port]")
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return {"base_url": url.rstrip("/") + "/", "headers": headers, "timeout": timeout}


def _wait_before_retry(response: httpx.Response, tries: int, retries: int) -> float | None:
    """Return the seconds until a request is sent again, None where it is not."""
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS or tries >= retries:
        return None
    named = response.headers.get("retry-after", "")
    seconds = float(named) if named.isascii() and named.isdigit() else 0.0
    # Clients that were rejected at the same time do not return at the same time.
    return min(max(seconds, 2.0**tries) * random.uniform(0.5, 1.0), LONGEST_WAIT)  # noqa: S311


def _result(call: _Call, response: httpx.Response) -> Any:
    """Return what the service answered.

    Raises:
        PredictionClientError: the answer is a problem, or none of this service's.
    """
    status = response.status_code
    try:
        body = response.json()
        if response.is_success:
            return call.read(body)
        detail = str(body["detail"])
    except (ValueError, KeyError, TypeError) as error:
        message = f"{response.url} answers {status}, and not as the prediction service does"
        raise PredictionClientError(message, status) from error
    raise PredictionClientError(f"the service answers {status}: {detail}", status)


def _not_reached(url: object, error: httpx.HTTPError) -> PredictionClientError:
    return PredictionClientError(f"the service at {url} is not reached: {str(error) or type(error).__name__}")


class PredictionClient:
    """A client of the service; it keeps its connections until it is closed.

    Args:
        url: address of the service.
        api_key: key, where the service wants one.
        timeout: seconds until an answer.
        retries: how often a request that was answered 429 is sent again.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 10.0, retries: int = 5
    ) -> None:
        self._client = httpx.Client(**_options(url, api_key, timeout))
        self._retries = retries

    def predict(self, images: Sequence[bytes], *, inference_id: str | None = None) -> PredictedImages:
        """Return what the service says about image files.

        Args:
            images: PNG or JPEG files.
            inference_id: the caller's name of a single image.

        Raises:
            PredictionClientError: there is no answer; the message says why.
        """
        result: PredictedImages = self._result(_predict(images, inference_id))
        return result

    def correct(self, inference_id: str, label: str, annotator: str | None = None) -> None:
        """Send the class that a person gives to a predicted image.

        Raises:
            PredictionClientError: there is no such prediction or class, or the service does not answer.
        """
        self._result(_correct(inference_id, label, annotator))

    def ready(self) -> str:
        """Return the version of the model that answers.

        Raises:
            PredictionClientError: none does.
        """
        return str(self._result(_ready()))

    def _result(self, call: _Call) -> Any:
        tries = 0
        while True:
            try:
                response = self._client.request(call.method, call.path, **call.arguments)
            except httpx.HTTPError as error:
                raise _not_reached(self._client.base_url, error) from error
            seconds = _wait_before_retry(response, tries, self._retries)
            if seconds is None:
                return _result(call, response)
            tries += 1
            time.sleep(seconds)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class AsyncPredictionClient:
    """A client of the service for asyncio; it keeps its connections until it is closed.

    Args:
        url: address of the service.
        api_key: key, where the service wants one.
        timeout: seconds until an answer.
        retries: how often a request that was answered 429 is sent again.
    """

    def __init__(
        self, url: str, *, api_key: str | None = None, timeout: float = 10.0, retries: int = 5
    ) -> None:
        self._client = httpx.AsyncClient(**_options(url, api_key, timeout))
        self._retries = retries

    async def predict(self, images: Sequence[bytes], *, inference_id: str | None = None) -> PredictedImages:
        """Return what the service says about image files.

        Args:
            images: PNG or JPEG files.
            inference_id: the caller's name of a single image.

        Raises:
            PredictionClientError: there is no answer; the message says why.
        """
        result: PredictedImages = await self._result(_predict(images, inference_id))
        return result

    async def correct(self, inference_id: str, label: str, annotator: str | None = None) -> None:
        """Send the class that a person gives to a predicted image.

        Raises:
            PredictionClientError: there is no such prediction or class, or the service does not answer.
        """
        await self._result(_correct(inference_id, label, annotator))

    async def ready(self) -> str:
        """Return the version of the model that answers.

        Raises:
            PredictionClientError: none does.
        """
        return str(await self._result(_ready()))

    async def _result(self, call: _Call) -> Any:
        tries = 0
        while True:
            try:
                response = await self._client.request(call.method, call.path, **call.arguments)
            except httpx.HTTPError as error:
                raise _not_reached(self._client.base_url, error) from error
            seconds = _wait_before_retry(response, tries, self._retries)
            if seconds is None:
                return _result(call, response)
            tries += 1
            await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.close()
