"""`/v2`: the Open Inference Protocol, with Triton's binary extension, for the clients that people have.

One input, `images`: UINT8 (N, channels, height, width). Three outputs: `probabilities` FP32 (N, classes),
`label` and `inference_id` BYTES (N).
"""

import json
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from captcha_assets.serving.champion_reloader import ServedModel
from captcha_assets.serving.problems import ProblemError, described
from captcha_assets.serving.service import Answer, Pixels, Service
from captcha_assets.validation_errors import reason_of

JSON_LENGTH = "Inference-Header-Content-Length"
INPUT = "images"
OUTPUTS = ("probabilities", "label", "inference_id")


class Tensor(BaseModel):
    """A tensor as metadata describe it."""

    name: str
    datatype: str
    shape: list[int]


class ServerMetadata(BaseModel):
    """What the server is."""

    name: str
    version: str
    extensions: list[str]


class ModelMetadata(BaseModel):
    """What the model takes and gives."""

    name: str
    versions: list[str]
    platform: str
    properties: dict[str, str]
    """`precision`, fp32 or int8, and `digest`, the SHA-256 of the file that answers."""
    inputs: list[Tensor]
    outputs: list[Tensor]


class _Given(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    parameters: dict[str, Any] = {}


class InputTensor(_Given):
    """A tensor of a request: numbers in `data`, or `binary_data_size` bytes after the JSON."""

    name: str
    datatype: Literal["UINT8"]
    shape: list[int] = Field(min_length=4, max_length=4)
    data: list[Any] | None = None


class WantedOutput(_Given):
    """An output that is asked for."""

    name: Literal["probabilities", "label", "inference_id"]


class InferRequest(_Given):
    """A request of the protocol."""

    id: str | None = Field(default=None, pattern=r"^[!-~]{1,200}$")
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedOutput] = []


class OutputTensor(Tensor):
    """A tensor of an answer."""

    data: list[Any]


class InferAnswer(BaseModel):
    """An answer of the protocol."""

    model_config = ConfigDict(protected_namespaces=())

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


@dataclass(frozen=True)
class _Body:
    """The two parts of a body: the request, and the bytes after it."""

    request: InferRequest
    binary: bytes

    @classmethod
    def parsed(cls, body: bytes, json_length: str | None) -> "_Body":
        """Take a body apart.

        Raises:
            ProblemError: it is no such request (400).
        """
        length = len(body)
        if json_length is not None:
            if not (json_length.isascii() and json_length.isdigit() and int(json_length) <= len(body)):
                raise ProblemError(400, f"{JSON_LENGTH} is not a length within the body")
            length = int(json_length)
        try:
            return cls(InferRequest.model_validate_json(body[:length]), body[length:])
        except ValidationError as error:
            location = ".".join(str(part) for part in error.errors()[0]["loc"])
            reason = reason_of(error)
            raise ProblemError(400, f"{location}: {reason}" if location else reason) from error

    def pixels(self, model: ServedModel, most: int) -> Pixels:
        """Return the images, (N, H, W) or (N, H, W, 3).

        Raises:
            ProblemError: they are not what the model takes (400).
        """
        given = self.request.inputs[0]
        wanted = _shape(model)
        if given.name != INPUT or given.shape[1:] != wanted[1:] or not 1 <= given.shape[0] <= most:
            raise ProblemError(400, f"the model takes {INPUT}: UINT8 {wanted}, of 1 to {most} images")
        flat = self._values(given)
        if flat.size != math.prod(given.shape):
            raise ProblemError(400, f"{INPUT} holds {flat.size} values, its shape {math.prod(given.shape)}")
        images = flat.reshape(given.shape)
        return images[:, 0] if images.shape[1] == 1 else np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def _values(self, given: InputTensor) -> Pixels:
        size = given.parameters.get("binary_data_size")
        if (size is None) == (given.data is None):
            raise ProblemError(400, f"{INPUT} needs either data or the parameter binary_data_size")
        if size is not None:
            if size != len(self.binary):
                raise ProblemError(400, f"{len(self.binary)} bytes follow the JSON, not {size}")
            return np.frombuffer(self.binary, np.uint8)
        try:
            return np.frombuffer(bytes(_flat(given.data or [])), np.uint8)
        except (TypeError, ValueError) as error:
            raise ProblemError(400, f"{INPUT} holds whole numbers from 0 to 255") from error


