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
    # A model that is right about all of a few images is not right for ever: without the one mistake that
    # the rule of succession expects, its temperature would go to zero and its probabilities to one.
    doubt = 1 / (len(labels) + 2)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_temperature.exp(), labels, label_smoothing=doubt)
        loss.backward()
        return float(loss.detach())

    with torch.enable_grad():
        optimizer.step(closure)
    return round(float(log_temperature.detach().exp().clamp(0.05, 20)), 6)
