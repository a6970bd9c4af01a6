"""ASGI middleware that limits requests: how many, how large, how slow; none may be compressed."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captcha_assets.serving.problems import CLOSE, ProblemError
from captcha_assets.serving.settings import ServingSettings


def _encoding_problem(headers: Headers) -> ProblemError | None:
    """Return why a compressed body is rejected, None for one that is not compressed."""
    given = headers.get("content-encoding", "identity").strip()
    if given.lower() in {"", "identity"}:
        return None
    detail = "a body with a Content-Encoding is not read: send it uncompressed, without this header"
    return ProblemError(415, detail, headers={"Accept-Encoding": "identity", **CLOSE})


class Limited:
    """Bounds the requests in progress, the size of a body, and the time to send it; none may be compressed.

    Args:
        app: what answers.
        settings: the limits.
    """

    def __init__(self, app: ASGIApp, settings: ServingSettings) -> None:
        self._app, self._settings = app, settings
        self._requests = self._reserved = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD", "OPTIONS"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        # A body that does not say its size may have the largest.
        size = int(length) if length.isascii() and length.isdigit() else self._settings.max_body
        if problem := _encoding_problem(headers) or self._problem(size):
            await problem.response()(scope, receive, send)
            return
        self._requests += 1
        self._reserved += size
        try:
            await self._app(scope, self._limited(receive), send)
        finally:
            self._requests -= 1
            self._reserved -= size

    def _problem(self, size: int) -> ProblemError | None:
        """Return why a request is rejected before its body is read, None where it is not."""
        if size > self._settings.max_body:
            return self._too_large()
        many = self._requests >= self._settings.max_requests
        if many or self._reserved + size > self._settings.max_buffered:
            detail = "too many requests are in progress: try again in 1 s"
            return ProblemError(429, detail, headers={"Retry-After": "1", **CLOSE})
        return None

    def _too_large(self) -> ProblemError:
        detail = f"a body has {self._settings.max_body:,} bytes at most"
        return ProblemError(413, detail, headers=CLOSE)

    def _limited(self, receive: Receive) -> Receive:
        """Return what receives a body, and raises a problem where it is too large or too slow."""
        seconds = self._settings.read_timeout
        ends = asyncio.get_running_loop().time() + seconds
        received, complete = 0, False

        async def limited() -> Message:
            nonlocal received, complete
            if complete:  # what comes now is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout_at(ends):
                    message = await receive()
            except TimeoutError as error:
                raise ProblemError(
                    408, f"the body did not come within {seconds:g} s", headers=CLOSE
                ) from error
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._settings.max_body:
                raise self._too_large()
            return message

        return limited
