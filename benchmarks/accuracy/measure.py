"""Training as the platform does it, and what a model says of images."""

import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from captcha_assets.dataset import CAPTCHA
from captcha_assets.evaluation.metrics import (
    Metrics,
    calibration_bins,
    compute_metrics,
    expected_calibration_error,
)
from captcha_assets.images.local_tables import LocalTables
from captcha_assets.images.reader import SplitImages
from captcha_assets.images.table_parts import version_of
from captcha_assets.models.folder import read_metrics
from captcha_assets.models.predictor import TorchPredictor
from captcha_assets.training.config import TrainingJob, TrainingSettings


def train(data: LocalTables, settings: TrainingSettings, work: Path) -> tuple[Path, float]:
    """Run the training process from the start; return the model folder and the CPU seconds."""
    shutil.rmtree(work, ignore_errors=True)
    job = TrainingJob(
        tables=data.tables,
        splits=data.splits,
        splits_version=version_of(data.splits),
        classes=CAPTCHA.classes,
        image_shape=CAPTCHA.shape,
        output=work / "model",
        checkpoints=work / "checkpoints",
        code_version="benchmark",
        settings=settings,
    )
    job.save(work / "job.json")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "captcha_assets.training", work / "job.json"], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return job.output, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@dataclass(frozen=True)
class Answers:
    """What was said of images: float32 (N, classes), and what they are, int64 (N,)."""

    probabilities: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    @property
    def metrics(self) -> Metrics:
        return compute_metrics(self.probabilities, self.labels, self.classes)

    @property
    def right(self) -> int:
        return int((self.probabilities.argmax(1) == self.labels).sum())

    def mistakes(self, most: int = 8) -> str:
        said = self.probabilities.argmax(1)
        wrong = said != self.labels
        pairs = Counter(
            f"{self.classes[label]}>{self.classes[other]}"
            for label, other in zip(self.labels[wrong], said[wrong], strict=True)
        )
        return ", ".join(f"{pair} {count}" for pair, count in pairs.most_common(most)) or "none"

    def without(self, temperature: float) -> "Answers":
        """The same before the logits were divided by the temperature."""
        raw = self.probabilities.astype(np.float64) ** temperature
        return Answers(raw / raw.sum(1, keepdims=True), self.labels, self.classes)

    def ece_by_chance(self, draws: int = 200) -> float:
        """The mean calibration error of as many answers, as sure as these, that are perfectly calibrated."""
        rng, confidence = np.random.default_rng(0), self.probabilities.max(1).astype(np.float64)
        outcomes = rng.random((draws, len(confidence))) < confidence
        return float(np.mean([expected_calibration_error(calibration_bins(confidence, o)) for o in outcomes]))


def pooled(answers: Sequence[Answers]) -> Answers:
    return Answers(
        np.concatenate([one.probabilities for one in answers]),
        np.concatenate([one.labels for one in answers]),
        answers[0].classes,
    )


@dataclass(frozen=True)
class Trial:
    """One training: what its model says of each set of images, by the set's name."""

    seed: int
    answers: dict[str, Answers]
    temperature: float
    learnt_from: int
    seconds: float


def trial(data: LocalTables, settings: TrainingSettings, sets: dict[str, SplitImages], work: Path) -> Trial:
    model, seconds = train(data, settings, work)
    predictor = TorchPredictor(model)
    answers = {
        name: Answers(predictor.predict(images.pixels), images.labels, images.classes)
        for name, images in sets.items()
    }
    learnt_from = read_metrics(model)["train_images"]
    return Trial(settings.seed, answers, predictor.config.temperature, learnt_from, seconds)
