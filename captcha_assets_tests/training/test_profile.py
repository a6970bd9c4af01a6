"""The trace of a few steps: what is in it, and that it is complete or absent."""

import json
from pathlib import Path

import numpy as np
import pytest

from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.profile import profile
from captcha_assets_tests.training.examples import draw_many

SETTINGS = TrainingSettings(batch_size=8, channels=(4, 8, 8, 8), accelerator="cpu")


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    pixels, _ = draw_many(40)
    return pixels, np.arange(40) % 20


@pytest.mark.slow
def test_a_trace_holds_the_steps_with_their_augmentation_and_convolutions(
    images: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    table = profile(*images, SETTINGS, 3, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [event.get("name", "") for event in events if event.get("cat") in ("cpu_op", "user_annotation")]
    assert names.count("augmentation") == 3
    assert names.count("network") == 3, "the validation and the first epoch are left out"
    assert "aten::convolution" in names
    assert any(name.startswith("aten::grid_sampler") for name in names)
    assert any(name.startswith("Optimizer.step") for name in names)
    assert "conv" in table
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_a_profile_that_fails_leaves_the_trace_of_before(
    images: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "trace.json").write_text("before")
    with pytest.raises(Exception, match="NaN"):
        profile(
            *images,
            SETTINGS.replaced(learning_rate=100.0, weight_decay=10.0),
            60,
            tmp_path / "trace.json",
        )
    assert (tmp_path / "trace.json").read_text() == "before"
