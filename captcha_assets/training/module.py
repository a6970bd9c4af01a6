"""The Lightning module: loss, optimizer, and metrics that leave the device once an epoch."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn
from torchmetrics import Metric

from captcha_assets.training.config import TrainingSettings

MiniBatch = tuple[Tensor, Tensor]


class NotFiniteError(RuntimeError):
    """A training whose loss is NaN or infinite."""


class LossAndAccuracy(Metric):
    """Mean loss and accuracy of an epoch, summed on the device, over all processes."""

    sums: Tensor
    """float64 (3,): sum of the losses, number of right predictions, number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a mini-batch: its mean loss, its logits (B, classes), and its labels (B,)."""
        right = (logits.argmax(1) == labels).sum()
        self.sums[0] += loss * len(labels)
        self.sums[1] += right
        self.sums[2] += len(labels)

    def compute(self) -> tuple[float, float]:
        """Return the mean loss and the accuracy; the one transfer from the device."""
        loss, right, count = self.sums.tolist()
        return loss / count, right / count


class Classifier(pl.LightningModule):
    """Trains every layer of `network` with Nesterov SGD on a one-cycle schedule.

    Args:
        network: normalised images (N, channels, H, W) to logits (N, classes).
        settings: how to train.
    """

    def __init__(self, network: nn.Module, settings: TrainingSettings) -> None:
        super().__init__()
        self.save_hyperparameters(settings.model_dump())
        self.network = network
        self.settings = settings
        self.train_metrics = LossAndAccuracy()
        self.validation_metrics = LossAndAccuracy()
        self.history: list[dict[str, Any]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised images (N, channels, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: MiniBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the loss of a mini-batch."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        self.train_metrics.update(loss.detach(), logits.detach(), labels)
        return loss

    def validation_step(self, batch: MiniBatch, batch_idx: int) -> None:  # noqa: ARG002
        """Add a mini-batch to the validation metrics."""
        images, labels = batch
        if not len(labels):  # several processes share the last mini-batch, and it may have fewer images
            return
        logits = self(images)
        self.validation_metrics.update(F.cross_entropy(logits, labels), logits, labels)

    def on_train_start(self) -> None:
        """Log the epochs of a resumed training again: to the loggers, each start is a run of its own."""
        for entry in self.history:
            metrics = {name: value for name, value in entry.items() if name != "epoch"}
            for logger in self.loggers:
                logger.log_metrics(metrics, step=entry["epoch"])

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the epoch, once; validation ends an epoch.

        Raises:
            NotFiniteError: the loss is NaN or infinite.
        """
        epoch = self.current_epoch + 1
        train_loss, train_accuracy = self.train_metrics.compute()
        validation_loss, validation_accuracy = self.validation_metrics.compute()
        if not math.isfinite(train_loss + validation_loss):
            raise NotFiniteError(
                f"the loss is NaN or infinite in epoch {epoch}: lower learning_rate "
                f"(now {self.settings.learning_rate})"
            )
        metrics = {
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "validation_loss": validation_loss,
            "validation_accuracy": validation_accuracy,
        }
        self.train_metrics.reset()
        self.validation_metrics.reset()
        # The loggers take the metric "step" as their x-axis.
        self.log_dict({**metrics, "step": float(epoch)}, sync_dist=True)
        self.history.append({"epoch": epoch, **metrics})

    def configure_optimizers(self) -> Any:
        """Return Nesterov SGD on a one-cycle schedule; norms and biases do not decay."""
        settings = self.settings
        groups = param_groups_weight_decay(self.network, settings.weight_decay)
        optimizer = torch.optim.SGD(
            groups, settings.learning_rate, settings.momentum, nesterov=settings.momentum > 0
        )
        schedule = one_cycle(optimizer, settings, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the history beside the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history."""
        self.history = list(checkpoint["history"])


def one_cycle(
    optimizer: torch.optim.Optimizer, settings: TrainingSettings, steps: int
) -> torch.optim.lr_scheduler.OneCycleLR:
    """Return the one-cycle schedule of a training of `steps` steps, however few.

    The schedule of torch ends with a learning rate of nearly zero, so a single step gets the first of a
    schedule of two; and it divides by zero where the warm-up is one step, which is no warm-up.
    """
    total = max(steps, 2)
    warmup = settings.warmup if settings.warmup * steps > 1 else 0.0
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=total, pct_start=warmup, cycle_momentum=False
    )
