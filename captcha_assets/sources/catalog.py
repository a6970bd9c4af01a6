"""The catalog: which batches there ought to be, each with what identifies its content."""

import hashlib
import json

from captcha_assets.settings import Settings
from captcha_assets.sources.deliveries import known_batches, registration


def identities(settings: Settings) -> dict[str, str]:
    """Return each batch's name and what identifies its content, in order of the names.

    A fetch never changes it: generated and downloaded images are identified by what was asked for, a zip or
    folder by the SHA-256 of its archive, an archive without a registration by its name alone.

    Raises:
        DeliveryError: a registration cannot be read.
    """
    found = {name: registration(settings, name) for name in known_batches(settings)}
    return {name: entry.identity if entry else "archive" for name, entry in found.items()}


def version(settings: Settings) -> str:
    """Return the data version of the catalog: a hash of `identities`, 32 hex digits."""
    return hashlib.sha256(json.dumps(identities(settings)).encode()).hexdigest()[:32]
