"""The names and descriptions of the criteria of a promotion. Light to import."""

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
    "calibration": "The candidate's calibration error is within the limit, or not above the champion's.",
    "above_chance": "The candidate is better than guessing: Wilson's interval of its accuracy lies above the "
    "share of the most common class of the test split.",
    "onnx_parity": "The exported candidate gives the same classes and probabilities as the candidate itself.",
    "latency": "The exported candidate predicts one image within the time limit, or as fast as the champion.",
}


@dataclass(frozen=True)
class Criterion:
    """One criterion of a promotion: whether it is met, its figures, and the same in words."""

    name: str
    passed: bool
    figures: Mapping[str, Any]
    words: str
