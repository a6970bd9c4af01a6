"""Quantizing the export of a model, calibrated on the training split and measured on the test split."""

import numpy as np
from numpy.typing import NDArray

from captcha_assets.atomic_files import fetched
from captcha_assets.images.local_tables import local_tables
from captcha_assets.images.reader import SplitImages, read_split
from captcha_assets.models.folder import read_config
from captcha_assets.models.predict_files import resolve
from captcha_assets.models.quantization import Quantization, quantize
from captcha_assets.models.servable import require_export
from captcha_assets.paths import Paths

#: Images that the ranges of int8 are taken from, and the seed that they are drawn with.
CALIBRATION_IMAGES, CALIBRATION_SEED = 1000, 0


def quantize_stored(paths: Paths, name: str) -> Quantization:
    """Quantize the export of a model ("champion", "candidate" or an id) to its place, and measure both.

    Raises:
        ModelChoiceError: there is no such model.
        RegistryError: it is not exported.
        ModelFolderError: its export is damaged.
        QuantizationError: there are no images to calibrate or to measure with.
        MissingTableError, ReaderError: the tables cannot be read.
    """
    model_id = resolve(paths, name)
    require_export(paths, model_id)
    with local_tables(paths) as data, fetched(paths.onnx_model(model_id)) as export:
        config = read_config(export)
        train, test = (
            read_split(data.tables, data.splits, split, classes=config.classes, shape=config.image_shape)
            for split in ("train", "test")
        )
        calibration = calibration_images(train)
        return quantize(export, paths.quantized_model(model_id), calibration, test.pixels, test.labels)


def calibration_images(
    images: SplitImages, count: int = CALIBRATION_IMAGES, seed: int = CALIBRATION_SEED
) -> NDArray[np.uint8]:
    """Return the pixels of `count` images, as many of each class; the same seed draws the same images.

    A class that has too few gives all of its images, and the others give more.
    """
    order = np.random.default_rng(seed).permutation(len(images))
    labels = images.labels[order]
    turn = np.zeros(len(order), np.int64)  # an image's turn within its class
    for label in np.unique(labels):
        of_class = labels == label
        turn[of_class] = np.arange(of_class.sum())
    return images.pixels[order[np.lexsort((labels, turn))[:count]]]
