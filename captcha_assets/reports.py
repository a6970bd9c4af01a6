"""A small web server for the reports that the Dagster UI links to: pages, pictures and small files."""

import mimetypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from captcha_assets.settings import Settings


class ReportServerError(RuntimeError):
    """The reports cannot be served; the message says what to do."""


_SHOWN = {".html", ".png", ".json", ".csv"}


def _handler(settings: Settings) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = [part for part in unquote(urlsplit(self.path).path).split("/") if part]
            path = settings.artifact_root.joinpath(*parts)
            if ".." in parts or path.suffix not in _SHOWN or not path.is_file():
                self.send_error(HTTPStatus.NOT_FOUND, "no such report")
                return
            body = path.read_bytes()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", mimetypes.guess_type(path.name)[0] or "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
            """Say nothing: the terminal belongs to the UI."""

    return Handler


@contextmanager
def serving(settings: Settings) -> Iterator[threading.Thread]:
    """Serve the artifacts' reports at `settings.reports_url`, on this machine only, while the block runs.

    Raises:
        ReportServerError: the port is taken; the message says how to choose another one.
    """
    port = urlsplit(settings.reports_url).port or 80
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _handler(settings))
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
