"""HTTP connections of uvicorn that are cut off where a client is slow or sends an endless head.

uvicorn bounds neither the time for the head of a request nor its size when httptools parses it.
"""

import asyncio
from asyncio import TimerHandle
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from captcha_assets.serving.problems import ProblemError

#: Most bytes of a request's head.
LARGEST_HEAD = 64 << 10


class _HeadTooLargeError(ValueError):
    """A request's head that is longer than it may be."""


class Connection(HttpToolsProtocol):
    """A connection with limits; `connection_class` sets them.

    Attributes:
        read_timeout: seconds that the head of a request may take.
        max_connections: connections at once; one beyond is closed.
    """

    read_timeout: ClassVar[float]
    max_connections: ClassVar[int]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: TimerHandle | None = None
        self._head = self._parsed = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close one connection too many, and wait for the head of the first request."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.abort()
        else:
            self._start_timer()

    def data_received(self, data: bytes) -> None:
        """Reject a head that is too long and has not come to its end."""
        if self._in_head:
            self._head += len(data)
            self._start_timer()
        super().data_received(data)
        # What came with the end of the head counts as part of it only while the head goes on.
        if self._in_head and self._head > LARGEST_HEAD and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        """Note that a head begins."""
        super().on_message_begin()
        self._in_head, self._parsed = True, 0

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a header, with its colon, space and end of line."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._parsed += size
        if self._parsed > LARGEST_HEAD:  # the parser stops, and uvicorn calls `send_400_response`
            raise _HeadTooLargeError

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self._in_head, self._head = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Note that what comes next is a head."""
        super().on_message_complete()
        self._in_head = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or a head that is too long."""
        if self._parsed > LARGEST_HEAD:
            self._refuse_head()
        else:
            self._refuse(400, msg)

    def _refuse_head(self) -> None:
        self._refuse(431, f"a request's head has {LARGEST_HEAD:,} bytes at most")

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.read_timeout, self._cut_off)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _cut_off(self) -> None:
        self._timer = None
        if self._head:
            self._refuse(408, f"the request's head did not come within {self.read_timeout:g} s")
        else:  # nothing was asked
            self.transport.close()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with a problem, unless another answer is under way, and close the connection."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            response = ProblemError(status, detail, headers={"Connection": "close"}).response()
            head = [STATUS_LINE[status], *(b"%s: %s\r\n" % header for header in response.raw_headers)]
            self.transport.write(b"".join([*head, b"\r\n", bytes(response.body)]))
        self.transport.close()


def connection_class(read_timeout: float, max_connections: int) -> type[asyncio.Protocol]:
    """Return the class of connections for uvicorn's setting `http`."""
    limits = {"read_timeout": read_timeout, "max_connections": max_connections}
    return type("LimitedConnection", (Connection,), limits)
