"""The champion that the service answers with, loaded and verified while the previous one still answers."""

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.decode import decode
from captcha_assets.models import registry
from captcha_assets.models.manifest import ModelFolderError, read_manifest
from captcha_assets.models.predictor import OnnxPredictor, spec_of_inputs
from captcha_assets.models.registry import Champion
from captcha_assets.storage import AnyPath, fetched

#: Sends an alert: a title, and lines of details.
Alert = Callable[[str, Sequence[str]], object]

#: Longest time between two tries to load a champion that could not be loaded, in seconds.
LONGEST_PAUSE = 30.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model; nothing of it changes."""

    name: str
    """Name of the data set."""
    version: str
    """Id of the model in the registry."""
    digest: str
    """SHA-256 of `model.onnx`."""
    predictor: OnnxPredictor
    spec: DatasetSpec
    """What its images look like."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Output *i* is the class `classes[i]`."""
        return self.predictor.config.classes

    def decode(self, image: bytes) -> NDArray[np.uint8]:
        """Return the pixels of an image file, as `captcha-assets predict` does.

        Raises:
            Rejection: the file cannot be used.
        """
        return decode(image, self.spec).pixels


def load_model(exports: AnyPath, model_id: str, spec: DatasetSpec, threads: int | None) -> ServedModel:
    """Load an exported model from a private copy whose hashes are verified, and try it.

    Args:
        exports: folder of the exports, `<model id>/` each.
        model_id: the model.
        spec: the data set that it reads.
        threads: threads of onnxruntime.

    Raises:
        ModelFolderError: there is no such export, or it is damaged.
    """
    if not (exports / model_id).exists():
        raise ModelFolderError(
            f"{exports / model_id} does not exist: run captcha-assets model export {model_id}"
        )
    with fetched(exports / model_id) as source, tempfile.TemporaryDirectory() as private:
        # What is verified is what is loaded, even if the folder is replaced meanwhile.
        folder = Path(shutil.copytree(source, Path(private, "model")))
        predictor = OnnxPredictor(folder, threads=threads)
        manifest = read_manifest(folder)
    if manifest.get("model_id") != model_id:
        raise ModelFolderError(f"{exports / model_id} holds another model: restore or export it again")
    model = ServedModel(
        name=spec.name,
        version=model_id,
        digest=manifest["files"]["model.onnx"],
        predictor=predictor,
        spec=spec_of_inputs(predictor.config, spec),
    )
    _try_out(model)
    return model


def _try_out(model: ServedModel) -> None:
    probabilities = model.predictor.predict(np.zeros((1, *model.spec.shape), np.uint8))
    if probabilities.shape != (1, len(model.classes)) or not abs(float(probabilities.sum()) - 1) < 1e-3:
        raise ModelFolderError(f"the export of {model.version} gives no probabilities: export it again")


class ChampionWatcher:
    """Keeps `current` the champion of the registry.

    A champion that cannot be loaded is reported once and tried again; the previous model keeps answering.

    Args:
        models: folder or address of the registry.
        exports: folder or address of the exports, `<model id>/` each.
        spec: the data set.
        alert: sends an alert.
        threads: threads of onnxruntime.
        interval: seconds between two reads of the registry.
    """

    def __init__(
        self,
        models: AnyPath,
        exports: AnyPath,
        spec: DatasetSpec,
        alert: Alert,
        *,
        threads: int | None = None,
        interval: float = 1.0,
    ) -> None:
        self.current: ServedModel | None = None
        self.problem: str | None = "the champion is being loaded"
        self._models, self._exports, self._spec = models, exports, spec
        self._alert, self._threads, self._interval = alert, threads, interval
        self._failed: tuple[Champion | None, int] = (None, 0)
        self._next_try = 0.0

    @property
    def name(self) -> str:
        """Name of the model, whichever version answers: that of the data set."""
        return self._spec.name

    async def watch(self) -> None:
        """Read the registry every `interval` seconds, until cancelled."""
        while True:
            # Whatever a store or a model raises, the service keeps answering and reads again.
            look = asyncio.ensure_future(asyncio.to_thread(self.look))
            await asyncio.wait({look})
            if error := look.exception():
                await asyncio.to_thread(self._report, None, error)
            await asyncio.sleep(self._interval)

    def look(self) -> None:
        """Read the registry once, and load the champion if it is another one."""
        champion = registry.champion(self._models)
        if champion is None:
            self.problem = "there is no champion yet; train one with: captcha-assets update"
        elif self.current and self.current.version == champion.model_id:
            self.problem, self._failed = None, (None, 0)
        elif champion != self._failed[0] or time.monotonic() >= self._next_try:
            self._load(champion)

    def _load(self, champion: Champion) -> None:
        try:
            self.current = load_model(self._exports, champion.model_id, self._spec, self._threads)
        except (ModelFolderError, OSError) as error:
            self._report(champion, error)
            return
        self.problem, self._failed = None, (None, 0)
        _logger.info("%s answers", champion.model_id)

    def _report(self, champion: Champion | None, error: BaseException) -> None:
        """Report once what is wrong, and set when to try again. The answers of the service name no path."""
        tries = self._failed[1] + 1 if self._failed[0] == champion and self._failed[1] else 1
        self._failed = (champion, tries)
        self._next_try = time.monotonic() + min(2.0 ** (tries - 1), LONGEST_PAUSE)
        what = f"the champion {champion.model_id} cannot be loaded" if champion else "no champion can be read"
        goes_on = f"{self.current.version} keeps answering" if self.current else "the service answers 503"
        self.problem = f"{what}; {goes_on}; the log of the service and alerts.jsonl say why"
        if tries == 1:
            _logger.error("%s: %s; %s", what, error, goes_on)
            self._alert(f"{what}; {goes_on}", [str(error) or type(error).__name__])
