"""An alert reaches the log file and the webhook, and never fails what it is about."""

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from captcha_assets.alerts import Alert, send, send_new
from captcha_assets.settings import Settings, load_settings

ALERT = Alert("splits: the run failed", ("held <back> & more",), "http://localhost:3000/runs/1")


class Webhook:
    """A real server that answers as configured, and keeps what it was sent."""

    def __init__(self, status: int = 200, *, answers: bool = True) -> None:
        self.received: list[Any] = []
        self.released = threading.Event()
        webhook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                webhook.received.append(json.loads(body))
                if not answers:
                    webhook.released.wait()
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook(request: pytest.FixtureRequest) -> Iterator[Webhook]:
    made = Webhook(**getattr(request, "param", {}))
    yield made
    made.close()


def logged(settings: Settings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in settings.paths.alerts.read_text().splitlines()]


def test_an_alert_is_a_line_of_the_log_file(settings: Settings) -> None:
    assert send(settings, ALERT)
    assert send(settings, Alert("another"))
    first, second = logged(settings)
    assert (first["title"], first["lines"], first["link"]) == (ALERT.title, list(ALERT.lines), ALERT.link)
    assert second["title"] == "another"
    assert "webhook" not in first


def test_a_webhook_is_told_in_the_format_of_slack(settings: Settings, webhook: Webhook) -> None:
    assert send(load_settings(home=settings.paths.home, alert_webhook=webhook.url), ALERT)
    text = (
        "*splits: the run failed*\n• held &lt;back&gt; &amp; more\n<http://localhost:3000/runs/1|look at it>"
    )
    assert webhook.received == [{"text": text}]
    assert logged(settings)[0]["webhook"] == "delivered"


@pytest.mark.parametrize(
    ("webhook", "said"),
    [
        ({"status": 500}, "not delivered: answered 500"),
        ({"answers": False}, "not delivered: ReadTimeout"),
    ],
    indirect=["webhook"],
)
def test_a_webhook_that_is_broken_or_slow_breaks_nothing(
    settings: Settings, webhook: Webhook, said: str
) -> None:
    assert not send(load_settings(home=settings.paths.home, alert_webhook=webhook.url), ALERT)
    assert webhook.received
    assert logged(settings)[0]["webhook"] == said


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/secret", "http://nowhere.invalid/secret"])
def test_a_webhook_that_is_absent_breaks_nothing_and_its_address_is_not_told(
    settings: Settings, url: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert not send(load_settings(home=settings.paths.home, alert_webhook=url.format(port=port)), ALERT)
    (line,) = logged(settings)
    assert line["webhook"].startswith("not delivered: ")
    assert "secret" not in settings.paths.alerts.read_text()


def test_of_several_processes_one_sends_an_alert_and_of_the_next_event_one_again(settings: Settings) -> None:
    before = datetime.now(UTC)
    barrier = threading.Barrier(8)

    def tick(_process: int) -> None:
        barrier.wait()
        send_new(settings, [ALERT], None, before)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tick, range(8)))
    assert len(logged(settings)) == 1
    send_new(settings, [ALERT], None, before + timedelta(hours=1))
    assert len(logged(settings)) == 2


def test_the_address_of_the_webhook_does_not_show_in_the_settings() -> None:
    assert "hush" not in repr(load_settings(alert_webhook="http://127.0.0.1/hush"))


def test_an_alert_that_cannot_be_written_breaks_nothing(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.paths.alerts.mkdir(parents=True)
    assert not send(settings, ALERT)
    assert "could not be written" in caplog.text
