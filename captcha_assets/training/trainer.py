"""The Lightning trainer: its data, its checkpoints, its progress lines."""

import io
import logging
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.core import saving
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies.launchers import subprocess_script
from pytorch_lightning.trainer.connectors import checkpoint_connector

from captcha_assets.atomic_files import replacing
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.data import (
    EvaluationLoader,
    Images,
    Share,
    TrainImages,
    TrainLoader,
    TrainSampler,
)
from captcha_assets.training.module import Classifier

Report = Callable[[str], None]


class SplitData(pl.LightningDataModule):
    """The training and validation images on the trainer's device."""

    def __init__(self, train: TrainImages, validation: Images, settings: TrainingSettings) -> None:
        super().__init__()
        self.train, self.validation, self.settings = train, validation, settings

    @property
    def batch_size(self) -> int:
        """Images of an optimizer step over all devices; fewer than configured where there are not so many."""
        devices = self.settings.devices
        return min(self.settings.batch_size, len(self.train)) // devices * devices

    def train_dataloader(self) -> TrainLoader:
        """Return the mini-batches of an epoch."""
        device, share = self._process()
        sampler = TrainSampler(len(self.train), self.batch_size, self.settings.seed, device, share)
        return TrainLoader(self.train.to(device), sampler)

    def val_dataloader(self) -> EvaluationLoader:
        """Return the mini-batches of the validation split."""
        device, share = self._process()
        size = evaluation_batch_size(self.settings)
        return EvaluationLoader(self.validation.to(device), self.train.normalisation, size, share)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ARG002
        """Return the mini-batch: it is gathered on the device."""
        return batch

    def _process(self) -> tuple[torch.device, Share]:
        assert self.trainer is not None
        return self.trainer.strategy.root_device, Share(self.trainer.global_rank, self.trainer.world_size)


def evaluation_batch_size(settings: TrainingSettings) -> int:
    """Return the number of images of a mini-batch in validation."""
    return max(settings.batch_size, 256)


class _AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are complete or absent: beside their path, then renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        content = io.BytesIO()
        torch.save(checkpoint, content)
        # torch, writing the file itself, would not say that the disk is full.
        with replacing(Path(path)) as part:
            part.write_bytes(content.getbuffer())


class _NoProfiler(Profiler):
    """Measures nothing. Lightning's default enters and leaves a generator about a hundred times a step."""

    def start(self, action_name: str) -> None:
        """Measure nothing."""

    def stop(self, action_name: str) -> None:
        """Measure nothing."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]  # noqa: ARG002
        """Return a context that does nothing."""
        return _NOTHING


_NOTHING = nullcontext()


class _Progress(Callback):
    """Reports progress: after every epoch, and every half minute within one."""

    def __init__(self, report: Report, every: float = 30) -> None:
        self._report, self._every = report, every
        self._epoch_start = self._last_report = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._epoch_start = self._last_report = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if time.monotonic() - self._last_report < self._every:
            return
        self._last_report = time.monotonic()
        self._report(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: "
            f"{(arguments[-1] + 1) / trainer.num_training_batches:.0%} done"
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        last, seconds = pl_module.history[-1], time.monotonic() - self._epoch_start
        loader = trainer.train_dataloader
        assert isinstance(loader, TrainLoader)
        images = len(loader) * loader.sampler.batch_size
        self._report(
            f"epoch {last['epoch']}/{trainer.max_epochs}: loss {last['train_loss']:.4f}, validation loss "
            f"{last['validation_loss']:.4f}, validation accuracy {last['validation_accuracy']:.4f} "
            f"({seconds:.1f} s, {images / seconds:.0f} images/s)"
        )


class _Pruning(Callback):
    """Stops a training that is below the pruning threshold of its epoch."""

    def __init__(self, thresholds: Mapping[int, float], report: Report) -> None:
        self._thresholds, self._report = thresholds, report

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        best = max(entry["validation_accuracy"] for entry in pl_module.history)
        epoch = pl_module.history[-1]["epoch"]
        if best < self._thresholds.get(epoch, 0):
            self._report(
                f"stopped after epoch {epoch}: accuracy {best:.4f} is below the pruning threshold "
                f"{self._thresholds[epoch]:.4f}"
            )
            trainer.should_stop = True


class _OwnSignalHandlers(Callback):
    """Restores the process's signal handlers; Lightning's wait for the end of a step."""

    def __init__(self) -> None:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def trains_on_gpu(settings: TrainingSettings) -> bool:
    """Say whether the trainer takes a GPU."""
    return settings.accelerator != "cpu" and torch.cuda.is_available()


def _precision(settings: TrainingSettings) -> Any:
    """Return Lightning's name of the precision; bf16 only where the hardware has it natively."""
    if settings.precision != "auto":
        return settings.precision
    native = trains_on_gpu(settings) and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if native else "32-true"


def _quiet_lightning() -> None:
    """Switch off what Lightning does and warns of for other ways of using it."""
    # Where omegaconf and hydra are installed, Lightning imports them to see whether they are in use. They
    # are not, and beside the antlr that Dagster needs they cannot be imported.
    for module in (checkpoint_connector, saving):
        vars(module)["_OMEGACONF_AVAILABLE"] = False
    vars(subprocess_script)["_HYDRA_AVAILABLE"] = False
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty.*")


def make_trainer(
    settings: TrainingSettings,
    checkpoints: Path,
    report: Report,
    *,
    pruning_thresholds: Mapping[int, float] | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
) -> pl.Trainer:
    """Return a trainer that writes `last.ckpt` to `checkpoints` after every epoch.

    Args:
        settings: how to train.
        checkpoints: folder of work in progress.
        report: called with a line of progress.
        pruning_thresholds: the validation accuracy that must be reached by the end of an epoch.
        callbacks: further callbacks.
        loggers: Lightning's loggers; they get the metrics once an epoch.
    """
    _quiet_lightning()
    on_gpu = trains_on_gpu(settings)
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy="ddp" if settings.devices > 1 else "auto",
        # torch's synchronized batch normalization needs GPUs.
        sync_batchnorm=settings.devices > 1 and on_gpu,
        precision=_precision(settings),
        max_epochs=settings.epochs,
        callbacks=[
            _Progress(report),
            _Pruning(pruning_thresholds or {}, report),
            _OwnSignalHandlers(),
            *callbacks,
            ModelCheckpoint(checkpoints, "last", save_on_train_epoch_end=True, enable_version_counter=False),
        ],
        plugins=[_AtomicCheckpointIO()],
        profiler=_NoProfiler(),
        benchmark=on_gpu,
        default_root_dir=checkpoints,
        logger=list(loggers),
        log_every_n_steps=0,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
