"""A lean load generator: so many connections, each of which sends its next request when it has its answer."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

import numpy as np


@dataclass
class Load:
    """What a run of requests came to."""

    connections: int
    seconds: float
    answered: int
    statuses: dict[str, int]
    milliseconds: dict[str, float] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds

    @property
    def failed(self) -> int:
        return sum(number for status, number in self.statuses.items() if status != "200")


class _Connection(asyncio.Protocol):
    """One connection: writes a request, reads an answer, notes how long it took."""

    def __init__(self, requests: Iterable[bytes], run: "_Run") -> None:
        self._requests, self._run = iter(requests), run
        self._received = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._send()

    def _send(self) -> None:
        self._received = b""
        self._sent = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        fields = head.lower().split(b"\r\ncontent-length:", 1)
        if len(fields) > 1:
            complete = len(body) >= int(fields[1].partition(b"\r\n")[0])
        else:  # chunked
            complete = body.endswith(b"0\r\n\r\n")
        if complete:
            self._run.note(head[9:12].decode(), time.perf_counter() - self._sent)
            if self._run.goes_on():
                self._send()
            else:
                self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        if self._run.goes_on():
            self._run.note("lost", time.perf_counter() - self._sent)
        self._run.ended()


class _Run:
    def __init__(self, connections: int, seconds: float) -> None:
        self._open, self._ends = connections, time.perf_counter() + seconds
        self.all_ended = asyncio.get_running_loop().create_future()
        self.statuses: Counter[str] = Counter()
        self.times: list[float] = []

    def goes_on(self) -> bool:
        return time.perf_counter() < self._ends

    def note(self, status: str, seconds: float) -> None:
        self.statuses[status] += 1
        if status == "200":
            self.times.append(seconds)

    def ended(self) -> None:
        self._open -= 1
        if not self._open:
            self.all_ended.set_result(None)


async def _load(host: str, port: int, requests: list[bytes], connections: int, seconds: float) -> Load:
    loop, run, started = asyncio.get_running_loop(), _Run(connections, seconds), time.perf_counter()
    for number in range(connections):
        turned = requests[number % len(requests) :] + requests[: number % len(requests)]
        await loop.create_connection(lambda turned=turned: _Connection(cycle(turned), run), host, port)
    await asyncio.wait_for(run.all_ended, seconds + 60)
    elapsed = time.perf_counter() - started
    times = np.array(run.times or [np.nan]) * 1000
    percentiles = {f"p{share}": float(np.percentile(times, share)) for share in (50, 95, 99)}
    return Load(connections, elapsed, run.statuses["200"], dict(run.statuses), percentiles)


def request(url: str, body: bytes, content_type: str) -> bytes:
    """Return a POST request as it goes over the wire."""
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def main() -> None:
    """Read `{"url", "bodies", "content_type", "connections", "seconds"}`, send the load, print the result."""
    import base64

    import uvloop

    given = json.load(sys.stdin)
    bodies = [base64.b64decode(body) for body in given["bodies"]]
    requests = [request(given["url"], body, given["content_type"]) for body in bodies]
    parts = urlsplit(given["url"])
    found = uvloop.run(
        _load(parts.hostname or "", parts.port or 80, requests, given["connections"], given["seconds"])
    )
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
