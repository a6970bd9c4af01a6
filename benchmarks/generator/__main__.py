"""How close generated images are to real ones: `python -m benchmarks.generator [--help]`.

Writes a contact sheet, real characters at the left and generated ones at the right, trains a narrow
resnet18 on generated images alone, and prints last how many real characters it reads. Real images are
looked for in `../shared/data`; without them only the sheet and the speed remain.
"""

import argparse
import time
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import timm
import torch

from captcha_assets.dataset import CLASSES, HEIGHT, WIDTH, label_of
from captcha_assets.sources.generator import generate

ROOT = Path(__file__).resolve().parents[2]
Images = tuple[np.ndarray, np.ndarray]  # uint8 (n, 52, 32), class numbers (n,)


def _labelled(pairs: Iterable[tuple[str, np.ndarray]]) -> Images:
    labels, images = zip(*pairs, strict=True)
    return np.stack(images), np.array([CLASSES.index(label) for label in labels])


def _decoded(name: str, data: bytes) -> tuple[str, np.ndarray]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None, f"{name} cannot be decoded"
    return label_of(name), image


def real_characters(folder: Path) -> Images:
    """The characters cut from public Kaptcha pictures."""
    with zipfile.ZipFile(folder / "kaptcha_characters.zip") as archive:
        return _labelled(_decoded(n, archive.read(n)) for n in archive.namelist() if n.endswith(".png"))


def samples(folder: Path) -> Images:
    """The images of the Kaggle data set."""
    files = sorted((folder / "kaggle_samples").glob("*.png"))
    return _labelled(_decoded(file.name, file.read_bytes()) for file in files)


def _tiles(images: np.ndarray, columns: int) -> np.ndarray:
    tiles = np.full((columns, HEIGHT + 2, WIDTH + 2), 255, np.uint8)
    tiles[: len(images[:columns]), 1:-1, 1:-1] = images[:columns]
    return np.hstack(list(tiles))


def contact_sheet(real: Images | None, made: Images, columns: int = 16) -> np.ndarray:
    """A row a class: real at the left (blank where there is none), generated at the right."""
    rows = []
    for number in range(len(CLASSES)):
        left = real[0][real[1] == number] if real else np.empty((0, HEIGHT, WIDTH), np.uint8)
        right = made[0][made[1] == number]
        gap = np.full((HEIGHT + 2, 12), 128, np.uint8)
        rows.append(np.hstack([_tiles(left, columns), gap, _tiles(right, columns)]))
    return np.vstack(rows)


def _normal(images: torch.Tensor) -> torch.Tensor:
    return (images.float()[:, None] / 255 - 0.6) / 0.35


def fit(made: Images, epochs: int, seed: int) -> torch.nn.Module:
    """Train a narrow resnet18: one-cycle, Nesterov, label smoothing, crops moved by up to 2 pixels."""
    torch.manual_seed(seed)
    images, labels = (torch.from_numpy(array) for array in made)
    model = timm.create_model("resnet18", in_chans=1, num_classes=len(CLASSES), channels=(16, 32, 64, 128))
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    others = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    steps = epochs * (len(images) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=0.2)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    model.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images))[: len(images) // 64 * 64].split(64)
        for batch in order:
            wide = torch.nn.functional.pad(_normal(images[batch]), (2, 2, 2, 2), mode="replicate")
            top, left = torch.randint(5, (2,)).tolist()
            optimizer.zero_grad()
            loss(model(wide[:, :, top : top + HEIGHT, left : left + WIDTH]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
        print(f"seed {seed}: epoch {epoch + 1} of {epochs}", flush=True)
    return model.eval()


def read(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """The class number the model gives each image."""
    with torch.no_grad():
        parts = [model(_normal(part)).argmax(1) for part in torch.from_numpy(images).split(256)]
    return torch.cat(parts).numpy()


def _mistakes(said: np.ndarray, labels: np.ndarray) -> str:
    wrong = said != labels
    pairs = Counter(f"{CLASSES[a]}>{CLASSES[b]}" for a, b in zip(labels[wrong], said[wrong], strict=True))
    return ", ".join(f"{pair} {count}" for pair, count in pairs.most_common(6))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generator", description=__doc__)
    parser.add_argument("--images", type=int, default=30_000, help="generated images to train on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings; 0 for the sheet alone")
    parser.add_argument("--real", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=ROOT / "artifacts" / "benchmarks" / "generator")
    return parser.parse_args()


def main() -> None:
    options = _options()
    options.output.mkdir(parents=True, exist_ok=True)
    real = real_characters(options.real) if options.real.is_dir() else None
    start = time.process_time()
    made = _labelled(generate(4200))
    speed = len(made[1]) / (time.process_time() - start)
    sheet = options.output / "contact_sheet.png"
    cv2.imwrite(str(sheet), contact_sheet(real, made))
    print(f"{sheet}\n{speed:,.0f} images/s on one core")
    if real is None:
        print(f"no real images in {options.real}: nothing to test a model on")
        return
    rows = []
    for seed in range(options.seeds):
        model = fit(_labelled(generate(options.images, seed)), options.epochs, seed)
        said, kaggle = read(model, real[0]), samples(options.real)
        few = f"{(read(model, kaggle[0]) == kaggle[1]).sum()} of {len(kaggle[1])}"
        rows.append(f"{seed:4}   {(said == real[1]).mean():.4f}   {few:>8}   {_mistakes(said, real[1])}")
    print(f"\n{options.images:,} generated images, {options.epochs} epochs; {len(real[1])} real ones\n")
    print("seed     real     kaggle   most frequent mistakes (is>said)", *rows, sep="\n")


if __name__ == "__main__":
    main()
