"""What a run says on the terminal when the command line makes it: its own words, not its events."""

import logging
from contextlib import suppress

import click
import dagster as dg


class _OwnWords(logging.Handler):
    """Prints what assets log, and leaves out Dagster's events, which the UI shows."""

    def emit(self, record: logging.LogRecord) -> None:
        meta = getattr(record, "dagster_meta", {})
        words = meta.get("orig_message") or record.getMessage()
        if meta.get("dagster_event") is None and not words.startswith("[pipes]"):
            # Nobody reads it any more: the command ends with its own next line, and the step is not failed.
            with suppress(BrokenPipeError):
                click.echo(f"  {words}")


@dg.logger(None, description="The words of assets alone.")
def _own_words(_context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.getLogger("captcha-assets.run")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers = [_OwnWords()]
    return logger


def with_quiet_console(definitions: dg.Definitions) -> dg.Definitions:
    """The same definitions, with a console that a person can read."""
    return dg.Definitions.merge(definitions, dg.Definitions(loggers={"console": _own_words}))
