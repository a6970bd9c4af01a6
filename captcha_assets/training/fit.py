"""The training itself: `setup`, `fit` and `save`, in this order; `train` is the three."""

import os
import shutil
import zipfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from captcha_assets.images.reader import ReaderError, SplitImages, read_split
from captcha_assets.models import folder as model_folder
from captcha_assets.models.folder import ModelConfig
from captcha_assets.models.network import ARCHITECTURE, PretrainedWeightsError, build, imagenet_normalisation
from captcha_assets.models.predictor import channels_first
from captcha_assets.training.augment import Augmentation
from captcha_assets.training.calibration import fit_temperature
from captcha_assets.training.config import TrainingError, TrainingJob, TrainingSettings
from captcha_assets.training.data import EvaluationLoader, Images, Normalisation, TrainImages
from captcha_assets.training.loggers import loggers
from captcha_assets.training.module import Classifier, NotFiniteError
from captcha_assets.training.trainer import (
    Report,
    SplitData,
    evaluation_batch_size,
    make_trainer,
    trains_on_gpu,
)

_PACKAGES = ("numpy", "pytorch-lightning", "safetensors", "timm", "torch")


@dataclass(frozen=True)
class Setup:
    """A training that is ready to start."""

    job: TrainingJob
    module: Classifier
    data: SplitData
    trainer: pl.Trainer
    classes: tuple[str, ...]
    resumes: bool
    """Whether the training continues from its last checkpoint."""


@dataclass(frozen=True)
class Trained:
    """What a training ends with."""

    model_id: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Stopped:
    """What a training ends with that was below a pruning threshold of its job: no model."""

    history: list[dict[str, Any]]


def _images(job: TrainingJob, split: str) -> SplitImages:
    images = read_split(
        job.tables, job.splits, split, job.settings.sample_size, classes=job.classes, shape=job.image_shape
    )
    if len(images) < job.settings.devices:
        raise TrainingError(
            f"the {split} split has {len(images)} images (of {job.splits}, sample_size "
            f"{job.settings.sample_size}): add batches, or raise sample_size"
        )
    return images


def _tensors(images: SplitImages) -> Images:
    return Images(torch.from_numpy(channels_first(images.pixels)), torch.from_numpy(images.labels))


def _input_channels(job: TrainingJob) -> int:
    return 1 if len(job.image_shape) == 2 else job.image_shape[2]


def _use_cores(settings: TrainingSettings) -> None:
    """Set the number of threads: the cores that this process may use, shared by its CPU devices."""
    _check_devices(settings)
    cores = len(os.sched_getaffinity(0)) // (settings.devices if settings.accelerator == "cpu" else 1)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores)))
    torch.set_float32_matmul_precision("high")


def _check_devices(settings: TrainingSettings) -> None:
    there = torch.cuda.device_count()
    wanted = (
        settings.devices if settings.accelerator == "gpu" or (there and settings.accelerator == "auto") else 0
    )
    if settings.accelerator == "gpu" and not there:
        raise TrainingError(
            "accelerator is gpu, but this machine has none that torch can use: set it to auto"
        )
    if wanted > there:
        raise TrainingError(f"devices is {wanted}, but this machine has {there} GPUs: lower it")


def _is_whole(checkpoint: Path) -> bool:
    """Say whether a checkpoint is undamaged, by the checksums that torch writes into it."""
    try:
        with zipfile.ZipFile(checkpoint) as file:
            return file.testzip() is None
    except (zipfile.BadZipFile, OSError):
        return False


def _stamp(job: TrainingJob) -> Path:
    """The file that says which job the checkpoints beside it belong to."""
    return job.checkpoints / "job"


def _resumes(job: TrainingJob, report: Report) -> bool:
    """Say whether there is a checkpoint that this very job can continue from; change nothing.

    Each of several processes calls it, and nothing is changed before all have.
    """
    stamp, last = _stamp(job), job.last_checkpoint
    ours = stamp.is_file() and stamp.read_text() == job.fingerprint
    if ours and last.exists() and _is_whole(last):
        report(f"resuming from {last}")
        return True
    if last.exists():
        report(f"{last} is {'damaged' if ours else 'of another job'}: starting from the first epoch")
    return False


