"""What a promotion is decided on: the names of the clauses. Light to import."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Every clause of a promotion, and what it asks for.
CLAUSES = {
    "accuracy": "The candidate's accuracy is not lower than the champion's beyond chance (McNemar's test).",
    "class_recall": "The recall of no class falls by more than the limit.",
    "calibration": "The candidate's probabilities mean what they say, or as much as the champion's do.",
    "onnx_parity": "The exported candidate says the same as the candidate itself.",
    "latency": "The exported candidate answers for one image in time, or as fast as the champion.",
}


@dataclass(frozen=True)
class Clause:
    """One condition of a promotion: whether it holds, the figures that say so, and the same in words."""

    name: str
    passed: bool
    figures: Mapping[str, Any]
    words: str
