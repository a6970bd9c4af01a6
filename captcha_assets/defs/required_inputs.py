"""What an asset needs before it can be materialized: where that was never made, one line says what to do."""

from captcha_assets.paths import Paths
from captcha_assets.sources.registrations import known_batches
from captcha_assets.storage import AnyPath


class MissingInputError(RuntimeError):
    """An input that was never materialized; the message says what to do."""


def require(paths: Paths, path: AnyPath, name: str) -> None:
    """Stop where an input is not there.

    Args:
        paths: they know the batches.
        path: where the input lies.
        name: the asset that makes it.

    Raises:
        MissingInputError: it is not there.
    """
    if path.exists():
        return
    if not known_batches(paths):
        raise MissingInputError("there is no batch yet: captcha-assets batch add NAME SOURCE")
    raise MissingInputError(f"{name} is not materialized yet: captcha-assets update")
