"""API keys: which clients the service answers, where a file of keys is set."""

import hashlib
import hmac
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from captcha_assets.serving.health import HEALTH_PATHS
from captcha_assets.serving.problems import CLOSE, ProblemError
from captcha_assets.serving.settings import PREFIX
from captcha_assets.serving.web_page import PAGE_FILES
from captcha_assets.settings_validation import SettingsError

SHORTEST = 16
#: The paths that need no API key: those of an orchestrator, and the page, which asks for the key.
OPEN_PATHS = {*HEALTH_PATHS, *PAGE_FILES}


class ApiKeys:
    """Keys that are known by their hashes, and compared in constant time.

    Args:
        keys: at least one.
    """

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def accept(self, authorization: bytes) -> bool:
        """Say whether the header `Authorization: Bearer KEY` names a key."""
        scheme, _, key = authorization.partition(b" ")
        digest = _digest(key.strip())
        # No comparison is left out, so that the time says nothing about a key.
        known = [hmac.compare_digest(digest, one) for one in self._digests]
        return scheme.lower() == b"bearer" and any(known)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def read_api_keys(path: Path) -> ApiKeys:
    """Read keys from a file, one a line; empty lines, and lines that begin with #, are left out.

    Raises:
        SettingsError: the file cannot be read, or holds no key or too short a one; no message shows it.
    """
    variable = f"{PREFIX}API_KEYS"
    try:
        lines = [line.strip() for line in path.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: {path} cannot be read: {error}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise SettingsError(f"{variable}: {path} holds no key: write one a line")
    if any(len(key) < SHORTEST or not key.isascii() for key in keys):
        raise SettingsError(f"{variable}: {path} holds a key that is no {SHORTEST} ASCII characters long")
    return ApiKeys(keys)


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
                problem = ProblemError(401, detail, headers={"WWW-Authenticate": "Bearer", **CLOSE})
                await problem.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)
