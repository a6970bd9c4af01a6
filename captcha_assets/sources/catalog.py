"""The catalog: the registered batches, each with the hash or version of its content."""

import hashlib
import json

from captcha_assets.paths import Paths
from captcha_assets.sources.archives import BatchError
from captcha_assets.sources.batch_registration import known_batches, registration


def identities(paths: Paths) -> dict[str, str]:
    """Return each batch's name and what identifies its content, in order of the names.

    A fetch never changes it: generated and downloaded images are identified by what was asked for, a zip or
    folder by the SHA-256 of its archive, an archive without a registration by its name alone.
    """
    return {name: _identity(paths, name) for name in known_batches(paths)}


def _identity(paths: Paths, name: str) -> str:
    try:
        entry = registration(paths, name)
    except BatchError:
        return "damaged"  # the next fetch reports it; the other batches are not affected
    return entry.identity if entry else "archive"


def version(paths: Paths) -> str:
    """Return the data version of the catalog: a hash of `identities`, 32 hex digits."""
    return hashlib.sha256(json.dumps(identities(paths)).encode()).hexdigest()[:32]
