"""The network under training: loss, optimizer, and metrics that leave the device once an epoch."""

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F  # noqa: N812
from timm.optim._param_groups import param_groups_weight_decay
from torch import Tensor, nn

from captcha_assets.training.config import TrainingSettings

Batch = tuple[Tensor, Tensor]


class NotFiniteError(RuntimeError):
    """A training whose loss is no number any more."""


class Classifier(pl.LightningModule):
    """Trains every layer of `network` with Nesterov SGD on a one-cycle schedule.

    Args:
        network: normalised images (N, 1, H, W) to logits (N, classes).
        settings: how to train.
    """

    sums: Tensor

    def __init__(self, network: nn.Module, settings: TrainingSettings) -> None:
        super().__init__()
        self.network = network
        self.settings = settings
        self.history: list[dict[str, Any]] = []
        # Rows: training, validation. Columns: loss, right answers, images.
        self.register_buffer("sums", torch.zeros(2, 3, dtype=torch.float64), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised images (N, 1, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: Batch) -> Tensor:
        """Return the loss of one batch."""
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        self._count(0, loss.detach() * len(labels), logits.detach(), labels)
        return loss

    def validation_step(self, batch: Batch) -> None:
        """Count one batch."""
        images, labels = batch
        logits = self.network(images)
        self._count(1, F.cross_entropy(logits, labels, reduction="sum"), logits, labels)

    def _count(self, row: int, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        right = (logits.argmax(1) == labels).sum()
        self.sums[row, 0] += loss
        self.sums[row, 1] += right
        self.sums[row, 2] += len(labels)

    def on_train_epoch_start(self) -> None:
        """Count from zero."""
        self.sums.zero_()

    def on_validation_epoch_end(self) -> None:
        """Fetch the epoch's sums from the device, once, and note what they say: validation ends an epoch.

        Raises:
            NotFiniteError: the loss is no number.
        """
        sums = self.trainer.strategy.reduce(self.sums.clone(), reduce_op="sum").cpu()
        if not torch.isfinite(sums).all():
            raise NotFiniteError(
                f"the loss is no number any more in epoch {self.current_epoch + 1}: lower learning_rate "
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
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            chosen.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=chosen.warmup,
            cycle_momentum=False,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the history beside the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the history up again."""
        self.history = list(checkpoint["history"])