class _DiscardCheckpoint(Callback):
    """Removes the checkpoint that is not resumed: one process does it, while the others wait at a barrier.

    Lightning calls `setup` between two barriers: before the first, every process has called `_resumes`;
    after the second, the first checkpoint may be written.
    """

    def __init__(self, job: TrainingJob) -> None:
        self._job = job

    def setup(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        if trainer.is_global_zero:
            self._job.last_checkpoint.unlink(missing_ok=True)
            self._job.checkpoints.mkdir(parents=True, exist_ok=True)
            _stamp(self._job).write_text(self._job.fingerprint)


def setup(job: TrainingJob, report: Report = print) -> Setup:
    """Read the images, build the network, prepare the trainer.

    Args:
        job: what to train on what.
        report: called with a line of progress.

    Raises:
        TrainingError: a split is empty, or a device is missing.
        ReaderError: the tables are missing or damaged.
        PretrainedWeightsError: ImageNet weights were asked for and cannot be fetched.
    """
    settings = job.settings
    _use_cores(settings)
    train, validation = _images(job, "train"), _images(job, "validation")
    report(f"{len(train)} training and {len(validation)} validation images, {len(train.classes)} classes")
    if settings.devices > 1 and not trains_on_gpu(settings):
        report("batch normalization: each CPU process uses its own part of the mini-batch")
    resumes = _resumes(job, report)
    torch.manual_seed(settings.seed)
    inputs, begins = _input_channels(job), settings.pretrained and not resumes
    network = build(ARCHITECTURE, settings.channels, len(train.classes), inputs, pretrained=begins)
    measured = imagenet_normalisation(network) if settings.pretrained else None
    normalisation = Normalisation(*measured) if measured else Normalisation.of(train.pixels)
    images = TrainImages(_tensors(train), Augmentation.of(settings), normalisation)
    data = SplitData(images, _tensors(validation), settings)
    module = Classifier(network, settings)
    callbacks = [] if resumes else [_DiscardCheckpoint(job)]
    trainer = make_trainer(
        settings,
        job.checkpoints,
        report,
        pruning_thresholds=job.pruning_thresholds,
        callbacks=callbacks,
        loggers=loggers(job, report),
    )
    return Setup(job, module, data, trainer, train.classes, resumes)


def _advice(error: Exception, job: TrainingJob) -> str | None:
    """Return a message with advice on an error of the training, or None where the error is a defect."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    kept = job.kept
    if isinstance(error, NotFiniteError):
        return f"{text}; {kept}"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in text:
        return f"out of memory with batch_size={job.settings.batch_size}: halve it ({text}); {kept}"
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text:
        return f"the device was lost ({text}): start the training again and it resumes; {kept}"
    return None


def fit(ready: Setup) -> None:
    """Train to the last epoch, from the last checkpoint if there is one.

    Raises:
        NotFiniteError: the loss is NaN or infinite.
    """
    last = ready.job.last_checkpoint if ready.resumes else None
    ready.trainer.fit(ready.module, datamodule=ready.data, ckpt_path=last, weights_only=True)


@torch.inference_mode()
def _logits(network: nn.Module, loader: EvaluationLoader) -> Tensor:
    return torch.cat([network(images).float() for images, _ in loader]).cpu()


def _measure(ready: Setup) -> tuple[float, dict[str, Any]]:
    """Fit the temperature on the validation split and return it with the metrics of the whole training."""
    device = ready.trainer.strategy.root_device
    images = ready.data.validation.to(device)
    size = evaluation_batch_size(ready.job.settings)
    loader = EvaluationLoader(images, ready.data.train.normalisation, size)
    logits, labels = _logits(ready.module.network.to(device).eval(), loader), ready.data.validation.labels
    temperature = fit_temperature(logits, labels)
    return temperature, {
        "validation_accuracy": float((logits.argmax(1) == labels).double().mean()),
        "validation_loss": float(F.cross_entropy(logits.double() / temperature, labels)),
        "temperature": temperature,
        "epochs": len(ready.module.history),
        "train_images": len(ready.data.train),
        "validation_images": len(labels),
    }


def _config(ready: Setup, temperature: float) -> ModelConfig:
    job, normalisation = ready.job, ready.data.train.normalisation
    height, width = ready.data.train.images.pixels.shape[-2:]
    return ModelConfig(
        architecture=ARCHITECTURE,
        channels=job.settings.channels,
        classes=ready.classes,
        input_size=(height, width),
        input_channels=_input_channels(job),
        mean=normalisation.mean,
        std=normalisation.std,
        temperature=temperature,
        seed=job.settings.seed,
        splits_version=job.splits_version,
        code_version=job.code_version,
        settings=job.settings.model_dump(),
        packages={name: version(name) for name in _PACKAGES},
        # Sums of floats depend on how many threads share them: needed to train the very same model again.
        provenance={
            "device": ready.trainer.strategy.root_device.type,
            "threads": torch.get_num_threads(),
            "job": job.fingerprint,
            **job.provenance,
        },
    )


def save(ready: Setup) -> Trained:
    """Fit the temperature, write the model folder, and remove the checkpoints."""
    temperature, metrics = _measure(ready)
    config = _config(ready, temperature)
    name = model_folder.save(ready.job.output, ready.module.network, config, ready.module.history, metrics)
    shutil.rmtree(ready.job.checkpoints, ignore_errors=True)
    return Trained(name, metrics)


def _end(ready: Setup) -> Trained | Stopped:
    if len(ready.module.history) == ready.job.settings.epochs:
        return save(ready)
    shutil.rmtree(ready.job.checkpoints, ignore_errors=True)
    return Stopped(ready.module.history)


def train(job: TrainingJob, report: Report = print) -> Trained | Stopped | None:
    """Train a model and write its folder: what the training process does.

    The model is the one of the last epoch: the schedule ends with a learning rate of zero, and choosing
    the best epoch by the validation split would make its metrics, and the temperature, too optimistic.

    Returns:
        The model's id and metrics; the history alone where the training was below a pruning threshold;
        None in the processes of a distributed training that write no model.

    Raises:
        TrainingError: the tables are damaged, a split is empty, ImageNet weights cannot be had, a device
            is missing or lost, the memory does not suffice, or the loss is NaN or infinite; the message says
            what to do.
    """
    try:
        ready = setup(job, report)
        fit(ready)
        return _end(ready) if ready.trainer.is_global_zero else None
    except TrainingError:
        raise
    except (ReaderError, PretrainedWeightsError) as error:
        raise TrainingError(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        advice = _advice(error, job)
        if advice is None:
            raise
        raise TrainingError(advice) from error
