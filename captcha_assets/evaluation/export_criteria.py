"""The criteria that are measured on exports: that they say what the models say, and how fast they are."""

import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress

import numpy as np

from captcha_assets.atomic_files import fetched
from captcha_assets.evaluation.criterion_descriptions import Criterion
from captcha_assets.evaluation.formatting import percent
from captcha_assets.models.manifest import ModelFolderError, read_json
from captcha_assets.models.onnx_export import Parity
from captcha_assets.models.predictor import OnnxPredictor
from captcha_assets.paths import Paths


class NotExportedError(RuntimeError):
    """A model has no export; the message says what to materialize first."""


def parity(paths: Paths, model_id: str) -> Criterion:
    """Return whether the export gives the answers of the model, as it was found when it was exported.

    Raises:
        NotExportedError: there is no record of it.
    """
    path = paths.onnx_model(model_id) / "parity.json"
    if not path.exists():
        raise NotExportedError(f"the candidate {model_id} is not exported: materialize onnx_model first")
    with fetched(path) as local:
        found = Parity(**read_json(local))
    figures = {"agreement": found.agreement, "largest difference": found.max_abs_difference}
    words = f"the export agrees on {percent(found.agreement, 2)} of {found.images:,} images"
    return Criterion("onnx_parity", found.passed, figures, words)


def latency(paths: Paths, model_id: str, champion: str | None, limit: float) -> Criterion:
    """Return whether the export predicts one image within the limit, or as fast as the champion's.

    Args:
        paths: where the exports lie.
        model_id: the model.
        champion: the id of the champion, where a model may be as slow as that.
        limit: longest median CPU time for one image, in ms.

    Raises:
        ModelFolderError: the export is missing or damaged.
    """
    with ExitStack() as stack:
        predictors = {model_id: _exported(paths, stack, model_id)}
        if champion:
            # A champion that cannot be opened does not block a candidate.
            with suppress(ModelFolderError, OSError):
                predictors[champion] = _exported(paths, stack, champion)
        times = _median_times(predictors)
    new, old = times[model_id], times.get(champion) if champion else None
    passed = new <= max(limit, old or 0)
    words = f"{new:.3g} ms for one image, {limit:g} ms are allowed"
    figures = {"candidate": new, "limit": limit} | ({"champion": old} if old else {})
    return Criterion("latency", passed, figures, f"{words} (champion {old:.3g} ms)" if old else words)


def _exported(paths: Paths, stack: ExitStack, model_id: str) -> OnnxPredictor:
    return OnnxPredictor(stack.enter_context(fetched(paths.onnx_model(model_id))), threads=1)


def _median_times(predictors: Mapping[str, OnnxPredictor], rounds: int = 50) -> dict[str, float]:
    """Median time of the exported models for one image, in ms, measured in turns on one thread.

    The processor's time: a machine that is busy otherwise is no reason not to promote a model.
    """
    times: dict[str, list[float]] = {model: [] for model in predictors}
    for _ in range(rounds):
        for model, predictor in predictors.items():
            image = np.zeros((1, *predictor.config.image_shape), np.uint8)
            began = time.process_time()
            predictor.predict(image)
            times[model].append(1000 * (time.process_time() - began))
    return {model: statistics.median(measured) for model, measured in times.items()}
