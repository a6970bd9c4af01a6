"""Requests that were damaged at random, sent to a running service.

    python -m captcha_assets_tests.serving.fuzz http://127.0.0.1:8000 --requests 100000

prints how many got which status, and ends with exit status 1 where one got a 5xx other than 503 and 504.
"""

import argparse
import asyncio
import json
import random
import sys
from collections import Counter
from urllib.parse import urlsplit

from captcha_assets_tests.serving.services import png_files

CONNECTIONS = 16
#: Statuses that say there is no answer now, and not that the service failed.
BUSY = {"503", "504"}
#: Seconds until a request is left alone.
LONGEST = 0.5
_TOKENS = [
    b"",
    b"\0",
    b"\xff\xff\xff\xff",
    b"-1",
    b"0",
    b"9999999999999999999999",
    b"1e999",
    b"NaN",
    b"null",
    b"[[[[[[",
    b"{}",
    b'"',
    b"\r\n",
    b"\r\n\r\n",
    b"%00",
    b"../../etc/passwd",
    "é\u2028".encode(),
    b"IHDR",
    b"IDAT",
    b"IEND",
    b"chunked",
    b"multipart/form-data; boundary=x",
    b"image/png",
    b"--x--",
    b"\\ud800",
    b"application/json",
]


def _request(method: str, path: str, kind: str, body: bytes, *more: str) -> bytes:
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, *more, "", ""]).encode() + body


def valid_requests() -> list[bytes]:
    """Return one request of every kind, none of which is damaged."""
    png = png_files(1)[0]
    part = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        + png
        + b"\r\n--x--\r\n"
    )
    tensor = {"name": "images", "shape": [1, 1, 52, 32], "datatype": "UINT8"}
    numbers = json.dumps({"id": "one", "inputs": [{**tensor, "data": [7] * 1664}]}).encode()
    given = {"inputs": [{**tensor, "parameters": {"binary_data_size": 1664}}]}
    binary = json.dumps(given).encode()
    infer, octets = "/v2/models/captcha_characters/infer", "application/octet-stream"
    length = f"Inference-Header-Content-Length: {len(binary)}"
    correction = json.dumps({"inference_id": "one", "label": "a", "annotator": "me"}).encode()
    return [
        _request("POST", "/v1/predict", "image/png", png, "X-Inference-Id: one"),
        _request("POST", "/v1/predict", "multipart/form-data; boundary=x", part),
        _request("POST", infer, "application/json", numbers),
        _request("POST", infer, octets, binary + bytes(1664), length),
        _request("POST", "/v1/feedback", "application/json", correction),
        _request("GET", "/v2/models/captcha_characters/ready", "text/plain", b""),
        _request("GET", "/metrics", "text/plain", b""),
    ]  # fmt: skip


def damaged(request: bytes, rng: random.Random) -> bytes:
    """Return a request some of whose bytes were changed, left out, repeated or put in; mostly of its body."""
    head, _, body = request.partition(b"\r\n\r\n")
    in_head = rng.random() < 0.3
    part = bytearray(head if in_head else body)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, how = rng.randrange(len(part) + 1), rng.randrange(4)
        if how == 0 and at < len(part):
            part[at] = rng.randrange(256)
        elif how == 1:
            del part[at : at + rng.randrange(1, 30)]
        elif how == 2:
            part[at:at] = part[at : at + rng.randrange(1, 200)]
        else:
            part[at:at] = rng.choice(_TOKENS)
    if in_head:
        return bytes(part) + b"\r\n\r\n" + body
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(part), b"", b""]) + bytes(part)


async def _status(host: str, port: int, request: bytes) -> str:
    """Send one request on a connection of its own, and return the status, "closed" or "none"."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request)
        line = await asyncio.wait_for(reader.readline(), LONGEST)
    except ConnectionError:
        return "closed"
    except TimeoutError:  # the service waits for the rest of a body
        return "none"
    finally:
        writer.close()
    return line[9:12].decode("latin-1") or "closed"


async def _some(url: str, number: int, seed: int, found: "Counter[str]", bad: list[bytes]) -> None:
    rng, valid = random.Random(seed), valid_requests()
    parts = urlsplit(url)
    for _ in range(number):
        request = damaged(rng.choice(valid), rng)
        status = await _status(parts.hostname or "", parts.port or 80, request)
        found[status] += 1
        if status.startswith("5") and status not in BUSY:
            bad.append(request)


async def fuzz(url: str, number: int, seed: int = 0) -> tuple["Counter[str]", list[bytes]]:
    """Send damaged requests; return the number of each status, and those that the service failed at."""
    found: Counter[str] = Counter()
    bad: list[bytes] = []
    each = number // CONNECTIONS
    await asyncio.gather(*(_some(url, each, seed * 1000 + one, found, bad) for one in range(CONNECTIONS)))
    return found, bad


def main() -> int:
    """Fuzz a service, and say what became of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found, bad = asyncio.run(fuzz(options.url, options.requests, options.seed))
    print(", ".join(f"{status}: {number:,}" for status, number in sorted(found.items())))
    for request in bad[:5]:
        print(request)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
