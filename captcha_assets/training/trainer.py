"""Lightning's part: where the data goes, what is kept of every epoch, what is told."""

import logging
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.strategies.launchers import subprocess_script
from pytorch_lightning.trainer.connectors import checkpoint_connector

from captcha_assets.storage import sync
from captcha_assets.training.augment import Augmentation
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.data import EvalBatches, Images, Normalisation, Share, TrainBatches
from captcha_assets.training.module import Classifier
from captcha_assets.training.together import SharedBatchNorms

Report = Callable[[str], None]

_LAST = "last"


class SplitData(pl.LightningDataModule):
    """Training and validation images, moved to the device as soon as the trainer knows which."""

    def __init__(
        self, train: Images, validation: Images, normalisation: Normalisation, settings: TrainingSettings
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.normalisation, self.settings = normalisation, settings

    def _here(self, images: Images) -> tuple[Images, Share]:
        assert self.trainer is not None
        share = Share(self.trainer.global_rank, self.trainer.world_size)
        return images.to(self.trainer.strategy.root_device), share

    def train_dataloader(self) -> TrainBatches:
        """Return the training images, to be shuffled and augmented every epoch."""
        trainer, chosen = self.trainer, self.settings
        assert trainer is not None
        images, share = self._here(self.train)
        size = min(chosen.batch_size, len(images)) // share.of * share.of
        augmentation = Augmentation.of(chosen)
        return TrainBatches(
            images, augmentation, self.normalisation, size, chosen.seed, lambda: trainer.current_epoch, share
        )

    def val_dataloader(self) -> EvalBatches:
        """Return the validation images."""
        images, share = self._here(self.validation)
        return EvalBatches(images, self.normalisation, eval_batch_size(self.settings), share)


def eval_batch_size(settings: TrainingSettings) -> int:
    """Return how many images are looked at together where nothing is learnt."""
    return max(settings.batch_size, 256)


class _AtomicFiles(TorchCheckpointIO):
    """Checkpoints that are complete or absent: written beside their place, then renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(".part")
        torch.save(checkpoint, part)
        sync(part)
        part.replace(target)


class _Progress(Callback):
    """Tells how far the training is: after every epoch, and every half minute within one."""

    def __init__(self, report: Report, every: float = 30) -> None:
        self._report, self._every = report, every
        self._began = self._told = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._began = self._told = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, *arguments: Any) -> None:
        if time.monotonic() - self._told < self._every:
            return
        self._told = time.monotonic()
        self._report(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: step {arguments[-1] + 1} of "
            f"{trainer.num_training_batches}"
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        last, seconds = pl_module.history[-1], time.monotonic() - self._began
        batches = trainer.train_dataloader
        assert isinstance(batches, TrainBatches)
        images = len(batches) * batches.batch_size
        self._report(
            f"epoch {last['epoch']}/{trainer.max_epochs}: loss {last['train_loss']:.4f}, validation loss "
            f"{last['validation_loss']:.4f}, validation accuracy {last['validation_accuracy']:.4f} "
            f"({seconds:.1f} s, {images / seconds:.0f} images/s)"
        )


class _OurSignals(Callback):
    """Lets the process's own handlers be called, not Lightning's, which wait for the step or for others."""

    def __init__(self) -> None:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def checkpoint_in(folder: Path) -> Path:
    """Return where the last epoch's checkpoint lies, whether there is one or not."""
    return folder / f"{_LAST}.ckpt"


def _precision(settings: TrainingSettings) -> Any:
    """Return Lightning's name of the precision; bf16 only where the hardware has it natively."""
    if settings.precision != "auto":
        return settings.precision
    on_gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    native = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if native else "32-true"


def _tame() -> None:
    """Keep Lightning from what is meant for other ways of using it."""
    # Where omegaconf and hydra are installed, Lightning imports them to see whether they are in use. They
    # are not, and beside the antlr that Dagster needs they cannot be imported.
    vars(checkpoint_connector)["_OMEGACONF_AVAILABLE"] = False
    vars(subprocess_script)["_HYDRA_AVAILABLE"] = False
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")


def make_trainer(settings: TrainingSettings, checkpoints: Path, report: Report) -> pl.Trainer:
    """Return a trainer that keeps a checkpoint of every finished epoch in `checkpoints`."""
    _tame()
    gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    keep = ModelCheckpoint(
        checkpoints, _LAST, enable_version_counter=False, save_on_train_epoch_end=True, every_n_epochs=1
    )
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy="ddp" if settings.devices > 1 else "auto",
        precision=_precision(settings),
        max_epochs=settings.epochs,
        callbacks=[_Progress(report), keep, _OurSignals()],
        plugins=[_AtomicFiles(), SharedBatchNorms()] if settings.devices > 1 else [_AtomicFiles()],
        benchmark=gpu,
        default_root_dir=checkpoints,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
