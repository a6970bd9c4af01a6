"""API keys: which clients the service answers, where a file of keys is set."""

import hashlib
import hmac
from pathlib import Path

from captcha_assets.environment import SettingsError
from captcha_assets.serving.settings import PREFIX

SHORTEST = 16


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
