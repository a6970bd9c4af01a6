"""The images of a request: one as the body, or several as parts of a form."""

import asyncio
from typing import Any

import numpy as np
from fastapi import Request
from starlette.datastructures import UploadFile

from captcha_assets.images.rejection import Reason, Rejection
from captcha_assets.serving.champion_reloader import ServedModel
from captcha_assets.serving.problems import ProblemError
from captcha_assets.serving.service import Pixels

FORM = "multipart/form-data"
IMAGE_TYPES = ("image/png", "image/jpeg")
#: A file from this size on is decoded in a thread, so that other requests don't wait for it.
LARGE = 1 << 16

_NO_IMAGE = {Reason.NOT_AN_IMAGE, Reason.UNSUPPORTED_FORMAT, Reason.NESTED_ARCHIVE}

#: The body of a request that is one image, for OpenAPI.
IMAGE_BODY: dict[str, Any] = {
    "required": True,
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in IMAGE_TYPES},
}
#: The body of a request that is one image or several, for OpenAPI.
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        **IMAGE_BODY["content"],
        FORM: {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1}
                },
            }
        },
    },
}


async def images_of(request: Request, most: int) -> list[bytes]:
    """Return the image files of a request, in the order sent.

    Args:
        request: the request.
        most: images that it may have.

    Raises:
        ProblemError: another content type (415), or a form that holds too many files (400) or something
            else (422).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in IMAGE_TYPES:
        return [await request.body()]
    if kind != FORM:
        raise ProblemError(415, f"send {', '.join(IMAGE_TYPES)} or {FORM}, and name it as Content-Type")
    images = []
    async with request.form(max_files=most, max_fields=0) as form:
        for name, part in form.multi_items():
            if name != "image" or not isinstance(part, UploadFile):
                raise ProblemError(422, "a form holds nothing but files that are named image")
            images.append(await part.read())
    if not images:
        raise ProblemError(422, "the form holds no file that is named image")
    return images


async def decoded(model: ServedModel, files: list[bytes]) -> Pixels:
    """Return the pixels of image files, stacked.

    Raises:
        ProblemError: a file is no image (415), or an image that cannot be used (422).
    """
    pixels = []
    for position, file in enumerate(files):
        try:
            large = len(file) >= LARGE
            pixels.append(await asyncio.to_thread(model.decode, file) if large else model.decode(file))
        except Rejection as rejection:
            status = 415 if rejection.reason in _NO_IMAGE else 422
            detail = f"the image {rejection.detail}"
            raise ProblemError(status, detail, reason=str(rejection.reason), image=position) from rejection
    return np.stack(pixels)
