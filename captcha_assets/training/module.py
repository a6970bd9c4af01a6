"""The network under training: loss, optimizer, and metrics that leave the device once an epoch."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from captcha_assets.training.config import TrainingSettings
from captcha_assets.training.data import TrainImages

Batch = tuple[Tensor, Tensor]


class NotFiniteError(RuntimeError):
    """A training whose loss is NaN or infinite."""


class Classifier(pl.LightningModule):
    """Trains every layer of `network` with Nesterov SGD on a one-cycle schedule.

    Args:
        network: normalised images (N, channels, H, W) to logits (N, classes).
        settings: how to train.
        images: what to learn from; moved to the device when the training begins.
        steps: optimizer steps of the whole training.
    """

    def __init__(
        self, network: nn.Module, settings: TrainingSettings, images: TrainImages, steps: int
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.settings = settings
        self.images = images
        self.steps = steps
        self.history: list[dict[str, Any]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised images (N, channels, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def on_fit_start(self) -> None:
        """Take the images to the device, once."""
        self.images = self.images.to(self.device)
        # Rows: training, validation. Columns: loss, right answers, images. No buffer: of several processes
        # each has its own sums, and buffers are made the same in all.
        self._sums = torch.zeros(2, 3, dtype=torch.float64, device=self.device)

    def training_step(self, stretch: tuple[Tensor, Tensor]) -> None:
        """Take one optimizer step after the other; nothing leaves the device."""
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
        for places, changes in zip(*stretch, strict=True):
            self._learn(places, changes, optimizer)
            schedule.step()

    def _learn(self, places: Tensor, changes: Tensor, optimizer: torch.optim.Optimizer) -> None:
        images, labels = self.images.batch(places, changes)
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self._count(0, loss.detach() * len(labels), logits.detach(), labels)

    def validation_step(self, batch: Batch) -> None:
        """Count one batch."""
        images, labels = batch
        logits = self.network(images)
        self._count(1, F.cross_entropy(logits, labels, reduction="sum"), logits, labels)

    def _count(self, row: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        right = (logits.argmax(1) == labels).sum()
        self._sums[row, 0] += loss
        self._sums[row, 1] += right
        self._sums[row, 2] += len(labels)

    def on_train_epoch_start(self) -> None:
        """Count from zero."""
        self._sums.zero_()

    def on_validation_epoch_end(self) -> None:
        """Fetch the epoch's sums from the device, once, and note what they say: validation ends an epoch.

        Raises:
            NotFiniteError: the loss is NaN or infinite.
        """
        sums = self.trainer.strategy.reduce(self._sums.clone(), reduce_op="sum").cpu()
        if not torch.isfinite(sums).all():
            raise NotFiniteError(
                f"the loss is NaN or infinite in epoch {self.current_epoch + 1}: lower learning_rate "
                f"(now {self.settings.learning_rate})"
            )
        (loss, right, count), (validation_loss, validation_right, validation_count) = sums.tolist()
        metrics = {
            "train_loss": loss / count,
            "train_accuracy": right / count,
            "validation_loss": validation_loss / validation_count,
            "validation_accuracy": validation_right / validation_count,
        }
        self.log_dict(metrics, sync_dist=True)
        self.history.append({"epoch": self.current_epoch + 1, **metrics})

    def configure_optimizers(self) -> Any:
        """Nesterov SGD on a one-cycle schedule; norms and biases do not decay."""
        chosen = self.settings
        groups = param_groups_weight_decay(self.network, chosen.weight_decay)
        optimizer = torch.optim.SGD(
            groups, chosen.learning_rate, chosen.momentum, nesterov=chosen.momentum > 0
        )
        return [optimizer], [one_cycle(optimizer, chosen, self.steps)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history beside the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up again."""
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
