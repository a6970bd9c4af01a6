"""Thousands of damaged requests, and those that a generator makes of the service's own description."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from captcha_assets_tests.serving.fuzz import fuzz, valid_requests
from captcha_assets_tests.serving.services import RunningService

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("service")]


def test_damaged_requests_never_make_the_service_fail(service: RunningService) -> None:
    asyncio.run(fuzz(service.url, 500, seed=1))
    before = service.memory()
    found, bad = asyncio.run(fuzz(service.url, 2_000))
    assert bad == []
    assert found["200"], found
    assert found["422"] + found["415"] + found["400"] > 500, found
    assert service.memory() - before < 30 << 20
    assert service.get("/v2/health/ready").status_code == 200


def test_the_requests_that_are_damaged_were_right(service: RunningService) -> None:
    for request in valid_requests():
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.sendall(request)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 "), request[:100]


def test_the_service_answers_as_its_description_says(service: RunningService, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{service.url}/openapi.json"]
    # Which images can be used, no schema can say.
    checks = ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
    bounds = ["--max-examples", "30", "--generation-database", "none", "--seed", "1"]
    done = subprocess.run(
        [*command, *checks, *bounds], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
