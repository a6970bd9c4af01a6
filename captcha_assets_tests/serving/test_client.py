"""The client, against a real service: answers, problems, and retries where the service has no room."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from captcha_assets.serving.client import (
    AsyncPredictionClient,
    PredictedImages,
    PredictionClient,
    PredictionClientError,
)
from captcha_assets_tests.commands import run
from captcha_assets_tests.serving.services import RunningService, png_files, running

pytestmark = pytest.mark.xdist_group("service")

PNG = png_files(3)


def test_both_clients_are_told_the_same(service: RunningService) -> None:
    async def ask() -> tuple[PredictedImages, PredictedImages, str]:
        async with AsyncPredictionClient(service.url) as client:
            one = await client.predict(PNG[:1], inference_id="by-client")
            await client.correct("by-client", "a", "me")
            return one, await client.predict(PNG), await client.ready()

    one, several, version = asyncio.run(ask())
    assert one.predictions[0].inference_id == "by-client"
    assert one.model_version == several.model_version == version
    with PredictionClient(service.url + "/") as client:
        assert client.ready() == version
        found = client.predict(PNG)
        assert [each.scores for each in found.predictions] == [each.scores for each in several.predictions]
        client.correct(found.predictions[0].inference_id, "b")
        with pytest.raises(PredictionClientError, match="the service answers 404: no prediction") as caught:
            client.correct("unknown", "b")
        assert caught.value.status == 404
        with pytest.raises(PredictionClientError, match="422: the image ends early"):
            client.predict([PNG[0][:-20]])
        with pytest.raises(ValueError, match="at least one"):
            client.predict([])


def test_requests_that_found_no_room_are_sent_again(served_home: Path) -> None:
    narrow = {"queue_length": 1, "max_images": 1, "batch_size": 1, "max_requests": 2}
    with running(served_home, **narrow, deadline=30) as service:
        rejected = 'captcha_requests_total{route="none",status="429"}'

        def ask(number: int) -> str:
            with PredictionClient(service.url, timeout=60, retries=50) as client:
                return client.predict([PNG[number % 3]]).predictions[0].label

        with ThreadPoolExecutor(16) as pool:
            for _ in range(20):
                labels = list(pool.map(ask, range(32)))
                if service.metric(rejected):
                    break
        assert service.metric(rejected) > 0
        assert len(labels) == 32
        async_labels = asyncio.run(_ask_all(service.url))
        assert async_labels == labels[:16]


async def _ask_all(url: str) -> list[str]:
    async with AsyncPredictionClient(url, timeout=60, retries=50) as client:
        answers = await asyncio.gather(*(client.predict([PNG[number % 3]]) for number in range(16)))
    return [answer.predictions[0].label for answer in answers]


def test_a_client_that_reaches_nobody_says_so(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"  # nobody listens there
        with pytest.raises(PredictionClientError, match="is not reached"), PredictionClient(url) as client:
            client.predict(PNG[:1])
        (tmp_path / "a.png").write_bytes(PNG[0])
        done = run(tmp_path / "home", "predict", str(tmp_path / "a.png"), "--url", url)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert url in line


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:x"])
def test_what_is_no_address_is_said(url: str) -> None:
    with pytest.raises(PredictionClientError, match="is no address"):
        PredictionClient(url)


def test_predict_asks_the_service_and_names_what_it_cannot_read(
    service: RunningService, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(PNG[0])
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "c.png").symlink_to("nowhere.png")
    done = run(service.home, "predict", str(tmp_path), "--url", service.url)
    assert done.returncode == 1
    assert done.stdout.split()[0] == str(tmp_path / "a.png")
    first, second, last = done.stderr.splitlines()
    assert first.startswith(f"{tmp_path / 'b.png'}: the service answers 415: the image is not an image")
    assert second == f"{tmp_path / 'c.png'}: a broken link to nowhere.png"
    assert last.startswith("Error: 2 of 3 files could not be used; the first: b.png: the service answers 415")
    both = run(service.home, "predict", str(tmp_path), "--url", service.url, "--model", "candidate")
    assert both.returncode == 2
