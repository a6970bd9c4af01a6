"""Lightning's part: where the data goes, what is kept of every epoch, what is told."""

import io
import logging
import signal
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.strategies.launchers import subprocess_script
from pytorch_lightning.trainer.connectors import checkpoint_connector

from captcha_assets.storage import replacing
from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.data import EvalBatches, Images, Share, TrainImages, TrainPlan
from captcha_assets.training.module import Classifier
from captcha_assets.training.together import SharedBatchNorms

Report = Callable[[str], None]


class SplitData(pl.LightningDataModule):
    """The order of the training images, and the validation images, on the device that the trainer chose."""

    def __init__(self, train: TrainImages, validation: Images, settings: TrainingSettings) -> None:
        super().__init__()
        self.train, self.validation, self.settings = train, validation, settings

    @property
    def batch_size(self) -> int:
        """Images a step, over all devices together: fewer than asked for where there are not so many."""
        devices = self.settings.devices
        return min(self.settings.batch_size, len(self.train)) // devices * devices

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole training."""
        return len(self.train) // self.batch_size * self.settings.epochs

    def _place(self) -> tuple[pl.Trainer, torch.device, Share]:
        assert self.trainer is not None
        share = Share(self.trainer.global_rank, self.trainer.world_size)
        return self.trainer, self.trainer.strategy.root_device, share

    def train_dataloader(self) -> TrainPlan:
        """Return what the steps of an epoch look at, on the trainer's device."""
        trainer, device, share = self._place()
        seed, epoch = self.settings.seed, lambda: trainer.current_epoch
        return TrainPlan(len(self.train), self.batch_size, seed, epoch, device, share)

    def val_dataloader(self) -> EvalBatches:
        """Return the validation images, on the trainer's device."""
        _, device, share = self._place()
        size = eval_batch_size(self.settings)
        return EvalBatches(self.validation.to(device), self.train.normalisation, size, share)


def eval_batch_size(settings: TrainingSettings) -> int:
    """Return how many images are looked at together where nothing is learnt."""
    return max(settings.batch_size, 256)


class _AtomicFiles(TorchCheckpointIO):
    """Checkpoints that are complete or absent: written beside their place, then renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:  # noqa: ARG002
        content = io.BytesIO()
        torch.save(checkpoint, content)
        # torch, writing the file itself, would not say that the disk is full.
        with replacing(Path(path)) as part:
            part.write_bytes(content.getbuffer())


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
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}: "
            f"{(arguments[-1] + 1) / trainer.num_training_batches:.0%} done"
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        last, seconds = pl_module.history[-1], time.monotonic() - self._began
        plan = trainer.train_dataloader
        assert isinstance(plan, TrainPlan)
        images = plan.steps * plan.batch_size
        self._report(
            f"epoch {last['epoch']}/{trainer.max_epochs}: loss {last['train_loss']:.4f}, validation loss "
            f"{last['validation_loss']:.4f}, validation accuracy {last['validation_accuracy']:.4f} "
            f"({seconds:.1f} s, {images / seconds:.0f} images/s)"
        )


class _Hurdles(Callback):
    """Ends a training that has not reached what it must have reached by now."""

    def __init__(self, hurdles: Mapping[int, float], report: Report) -> None:
        self._hurdles, self._report = hurdles, report

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        best = max(entry["validation_accuracy"] for entry in pl_module.history)
        epoch = pl_module.history[-1]["epoch"]
        if best < self._hurdles.get(epoch, 0):
            self._report(f"stopped after epoch {epoch}: {best:.4f} is below {self._hurdles[epoch]:.4f}")
            trainer.should_stop = True


class _Keep(Checkpoint):
    """Keeps a checkpoint of the last finished epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self._path)


class _OurSignals(Callback):
    """Lets the process's own handlers be called, not Lightning's, which wait for the step or for others."""

    def __init__(self) -> None:
        self._handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_start(self, *_: Any) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


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


def make_trainer(
    settings: TrainingSettings,
    checkpoints: Path,
    report: Report,
    hurdles: Mapping[int, float] | None = None,
    more: Sequence[Callback] = (),
) -> pl.Trainer:
    """Return a trainer that keeps a checkpoint of every finished epoch in `checkpoints`.

    Args:
        settings: how to train.
        checkpoints: folder of work in progress.
        report: called with a line whenever there is something to tell.
        hurdles: the validation accuracy that must be reached by the end of an epoch.
        more: callbacks to be called too.
    """
    _tame()
    gpu = settings.accelerator != "cpu" and torch.cuda.is_available()
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=settings.devices,
        strategy="ddp" if settings.devices > 1 else "auto",
        precision=_precision(settings),
        max_epochs=settings.epochs,
        callbacks=[
            _Progress(report),
            _Hurdles(hurdles or {}, report),
            _Keep(checkpoints / "last.ckpt"),
            _OurSignals(),
            *more,
        ],
        plugins=[_AtomicFiles(), SharedBatchNorms()] if settings.devices > 1 else [_AtomicFiles()],
        benchmark=gpu,
        default_root_dir=checkpoints,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
