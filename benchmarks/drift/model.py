"""The model whose days are replayed: `make demo`'s, trained on generated images."""

from pathlib import Path

import yaml

from benchmarks.accuracy.data import GENERATED, deliver, new_home, split
from benchmarks.accuracy.measure import train
from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.reader import read_split
from captcha_assets.models.onnx_export import export
from captcha_assets.training.config import TrainingSettings

ROOT = Path(__file__).resolve().parents[2]


def exported_model(scratch: Path, images: int) -> Path:
    """Return the folder of an exported model; it is trained once for each number of images."""
    exported = scratch / f"model-{images}" / "onnx"
    if (exported / "manifest.json").exists():
        return exported
    home = new_home(scratch / f"home-{images}")
    deliver(home, GENERATED, images)
    data = split(home, [GENERATED])
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())["ops"]["resnet18"]["config"]
    trained, _ = train(data, TrainingSettings(**config), exported.parent / "training")
    shape, classes = CAPTCHA.shape, CAPTCHA.classes
    validation = read_split(data.tables, data.splits, "validation", classes=classes, shape=shape)
    export(trained, exported, validation.pixels)
    return exported
