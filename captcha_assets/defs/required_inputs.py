"""What an asset needs before it can be materialized: where that was never made, one line says what to do."""

from captcha_assets.settings import Settings
from captcha_assets.sources.registrations import known_batches
from captcha_assets.storage import AnyPath


class MissingInputError(RuntimeError):
    """An input that was never materialized; the message says what to do."""


def require(settings: Settings, path: AnyPath, name: str) -> None:
    """Stop where an input is not there.

    Args:
        settings: they know the batches.
        path: where the input lies.
        name: the asset that makes it.

    Raises:
        MissingInputError: it is not there.
    """
    if path.exists():
        return
    if not known_batches(settings):
        raise MissingInputError("there is no batch yet: captcha-assets batch add NAME SOURCE")
    raise MissingInputError(f"{name} is not materialized yet: captcha-assets update")
