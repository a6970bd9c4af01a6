"""Predictions as a service would log them."""

import hashlib
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from captcha_assets.dataset import CAPTCHA
from captcha_assets.serving.prediction_log import Prediction

DAY = datetime(2026, 11, 28, tzinfo=UTC)


def prediction(number: int, **changes: Any) -> Prediction:
    """Return the prediction of a number: always the same one."""
    chance = random.Random(number)
    weights = [chance.random() for _ in CAPTCHA.classes]
    probabilities = tuple(weight / sum(weights) for weight in weights)
    score = max(probabilities)
    image = chance.randbytes(300)
    facts = {
        "inference_id": f"id-{number}",
        "time": DAY + timedelta(seconds=number),
        "model_name": "resnet18",
        "model_version": "20261128-1",
        "model_digest": "0123456789abcdef" * 4,
        "image": image,
        "image_hash": hashlib.sha256(image).hexdigest(),
        "label": CAPTCHA.classes[probabilities.index(score)],
        "score": score,
        "classes": CAPTCHA.classes,
        "probabilities": probabilities,
        "statistics": {
            "brightness": 255 * chance.random(),
            "contrast": chance.random(),
            "foreground_fraction": 0.25,
        },
        "status": 200,
        "queue_seconds": chance.random(),
        "compute_seconds": chance.random(),
        "batch_size": chance.randrange(1, 33),
    }
    return Prediction(**{**facts, **changes})
