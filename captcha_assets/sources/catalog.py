"""The catalog: which batches there ought to be, each with what identifies its content."""

import hashlib
import json

from captcha_assets.settings import Settings
from captcha_assets.sources.deliveries import LocalSource, Registration, known_batches, registration


def identities(settings: Settings) -> dict[str, str]:
    """Return each batch's name and what identifies its content, in order of the names.

    A fetch never changes it: generated and downloaded images are identified by what was asked for, a zip or
    folder by the SHA-256 of its archive, an archive without a registration by its name alone.

    Raises:
        DeliveryError: a registration cannot be read.
    """
    return {name: _identity(registration(settings, name)) for name in known_batches(settings)}


def version(settings: Settings) -> str:
    """Return the data version of the catalog: a hash of `identities`, 32 hex digits."""
    return hashlib.sha256(json.dumps(identities(settings)).encode()).hexdigest()[:32]


def _identity(entry: Registration | None) -> str:
    if entry is None:
        return "archive"
    if isinstance(entry.source, LocalSource):
        return entry.sha256 or str(entry.source)
    return " ".join(filter(None, (entry.dataset, str(entry.source))))
