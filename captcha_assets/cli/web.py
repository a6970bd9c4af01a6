"""`captcha-assets ui` and `reports`: the web pages of a home."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import click
import psutil

from captcha_assets import interrupts
from captcha_assets.settings import Settings

#: What an error of Dagster looks like on its console; the lines of a traceback are in the log alone.
_ERROR = re.compile(r" - (ERROR|CRITICAL) - |^Error\b")
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
#: Seconds to wait for the last lines of a command that has ended.
_LAST_LINES = 5.0


@click.command()
@click.option(
    "--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of the Dagster UI."
)
@click.pass_obj
def ui(settings: Settings, port: int) -> None:
    """Start the Dagster UI and the report server of this home.

    The UI is that of `dg dev`. Of what Dagster prints, only errors are shown; all is in ui.log of the
    instance's folder. Ctrl-C ends it with exit status 0, SIGTERM with 143; all processes of the UI end
    with it.
    """
    from captcha_assets.cli.orchestration.code_location import folder
    from captcha_assets.cli.orchestration.instance import dagster_home, open_instance
    from captcha_assets.reports import serving

    location = folder()
    _check_free(port)
    with open_instance(settings):
        pass
    if "CAPTCHA_UI_URL" not in os.environ:  # reports and alerts lead to this UI
        settings = settings.model_copy(update={"ui_url": f"http://localhost:{port}"})
    homes = {
        "CAPTCHA_HOME": str(settings.paths.home),
        "CAPTCHA_UI_URL": settings.ui_url,
        "DAGSTER_HOME": str(dagster_home(settings.paths)),
    }
    if sys.prefix != sys.base_prefix:
        homes["VIRTUAL_ENV"] = sys.prefix  # else dg warns that no environment is active
    command = [
        str(Path(sys.executable).with_name("dg")),
        "dev",
        "--port",
        str(port),
        "--log-level",
        "warning",
    ]
    log = dagster_home(settings.paths) / "ui.log"
    ready = f"Dagster UI: {settings.ui_url}   reports: {settings.reports_url}   log: {log}   (Ctrl-C stops)"
    with serving(settings):
        click.echo("the Dagster UI is starting (half a minute, longer on a busy machine)")
        threading.Thread(target=_say_when_it_answers, args=(port, ready), daemon=True).start()
        sys.exit(_attended(command, os.environ | homes, location, log))


def _check_free(port: int) -> None:
    """Reject a port that another program has: Dagster would take another one without a word."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            raise click.ClickException(
                f"port {port} cannot be used: {error.strerror}; give another one by --port"
            ) from error


def _say_when_it_answers(port: int, line: str) -> None:
    while True:
        with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
            break
        time.sleep(0.5)
    click.echo(line)


def _attended(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None = None,
    log: Path | None = None,
) -> int:
    """Run a command until it ends or this process is stopped; none of its processes is left.

    Args:
        command: the command.
        environment: its variables.
        folder: its working directory.
        log: file for what it prints, of which errors alone are shown then.

    Returns:
        The exit status: its own, 128 and the number of the signal that ended it, 0 after Ctrl-C.
    """
    # A session of its own, since `dg dev` starts processes: all of them are stopped, or killed.
    tethered = [sys.executable, "-m", "captcha_assets.cli.parent_death_signal", str(os.getpid()), *command]
    kept = log.open("wb") if log else None
    process = subprocess.Popen(
        tethered,
        env=environment,
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.PIPE if kept else None,
        stderr=subprocess.STDOUT if kept else None,
    )
    stops: list[int] = []
    reader = threading.Thread(target=_write_log, args=(process.stdout, kept, stops), daemon=True)
    if kept:
        reader.start()

    def stop(number: int, _frame: object) -> None:
        stops.append(number)
        _signal(process.pid, signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    status = process.wait()
    _end_all(process.pid)
    interrupts.answered()
    if kept:
        reader.join(_LAST_LINES)
        if status and not stops:
            click.echo(f"Error: the UI has ended by itself: {log} says why", err=True)
    if stops:
        return 0 if stops[0] == signal.SIGINT else 128 + stops[0]
    return status if status >= 0 else 128 - status


def _write_log(output: IO[bytes], log: IO[bytes], stops: Sequence[int]) -> None:
    """Write what is printed to a file, and show errors, until this process is stopped."""
    for coloured in output:
        line = _COLOURS.sub(b"", coloured)
        with suppress(OSError):  # a full disk: what prints must not wait for its reader
            log.write(line)
            log.flush()
        text = line.decode(errors="replace").rstrip()
        if _ERROR.search(text) and not stops:
            click.echo(f"{text} (more in {log.name})", err=True)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(group, number)


def _end_all(session: int) -> None:
    """End what is left of a session: kindly, then by force."""
    for number, seconds in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        left = [process for process in psutil.process_iter() if _is_of(process, session)]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=seconds)


def _is_of(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):  # it has just ended
        return False


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), help="Default that of CAPTCHA_REPORTS_URL, or 3001.")
@click.pass_obj
def reports(settings: Settings, host: str, port: int | None) -> None:
    """Serve the reports that the UI links to, until interrupted. Whoever reaches the address reads them."""
    from captcha_assets.reports import serving

    # Ctrl-C at any moment is how it is ended.
    with suppress(KeyboardInterrupt), serving(settings, host, port) as server:
        address = (
            f"http://{'localhost' if host == '127.0.0.1' else host}:{port}" if port else settings.reports_url
        )
        click.echo(f"reports of {settings.paths.artifact_root} at {address} (Ctrl-C stops)")
        interrupts.check()
        server.join()
    interrupts.answered()
