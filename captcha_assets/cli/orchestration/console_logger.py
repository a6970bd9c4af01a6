"""The console of a run that a command executes: the messages that assets log, without Dagster's events."""

import logging
from contextlib import suppress

import click
import dagster as dg

#: Name of the logger, in run config as well.
ASSET_MESSAGES = "asset_messages"


class _AssetMessages(logging.Handler):
    """Prints what assets log, and leaves out Dagster's events, which the UI shows."""

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", {})
        words = meta.get("orig_message") or record.getMessage()
        if meta.get("dagster_event") is None and not words.startswith("[pipes]"):
            # The reader has gone: the command ends at its next line, and the step does not fail by it.
            with suppress(BrokenPipeError):
                click.echo(f"  {words}")


@dg.logger(None, description="Only what assets log.")
def _asset_messages(_context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.getLogger("captcha-assets.run")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [_AssetMessages()]
    return logger


def with_quiet_console(definitions: dg.Definitions) -> dg.Definitions:
    """The same definitions, with a console that a person can read."""
    return dg.Definitions.merge(definitions, dg.Definitions(loggers={ASSET_MESSAGES: _asset_messages}))
