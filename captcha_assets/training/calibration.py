"""The temperature: what logits are divided by so that a probability of 0.9 is right nine times of ten."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature that makes the labels most likely, between 0.05 and 20.

    Args:
        logits: float (N, classes).
        labels: int64 (N,).
    """
    logits = logits.double()
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_temperature.exp(), labels)
        loss.backward()
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)
    # A model that is right about every image has no best temperature: it would go to zero.
    return round(float(log_temperature.detach().exp().clamp(0.05, 20)), 6)
