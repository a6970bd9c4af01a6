"""A small web server for the reports that the Dagster UI links to: pages, plots and small files."""

import errno
import mimetypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from captcha_assets import start_page
from captcha_assets.atomic_files import regular
from captcha_assets.settings import Settings


class ReportServerError(RuntimeError):
    """The reports cannot be served; the message says what to do."""


_SHOWN = {".html", ".png", ".json", ".csv"}
#: What lies at the top of the artifacts and is a report, or a folder of them.
_REPORTS = {"data_docs", "data_report", "drift_report", "evaluation", "label_conflicts.csv", "quality"}
#: Names of this machine: where nobody else is answered, a page of another host is not either.
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


#: What a browser shows in the tab of every page.
_ICON = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" '
    b'fill="#2a6fb0"/><path d="M8 23v-6M16 23V9M24 23v-9" stroke="#fff" stroke-width="4"/></svg>'
)

_ERROR_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>%(message)s</title>
<body style="font-family: system-ui, sans-serif; margin: 4rem auto; max-width: 40rem">
<h1>%(message)s</h1><p><a href="/">The start page</a> leads to every report.</p></body></html>
"""


def report_at(settings: Settings, address: str) -> tuple[str, bytes] | None:
    """Return the content type and the bytes of what an address names; None where there is no such report.

    Nothing outside of the artifacts is ever read.
    """
    parts = [part for part in unquote(urlsplit(address).path).split("/") if part not in ("", ".")]
    if parts in ([], ["index.html"]):
        return "text/html", start_page.page(settings).encode(errors="backslashreplace")
    return ("image/svg+xml", _ICON) if parts == ["favicon.ico"] else _report(settings, parts)


def _report(settings: Settings, parts: Sequence[str]) -> tuple[str, bytes] | None:
    root = settings.paths.artifact_root
    path = root.joinpath(*parts)
    if parts[0] not in _REPORTS or ".." in parts or path.suffix not in _SHOWN:
        return None
    try:
        if isinstance(path, Path) and not path.resolve().is_relative_to(str(root.resolve())):
            return None  # a link that leads out
        return mimetypes.guess_type(path.name)[0] or "text/plain", regular(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return None  # a ValueError: no file can have such a name, or it is no regular file
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise


def _handler(settings: Settings, *, is_loopback: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        error_message_format = _ERROR_PAGE

        def do_GET(self) -> None:
            found = self._head()
            if found:
                self.wfile.write(found)

        def do_HEAD(self) -> None:
            self._head()

        def _head(self) -> bytes | None:
            """Send the head of the answer, and return its body."""
            if is_loopback and not _names_this_server(self.headers.get("Host", ""), settings):
                self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "No reports of this host")
                return None
            found = report_at(settings, self.path)
            if found is None:
                self.send_error(HTTPStatus.NOT_FOUND, "No such report")
                return None
            kind, body = found
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8" if kind.startswith("text/") else kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return body

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
            """Say nothing: the terminal belongs to the UI."""

    return Handler


def _names_this_server(host: str, settings: Settings) -> bool:
    """Whether a Host header names this server; a page of another host may have its name lead here."""
    try:
        asked = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return asked in {*_LOOPBACK, urlsplit(settings.reports_url).hostname}


@contextmanager
def serving(
    settings: Settings, host: str = "127.0.0.1", port: int | None = None
) -> Iterator[threading.Thread]:
    """Serve the artifacts' reports while the block runs.

    Args:
        settings: of the home.
        host: address to listen on; by default, this machine alone is answered.
        port: to listen on; by default that of `settings.reports_url`.

    Raises:
        ReportServerError: the port is taken; the message says how to choose another one.
    """
    port = port or urlsplit(settings.reports_url).port or 80
    try:
        server = ThreadingHTTPServer((host, port), _handler(settings, is_loopback=host in _LOOPBACK))
    except OSError as error:
        raise ReportServerError(
            f"reports cannot be served on port {port} ({error.strerror}): stop what uses it, or choose "
            "another port with CAPTCHA_REPORTS_URL=http://localhost:PORT"
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        server.shutdown()
        server.server_close()
