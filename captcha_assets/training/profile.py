"""A trace of some steps of a real training."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, record_function

from captcha_assets.atomic_files import replacing
from captcha_assets.models.network import ARCHITECTURE, build
from captcha_assets.training.augment import Augmentation
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.data import Images, Normalisation, TrainImages
from captcha_assets.training.module import Classifier
from captcha_assets.training.trainer import SplitData, make_trainer

#: Rows of the table of operations.
_ROWS = 15


class _NamedAugmentation(Augmentation):
    """The augmentation, with a name in the trace."""

    def __call__(self, images: Tensor, parameters: Tensor) -> Tensor:
        with record_function("augmentation"):
            return super().__call__(images, parameters)


class _NamedNetwork(nn.Module):
    """The network, with a name in the trace."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        with record_function("network"):
            return self.network(images)


class _Traced(Callback):
    """Traces the steps of the second epoch: in the first one everything is done for the first time."""

    def __init__(self) -> None:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self.profiler = torch.profiler.profile(activities=activities, record_shapes=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            self.profiler.start()

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            self.profiler.stop()


def profile(
    pixels: NDArray[np.uint8], labels: NDArray[np.int64], settings: TrainingSettings, steps: int, trace: Path
) -> str:
    """Train for two short epochs and write the trace of the second one, complete or not at all.

    Args:
        pixels: (N, H, W), images to train on; taken again from the first where there are too few.
        labels: (N,), their classes.
        settings: how to train; one device, and no ImageNet weights, whatever they say.
        steps: steps to trace.
        trace: file to write, in Chrome's trace format (JSON).

    Returns:
        The operations that took longest, as a table.
    """
    short = settings.replaced(epochs=2, devices=1, pretrained=False)
    chosen = np.arange(steps * short.batch_size) % len(pixels)
    data = _data(pixels, labels, chosen, short)
    torch.manual_seed(short.seed)
    network = _NamedNetwork(build(ARCHITECTURE, short.channels, int(labels.max()) + 1, pretrained=False))
    traced = _Traced()
    with tempfile.TemporaryDirectory(prefix="captcha-assets-") as work:
        trainer = make_trainer(short, Path(work), lambda _: None, callbacks=[traced])
        trainer.fit(Classifier(network, short), datamodule=data)
    with replacing(trace) as part:
        traced.profiler.export_chrome_trace(str(part))
    return _table(traced.profiler, on_gpu=trainer.strategy.root_device.type == "cuda")


def _data(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    chosen: NDArray[np.int64],
    settings: TrainingSettings,
) -> SplitData:
    def images(indices: NDArray[np.int64]) -> Images:
        return Images(torch.from_numpy(pixels[indices])[:, None], torch.from_numpy(labels[indices]))

    augmentation = _NamedAugmentation(**asdict(Augmentation.of(settings)))
    train = TrainImages(images(chosen), augmentation, Normalisation.of(pixels))
    return SplitData(train, images(chosen[:256]), settings)


def _table(profiler: torch.profiler.profile, *, on_gpu: bool) -> str:
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=order, row_limit=_ROWS, max_name_column_width=45)
    return table
