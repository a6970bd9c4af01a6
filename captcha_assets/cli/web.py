"""`captcha-assets ui` and `reports`: what is looked at in a browser."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import click

from captcha_assets.settings import REPOSITORY, Settings


@click.command()
@click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI.")
@click.pass_obj
def ui(settings: Settings, port: int) -> None:
    """Start the Dagster UI (`dg dev`) for this home, with the report server beside it."""
    from captcha_assets.defs.instance import dagster_home, open_instance
    from captcha_assets.reports import serving

    with open_instance(settings):
        pass
    homes = {"CAPTCHA_HOME": str(settings.home), "DAGSTER_HOME": str(dagster_home(settings))}
    command = [str(Path(sys.executable).with_name("dg")), "dev", "--port", str(port)]
    with serving(settings):
        process = subprocess.Popen(command, env=os.environ | homes, cwd=REPOSITORY, start_new_session=True)
        for stop in (signal.SIGINT, signal.SIGTERM):
            # The whole group, since `dg dev` starts processes of its own.
            signal.signal(stop, lambda *_: os.killpg(process.pid, signal.SIGINT))
        sys.exit(max(process.wait(), 0))


@click.command()
@click.pass_obj
def reports(settings: Settings) -> None:
    """Serve the reports that the UI links to, until interrupted."""
    from captcha_assets.reports import serving

    with serving(settings) as server:
        click.echo(f"reports of {settings.artifact_root} at {settings.reports_url} (Ctrl-C stops)")
        server.join()
