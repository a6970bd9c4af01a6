"""`captcha-assets serve`: the champion behind HTTP."""

import socket
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import click

from captcha_assets import interrupts
from captcha_assets.dataset import load_dataset
from captcha_assets.settings import Settings


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one.")
@click.pass_obj
def serve(settings: Settings, host: str, port: int) -> None:
    """Serve the champion over HTTP until interrupted.

    A promotion or rollback takes effect without a restart. Settings are in docs/serving.md.
    """
    from captcha_assets import alerts
    from captcha_assets.serving.server import listen
    from captcha_assets.serving.server import serve as serve_champion
    from captcha_assets.serving.settings import load_serving_settings

    def alert(title: str, lines: Sequence[str]) -> None:
        alerts.send(settings, alerts.Alert(title, tuple(lines)))

    serving_settings = load_serving_settings()
    with listen(host, port) as listener, suppress(KeyboardInterrupt):
        serve_champion(
            serving_settings,
            listener,
            load_dataset(settings.dataset),
            paths=settings.paths,
            models=settings.paths.models,
            exports=settings.paths.artifact_root / "onnx_model",
            quantized=settings.paths.artifact_root / "quantized_model",
            corrections_in_batch=settings.corrections_in_batch,
            alert=alert,
            announce=partial(_announce, settings, listener),
            say=_say,
        )
    interrupts.answered()


def _say(line: str) -> None:
    with suppress(OSError):  # the service goes on where its output is closed
        click.echo(line)


def _announce(settings: Settings, listener: socket.socket) -> None:
    """Say where the service is, and that it waits where there is no champion."""
    from captcha_assets.models import registry
    from captcha_assets.models.registry_records import RegistryError

    address, number, *_ = listener.getsockname()
    named = f"[{address}]" if ":" in address else address
    click.echo(f"serving at http://{named}:{number} (requests, and a web page; Ctrl-C stops)")
    with suppress(RegistryError):  # the service reports it itself, and reads again
        if registry.champion(settings.paths.models) is None:
            click.echo(
                "there is no champion yet: answers are 503 until captcha-assets update has promoted one"
            )
    interrupts.check()
