"""The Open Inference Protocol, with Triton's own client and by hand."""

import json

import numpy as np
import pytest
import tritonclient.http as triton

from captcha_assets_tests.serving.services import RunningService, png_files
from captcha_assets_tests.training.examples import draw_many

pytestmark = pytest.mark.xdist_group("service")

NAME = "captcha_characters"
INFER = f"/v2/models/{NAME}/infer"
IMAGES = draw_many(3)[0][:, None]


@pytest.fixture
def expected(service: RunningService) -> list[dict]:
    """What `/v1` says about the images."""
    parts = [("image", (f"{number}", image, "image/png")) for number, image in enumerate(png_files(3))]
    return service.post("/v1/predict", files=parts).json()["predictions"]


def tensor(images: np.ndarray, *, binary: bool) -> triton.InferInput:
    given = triton.InferInput("images", list(images.shape), "UINT8")
    given.set_data_from_numpy(images, binary_data=binary)
    return given


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("outputs", [None, False, True])
def test_tritons_client_is_answered(
    service: RunningService, expected: list[dict], binary: bool, outputs: bool | None
) -> None:
    client = triton.InferenceServerClient(service.url.removeprefix("http://"), network_timeout=60)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(NAME)
    assert client.get_server_metadata()["name"] == "captcha-assets"
    metadata = client.get_model_metadata(NAME)
    assert metadata["inputs"][0]["shape"] == [-1, 1, 52, 32]
    wanted = None
    if outputs is not None:
        names = ("probabilities", "label", "inference_id")
        wanted = [triton.InferRequestedOutput(name, binary_data=outputs) for name in names]
    answer = client.infer(NAME, [tensor(IMAGES, binary=binary)], outputs=wanted)
    classes = list(expected[0]["scores"])
    for row, found in zip(answer.as_numpy("probabilities"), expected, strict=True):
        assert dict(zip(classes, row.tolist(), strict=True)) == pytest.approx(found["scores"], abs=2e-6)
    labels = [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label")]
    assert labels == [found["label"] for found in expected]
    version = metadata["versions"][0]
    assert answer.get_response()["model_version"] == version
    assert client.infer(NAME, [tensor(IMAGES, binary=binary)], model_version=version)
    client.close()


def test_a_prediction_of_the_protocol_can_be_corrected(service: RunningService) -> None:
    body = {
        "id": "by-protocol",
        "inputs": [
            {
                "name": "images",
                "shape": [1, 1, 52, 32],
                "datatype": "UINT8",
                "data": IMAGES[0].ravel().tolist(),
            }
        ],
        "outputs": [{"name": "inference_id"}],
    }
    answer = service.post(INFER, json=body).json()
    assert answer["id"] == "by-protocol"
    assert answer["outputs"] == [
        {"name": "inference_id", "datatype": "BYTES", "shape": [1], "data": ["by-protocol"]}
    ]
    stored = service.post("/v1/feedback", json={"inference_id": "by-protocol", "label": "a"})
    assert stored.status_code == 200


def changed(**changes: object) -> dict:
    data = IMAGES[:1].tolist()
    given = {"name": "images", "shape": [1, 1, 52, 32], "datatype": "UINT8", "data": data}
    return {"inputs": [{**given, **changes}]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        changed(name="pixels"),
        changed(datatype="FP32"),
        changed(shape=[1, 1, 32, 52]),
        changed(shape=[2, 1, 52, 32]),
        changed(shape=[0, 1, 52, 32], data=[]),
        changed(shape=[1 << 62, 1, 52, 32]),
        changed(data=[256] * 1664),
        changed(data=[10**30] * 1664),
        changed(data=[0.5] * 1664),
        changed(data=["a"] * 1664),
        changed(data=[[1], 2]),
        changed(data=None),
        changed(parameters={"binary_data_size": 1664}),
        changed(data=None, parameters={"binary_data_size": 1664}),
        changed(data=None, parameters={"binary_data_size": "x"}),
        {**changed(), "outputs": [{"name": "logits"}]},
        {**changed(), "id": "two words"},
    ],
)  # fmt: skip
def test_what_is_no_request_of_the_protocol_gets_a_problem(service: RunningService, body: dict) -> None:
    answer = service.post(INFER, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize("length", ["-1", "x", "99999999", "1e3", "²"])
def test_a_wrong_length_of_the_json_gets_a_problem(service: RunningService, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode("latin-1")}
    answer = service.post(INFER, content=json.dumps(changed()), headers=headers)
    assert answer.status_code == 400


def test_another_model_or_version_is_not_found(service: RunningService) -> None:
    for path in ("another", "another/ready", f"{NAME}/versions/1", f"{NAME}/versions/1/ready"):
        assert service.get(f"/v2/models/{path}").status_code == 404
    assert service.post(f"/v2/models/{NAME}/versions/1/infer", json=changed()).status_code == 404
