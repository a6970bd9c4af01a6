"""ImageNet weights: from the hub, or from a server that answers as the hub does, or a way out."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from captcha_assets.models import folder
from captcha_assets.models.network import CHANNELS, PretrainedWeightsError, build
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.fit import train
from captcha_assets_tests.training.examples import job_on, write_batch

SETTINGS = TrainingSettings(epochs=1, batch_size=32, accelerator="cpu", pretrained=True, learning_rate=1e-8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Weights of three input channels and 1000 classes, as the hub has them."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), path)
    return path


@pytest.fixture
def hub(weights) -> Iterator[str]:
    """Address of a server that answers as the Hugging Face hub does for `timm/resnet18.a1_in1k`."""
    content = weights.read_bytes()

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            known = self.path == "/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(content) if known else 0))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(hub, monkeypatch, tmp_path) -> Path:
    """An empty cache and the hub that fills it; its client reads the environment at import only."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return tmp_path / "cache"


def test_a_training_starts_from_the_hubs_weights_with_the_hubs_normalisation(cache, weights, tmp_path):
    job = job_on(write_batch(tmp_path, 200), tmp_path, SETTINGS)
    assert train(job, print)
    config = folder.read_config(job.output)
    assert (config.mean, config.std) == (pytest.approx(0.449), pytest.approx(0.226))
    theirs, ours = load_file(weights), load_file(job.output / "model.safetensors")
    # The learning rate is too small to move a weight by more than this.
    assert torch.allclose(ours["conv1.weight"], theirs["conv1.weight"].sum(1, keepdim=True), atol=1e-5)
    assert torch.allclose(ours["layer4.1.conv2.weight"], theirs["layer4.1.conv2.weight"], atol=1e-5)
    assert ours["fc.weight"].shape == (20, 512)


def test_weights_that_cannot_be_had_end_with_a_way_out(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PretrainedWeightsError) as caught:
        build("resnet18", CHANNELS, 20, pretrained=True)
    message = str(caught.value)
    assert message.startswith("the ImageNet weights timm/resnet18.a1_in1k cannot be fetched from")
    assert "\n" not in message
    for way in ("set HF_ENDPOINT", f"put them into {cache}", "set pretrained to false"):
        assert way in message


def test_weights_that_were_fetched_once_are_there_without_the_hub(cache, monkeypatch):
    first = build("resnet18", CHANNELS, 20, pretrained=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = build("resnet18", CHANNELS, 20, pretrained=True)
    assert torch.equal(first.conv1.weight, again.conv1.weight)


def test_weights_of_another_width_are_rejected(cache):
    with pytest.raises(PretrainedWeightsError, match=r"do not fit resnet18 with channels \(8, 8, 16, 16\)"):
        build("resnet18", (8, 8, 16, 16), 20, pretrained=True)