def _flat(values: list[Any]) -> list[Any]:
    """Return nested lists as one, row by row; four levels at most, as the shape has."""
    for _ in range(3):
        if not values or not isinstance(values[0], list):
            break
        values = [value for part in values for value in part]
    return values


def _shape(model: ServedModel) -> list[int]:
    return [-1, model.spec.channels, model.spec.height, model.spec.width]


def _columns(answer: Answer) -> dict[str, tuple[str, list[int], list[Any]]]:
    images = len(answer.inference_ids)
    return {
        "probabilities": ("FP32", list(answer.probabilities.shape), answer.probabilities.ravel().tolist()),
        "label": ("BYTES", [images], answer.labels),
        "inference_id": ("BYTES", [images], answer.inference_ids),
    }


def _packed(datatype: str, values: Sequence[Any]) -> bytes:
    """Return values as the binary extension has them."""
    if datatype == "FP32":
        return np.asarray(values, "<f4").tobytes()
    encoded = [str(value).encode() for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def _rendered(answer: Answer, request: InferRequest) -> Response:
    """Return an answer, each output as JSON or in bytes after it, as was asked for."""
    by_default = request.parameters.get("binary_data_output", False) is True
    wanted: list[tuple[str, bool]] = [
        (one.name, one.parameters.get("binary_data", by_default) is True) for one in request.outputs
    ]
    outputs, binary, columns = [], b"", _columns(answer)
    for name, in_bytes in wanted or [(name, by_default) for name in OUTPUTS]:
        datatype, shape, values = columns[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if in_bytes:
            packed = _packed(datatype, values)
            output["parameters"] = {"binary_data_size": len(packed)}
            binary += packed
        else:
            output["data"] = values
        outputs.append(output)
    described = {"model_name": answer.model.name, "model_version": answer.model.version, "outputs": outputs}
    head = json.dumps(described | ({"id": request.id} if request.id else {})).encode()
    if not binary:
        return Response(head, media_type="application/json")
    headers = {JSON_LENGTH: str(len(head))}
    return Response(head + binary, headers=headers, media_type="application/octet-stream")


def _metadata(model: ServedModel) -> ModelMetadata:
    classes = len(model.classes)
    return ModelMetadata(
        name=model.name,
        versions=[model.version],
        platform="onnxruntime_onnx",
        properties={"precision": model.precision, "digest": model.digest},
        inputs=[Tensor(name=INPUT, datatype="UINT8", shape=_shape(model))],
        outputs=[
            Tensor(name="probabilities", datatype="FP32", shape=[-1, classes]),
            Tensor(name="label", datatype="BYTES", shape=[-1]),
            Tensor(name="inference_id", datatype="BYTES", shape=[-1]),
        ],
    )


def inference_routes(service: Service) -> APIRouter:
    """Return the routes of `/v2` that concern the model."""
    router = APIRouter(prefix="/v2", tags=["open inference protocol"])
    name_of_model = Path(max_length=200, examples=[service.champion.name])

    def named(name: str, version: str | None = None) -> ServedModel:
        model = service.model()
        if name != model.name or version not in (None, model.version):
            raise ProblemError(404, f"the model that answers is {model.name}, version {model.version}")
        return model

    async def metadata(name: str = name_of_model, version: str | None = None) -> ModelMetadata:
        """Return what the model takes and gives."""
        return _metadata(named(name, version))

    async def ready(name: str = name_of_model, version: str | None = None) -> dict[str, bool]:
        """Say that the model answers."""
        named(name, version)
        return {"ready": True}

    async def infer(request: Request, name: str = name_of_model, version: str | None = None) -> Response:
        """Return the probabilities of images that are given as pixels."""
        model = named(name, version)
        body = _Body.parsed(await request.body(), request.headers.get(JSON_LENGTH))
        pixels = body.pixels(model, service.settings.max_images)
        single = body.request.id if len(pixels) == 1 else None
        return _rendered(await service.predict(model, pixels, single), body.request)

    schema = {"$ref": "#/components/schemas/InferRequest"}
    body_of_infer = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    for path in ("/models/{name}", "/models/{name}/versions/{version}"):
        router.get(path, responses=described(404, 422, 503))(metadata)
        router.get(f"{path}/ready", responses=described(404, 422, 503))(ready)
        router.post(
            f"{path}/infer",
            response_class=Response,
            responses={200: {"model": InferAnswer}, **described(400, 404, 408, 413, 415, 422, 429, 503, 504)},
            openapi_extra=body_of_infer,
        )(infer)
    return router
