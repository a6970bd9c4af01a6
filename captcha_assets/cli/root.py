"""The root of the command: its options, and how errors are said."""

import os
from typing import Any

import click

from captcha_assets.settings import load_settings


class _Group(click.Group):
    """Turns the library's errors into one line and exit status 1; a defect keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, RuntimeError, OSError) as error:
            if os.environ.get("CAPTCHA_DEBUG"):
                raise
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="captcha-assets")
@click.pass_context
def main(ctx: click.Context) -> None:
    """From a delivery of labelled character images to a promoted model.

    Set CAPTCHA_DEBUG=1 for a traceback with every error.
    """
    from captcha_assets.sources import inbox

    ctx.obj = load_settings()
    if problem := inbox.prepare(ctx.obj):
        click.echo(f"warning: {problem}", err=True)
