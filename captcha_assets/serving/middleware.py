"""ASGI middleware before the routes: metrics, security headers, allowed hosts, API keys, limits."""

import asyncio
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from captcha_assets.serving.allowed_hosts import AllowedHosts
from captcha_assets.serving.api_keys import ApiKeys
from captcha_assets.serving.metrics import Metrics
from captcha_assets.serving.problems import ProblemError
from captcha_assets.serving.settings import PREFIX, ServingSettings
from captcha_assets.serving.web_page import PAGE_FILES

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: The paths that an orchestrator asks by any host, without an API key.
HEALTH_PATHS = {"/v2/health/live", "/v2/health/ready"}
#: The paths that need no API key: those, and the page, which asks for the key.
OPEN_PATHS = {*HEALTH_PATHS, *PAGE_FILES}
#: After an answer to a request whose body was not read.
_CLOSE = {"Connection": "close"}


class Observed:
    """Counts requests, and gives every answer its security headers.

    Args:
        app: what answers.
        metrics: what counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - started)


class OfAllowedHost:
    """Answers 421 to a request that names another host.

    Args:
        app: what answers.
        hosts: the names of the service.
    """

    def __init__(self, app: ASGIApp, hosts: AllowedHosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["path"] not in HEALTH_PATHS:
            host = Headers(scope=scope).get("host", "")
            if not self._hosts.accept(host):
                detail = f"the service is not reached by the host {host[:100]!r}: {PREFIX}ALLOWED_HOSTS names"
                problem = ProblemError(421, f"{detail} further ones", headers=_CLOSE)
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Authenticated:
    """Answers 401 to a request without a key.

    Args:
        app: what answers.
        keys: who may ask.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app, self._keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            given = Headers(scope=scope).get("authorization", "").encode("latin-1")
            if not self._keys.accept(given):
                detail = "send a key as Authorization: Bearer KEY"
                problem = ProblemError(401, detail, headers={"WWW-Authenticate": "Bearer", **_CLOSE})
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _encoding_problem(headers: Headers) -> ProblemError | None:
    """Return why a compressed body is rejected, None for one that is not compressed."""
    given = headers.get("content-encoding", "identity").strip()
    if given.lower() in {"", "identity"}:
        return None
    detail = "a body with a Content-Encoding is not read: send it uncompressed, without this header"
    return ProblemError(415, detail, headers={"Accept-Encoding": "identity", **_CLOSE})


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
            return ProblemError(429, detail, headers={"Retry-After": "1", **_CLOSE})
        return None

    def _too_large(self) -> ProblemError:
        detail = f"a body has {self._settings.max_body:,} bytes at most"
        return ProblemError(413, detail, headers=_CLOSE)

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
                    408, f"the body did not come within {seconds:g} s", headers=_CLOSE
                ) from error
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._settings.max_body:
                raise self._too_large()
            return message

        return limited
