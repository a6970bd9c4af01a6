"""What a promotion is decided on: the names of the criteria. Light to import."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Every criterion of a promotion, and what it asks for.
CRITERIA = {
    "non_inferiority": "The candidate's accuracy is not lower than the champion's by the margin or more "
    "(Tango's interval of the paired difference).",
    "reason_to_change": "The candidate is more accurate than the champion (the interval lies above 0), or "
    "was trained on newer data.",
    "class_recall": "The recall of no class falls beyond chance (McNemar's exact test, with Holm's "
    "correction for the number of classes).",
    "calibration": "The candidate's probabilities mean what they say, or as much as the champion's do.",
    "onnx_parity": "The exported candidate says the same as the candidate itself.",
    "latency": "The exported candidate answers for one image in time, or as fast as the champion.",
}


@dataclass(frozen=True)
class Criterion:
    """One condition of a promotion: whether it holds, the figures that say so, and the same in words."""

    name: str
    passed: bool
    figures: Mapping[str, Any]
    words: str
