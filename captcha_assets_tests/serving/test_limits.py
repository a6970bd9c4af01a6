"""What an attacker, a slow client or too many clients get; and that others are answered meanwhile."""

import json
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from captcha_assets.serving.allowed_hosts import allowed_hosts
from captcha_assets_tests.commands import run
from captcha_assets_tests.serving.services import COMMAND, RunningService, png_files, running

pytestmark = pytest.mark.xdist_group("service")

PNG = png_files(2)
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def strict(served_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service with narrow limits."""
    home = Path(shutil.copytree(served_folder, tmp_path_factory.mktemp("strict") / "home"))
    limits = {"max_body": MEGABYTE, "read_timeout": 1, "queue_length": 4, "max_images": 4, "batch_size": 1}
    with running(home, **limits, deadline=20, max_connections=80) as service:
        yield service


def connected(service: RunningService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=30)


def everything(connection: socket.socket) -> bytes:
    """What the service sends until it closes the connection."""
    received = b""
    while True:
        try:
            more = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not more:
            return received
        received += more


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: [::1]:8000\r\nContent-Type: image/png\r\n"


def test_a_body_over_the_limit_is_rejected_before_it_is_read(strict: RunningService) -> None:
    with closing(connected(strict)) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000000000\r\n\r\n")
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"application/problem+json" in answer


def test_a_body_that_does_not_say_its_size_is_rejected_at_the_limit(strict: RunningService) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(MEGABYTE)

    before = strict.memory()
    try:
        answer = httpx.post(
            f"{strict.url}/v1/predict", content=endless(), headers={"Content-Type": "image/png"}, timeout=30
        )
    except httpx.WriteError:
        pass  # the connection was closed before all was sent
    else:
        assert answer.status_code == 413
    assert strict.memory() - before < 20 * MEGABYTE


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"POST /v1/pre", b"408"),
        (HEAD + b"X-Slow: ", b"408"),
        (HEAD + b"Content-Length: 100\r\n\r\nabc", b"408"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc", b"408"),
        (b"", b""),
    ],
)
def test_a_slow_client_is_cut_off(strict: RunningService, sent: bytes, status: bytes) -> None:
    with closing(connected(strict)) as connection:
        connection.sendall(sent)
        answer = everything(connection)
    assert answer.split(b" ")[1:2] == ([status] if status else [])


def test_a_client_that_sends_a_byte_now_and_then_is_cut_off(strict: RunningService) -> None:
    with closing(connected(strict)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        connection.settimeout(0.05)
        received = b""
        for _ in range(600):
            try:
                received = connection.recv(65536)
                break
            except TimeoutError:
                connection.sendall(b"a")
    assert received.startswith(b"HTTP/1.1 408 ")


NO_HTTP = {
    "a long header": (b"GET / HTTP/1.1\r\n" + b"X-A: " + b"a" * 300_000 + b"\r\n\r\n", b"431"),
    "a long path": (b"GET /" + b"a" * 300_000, b"431"),
    "a head of 100 kB that comes at once": (
        b"GET /metrics HTTP/1.1\r\nX-A: " + b"a" * 100_000 + b"\r\n\r\n",
        b"431",
    ),
    "many headers": (b"GET /metrics HTTP/1.1\r\n" + b"X-A: a\r\n" * 10_000 + b"\r\n", b"431"),
    "a path of 100 kB that comes at once": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"431"),
    "TLS": (b"\x16\x03\x01\x00\xa5\x01\x00", b"400"),
    "another version": (b"GET / HTTP/9.9\r\n\r\n", b"400"),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", b"400"),
    "two lengths": (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", b"400"),
    "a length and chunks": (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", b"400"),
    "something after a request": (b"GET /v2/health/live HTTP/1.1\r\n\r\nno HTTP", b"400"),
}


@pytest.mark.parametrize("case", NO_HTTP)
def test_what_is_no_http_gets_a_problem(strict: RunningService, case: str) -> None:
    sent, status = NO_HTTP[case]
    with closing(connected(strict)) as connection:
        connection.sendall(sent)
        answer = everything(connection)
    assert answer.split(b" ")[1] == status
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == int(status)


def test_connections_beyond_the_limit_are_closed_and_the_rest_is_answered(strict: RunningService) -> None:
    with ThreadPoolExecutor(100) as pool:
        connections = list(pool.map(lambda _: connected(strict), range(100)))
        ended = list(pool.map(everything, connections))
    assert len(ended) == 100  # idle ones are closed by the time too
    for connection in connections:
        connection.close()
    assert strict.predict(PNG[0]).status_code == 200


def test_overload_is_answered_429_and_passes(strict: RunningService) -> None:
    def ask(_: int) -> httpx.Response:
        return client.post("/v1/predict", content=PNG[0], headers={"Content-Type": "image/png"})

    with (
        httpx.Client(base_url=strict.url, timeout=60, limits=httpx.Limits(max_connections=60)) as client,
        ThreadPoolExecutor(60) as pool,
    ):
        for _ in range(20):
            answers = list(pool.map(ask, range(300)))
            found = Counter(answer.status_code for answer in answers)
            assert set(found) <= {200, 429}, found
            assert found[200]
            if found[429]:
                break
        rejected = [answer for answer in answers if answer.status_code == 429]
        assert rejected, "60 requests at once never filled a queue of four images"
        assert all(answer.headers["Retry-After"].isdigit() for answer in rejected)
        assert rejected[0].headers["Content-Type"] == "application/problem+json"
        assert ask(0).status_code == 200
    assert strict.metric('captcha_requests_total{route="/v1/predict",status="429"}') > 0


def test_a_request_that_waits_too_long_is_given_up(served_home: Path) -> None:
    with running(served_home, deadline=0.000001) as service:
        answer = service.predict(PNG[0])
        assert (answer.status_code, answer.json()["title"]) == (504, "Gateway Timeout")


# --- a name that a web page points at this machine


def asked_by(service: RunningService, host: str, path: str = "/v1/predictions") -> httpx.Response:
    return service.get(path, headers={"Host": host, "Origin": f"http://{host}"})


def test_on_a_loopback_address_no_other_host_is_answered(strict: RunningService) -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost@evil.example", ""):
        answer = asked_by(strict, host)
        assert (answer.status_code, answer.headers["Content-Type"]) == (421, "application/problem+json")
        assert "CAPTCHA_SERVING_ALLOWED_HOSTS" in answer.json()["detail"]
        assert asked_by(strict, host, "/v2/health/ready").status_code == 200  # of an orchestrator
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:8000", "[::1]"):
        assert asked_by(strict, host).status_code == 200


@pytest.mark.parametrize(
    ("names", "address", "has_keys", "accepted"),
    [
        (None, "127.0.0.1", False, False),
        (None, "::1", False, False),
        (None, "127.0.0.1", True, True),
        (None, "0.0.0.0", False, True),
        (("captcha.example", "10.0.0.7"), "0.0.0.0", True, False),
        (("captcha.example", "Other.Example"), "127.0.0.1", False, True),
        (("*",), "127.0.0.1", False, True),
    ],
)
def test_which_hosts_are_answered_depends_on_the_address_the_keys_and_the_setting(
    names: tuple[str, ...] | None, address: str, has_keys: bool, accepted: bool
) -> None:
    hosts = allowed_hosts(names, address, has_keys=has_keys)
    assert hosts.accept("other.example:8000") == accepted
    assert hosts.accept("localhost:8000")


# --- API keys


KEY, OTHER = "k" * 20, "another-key-of-20-ch"


def test_a_service_with_keys_answers_nobody_else(served_home: Path) -> None:
    keys = served_home / "keys"
    keys.write_text(f"# who may ask\n{OTHER}\n\n{KEY}\n")
    with running(served_home, api_keys=keys, allowed_hosts="a.example, b.example") as service:
        assert asked_by(service, "b.example").status_code == 401
        assert asked_by(service, "c.example").status_code == 421
        for headers in ({}, {"Authorization": f"Bearer {KEY}x"}, {"Authorization": f"Basic {KEY}"}):
            for path in ("/v1/predict", "/metrics", "/openapi.json", "/nowhere"):
                answer = service.get(path, headers=headers)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert service.get("/v2/health/ready").status_code == 200
        for key in (KEY, OTHER):
            assert service.predict(PNG[0], Authorization=f"Bearer {key}").status_code == 200
        (served_home / "0.png").write_bytes(PNG[0])
        asked = ("predict", str(served_home / "0.png"), "--url", service.url)
        assert run(served_home, *asked, CAPTCHA_API_KEY=KEY).returncode == 0
        rejected = run(served_home, *asked)
        assert rejected.returncode == 1
        assert "401: send a key" in rejected.stderr
    assert KEY not in (served_home / "service.log").read_text()


# --- settings, and a command that cannot start


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DEADLINE", "0", "CAPTCHA_SERVING_DEADLINE='0' cannot be used: "),
        ("DEADLIN", "1", "CAPTCHA_SERVING_DEADLIN is no setting: is CAPTCHA_SERVING_DEADLINE meant?"),
        ("MAX_IMAGES", "999", "CAPTCHA_SERVING_QUEUE_LENGTH=256"),
        ("THREADS", "5000", "CAPTCHA_SERVING_THREADS='5000' cannot be used: "),
        (
            "API_KEYS",
            "/nowhere",
            "CAPTCHA_SERVING_API_KEYS='/nowhere' cannot be used: /nowhere is not a file",
        ),
        ("API_KEYS", "", "CAPTCHA_SERVING_API_KEYS is empty: give a value, or unset the variable"),
        ("ALLOWED_HOSTS", "a.example,https://b.example", "give names or addresses without a port"),
        ("API_KEYS", "{short}", "a key that is no 16 ASCII characters long"),
        ("PREDICTION_LOG", "oracle://me:secret@host/log", "cannot be kept in oracle"),
        ("PREDICTION_LOG", "secret", "CAPTCHA_SERVING_PREDICTION_LOG cannot be used: it is no database URL"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, name: str, value: str, said: str) -> None:
    short = tmp_path / "short"
    short.write_text("hunter2")
    variables = {f"CAPTCHA_SERVING_{name}": value.format(short=short)}
    done = run(tmp_path / "home", "serve", "--port", "0", **variables)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert said in line
    assert "secret" not in line
    assert "hunter2" not in line


def test_other_commands_let_the_settings_of_the_service_through(tmp_path: Path) -> None:
    done = run(tmp_path / "home", "batch", "list", CAPTCHA_SERVING_DEADLINE="1")
    assert done.returncode == 0, done.stderr


def test_a_port_that_is_taken_is_said(service: RunningService, tmp_path: Path) -> None:
    assert COMMAND.exists()
    done = run(tmp_path / "home", "serve", "--port", str(service.port))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"cannot listen on port {service.port} of 127.0.0.1" in line
    assert "--port" in line
