"""Images of other data sets: JPEG, RGB, other sizes; each is decoded whole, or rejected with a reason."""

import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

from captcha_assets.dataset import CAPTCHA
from captcha_assets.images.decode import PIXEL_LIMIT, decode
from captcha_assets.images.features import Statistics, descriptors, dhash, image_id, signatures, thumbnails
from captcha_assets.images.ingest_worker import chunk_size
from captcha_assets.images.rejection import Reason, Rejection
from captcha_assets_tests.images.files import encode

PHOTOS = replace(CAPTCHA, height=40, width=48, channels=3, formats=("png", "jpeg"))
RESIZED = replace(PHOTOS, other_sizes="resize")


def photo(height: int = 40, width: int = 48) -> np.ndarray:
    """A smooth RGB image, red to the right, blue to the bottom."""
    down, across = np.mgrid[:height, :width]
    red, blue = across * 255 // width, down * 255 // height
    return np.stack([red, np.full_like(red, 60), blue], axis=2).astype(np.uint8)


def file_of(image: np.ndarray, suffix: str = ".jpg") -> bytes:
    return encode(image[..., ::-1] if image.ndim == 3 else image, suffix)


def progressive(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert done
    return data.tobytes()


def reason_of(data: bytes, spec=PHOTOS) -> Reason:
    with pytest.raises(Rejection) as caught:
        decode(data, spec)
    return caught.value.reason


@pytest.mark.parametrize("data", [file_of(photo()), file_of(photo(), ".png"), progressive(photo())])
def test_rgb_images_are_decoded_in_rgb(data):
    pixels, mode = decode(data, PHOTOS)
    assert (pixels.shape, mode) == ((40, 48, 3), "RGB")
    assert np.abs(pixels.astype(int) - photo()).mean() < 8


def test_gray_becomes_rgb_and_rgb_becomes_gray():
    gray = photo()[..., 0]
    pixels, mode = decode(file_of(gray, ".png"), PHOTOS)
    assert mode == "L"
    assert np.array_equal(pixels, np.repeat(gray[..., None], 3, axis=2))
    pixels, mode = decode(file_of(photo()), replace(PHOTOS, channels=1))
    assert (pixels.shape, mode) == ((40, 48), "RGB")


def test_a_file_of_a_format_that_is_not_read_is_rejected():
    assert reason_of(file_of(photo()), replace(PHOTOS, formats=("png",))) == Reason.UNSUPPORTED_FORMAT
    assert (
        reason_of(file_of(photo(), ".png"), replace(PHOTOS, formats=("jpeg",))) == Reason.UNSUPPORTED_FORMAT
    )


@pytest.mark.parametrize("whole", [file_of(photo()), progressive(photo())])
def test_a_jpeg_file_cut_off_anywhere_is_rejected(whole):
    for length in range(4, len(whole) - 1):
        assert reason_of(whole[:length]) == Reason.CORRUPT, length


def test_what_follows_the_end_of_a_jpeg_file_is_ignored():
    assert decode(file_of(photo()) + b"preview", PHOTOS).pixels.shape == (40, 48, 3)


def test_another_size_is_rejected_or_resized():
    for suffix in (".jpg", ".png"):
        large, small = file_of(photo(80, 96), suffix), file_of(photo(20, 24), suffix)
        assert reason_of(large) == reason_of(small) == Reason.WRONG_SIZE
        for data in (large, small):
            assert np.abs(decode(data, RESIZED).pixels.astype(int) - photo()).mean() < 8


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_size_that_would_fill_the_memory_is_rejected_by_the_header(suffix):
    data = bytearray(file_of(photo(), suffix))
    if suffix == ".jpg":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = b"\xff\xff\xff\xff"
    else:
        data[16:24] = b"\x00\x00\xff\xff" * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    assert PIXEL_LIMIT < 65535 * 65535
    assert reason_of(bytes(data), RESIZED) == Reason.WRONG_SIZE


def test_a_jpeg_file_in_cmyk_is_rejected():
    data = bytearray(file_of(photo()))
    data[data.index(b"\xff\xc0") + 9] = 4
    assert reason_of(bytes(data)) == Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("shape", [(8, 8), (52, 32), (28, 28, 3), (224, 224, 3), (97, 300)])
def test_features_are_computed_of_any_size(shape):
    images = np.random.default_rng(0).integers(0, 256, (6, *shape)).astype(np.uint8)
    assert max(thumbnails(images).shape[1:]) <= 64
    described = descriptors(images)
    assert signatures(described).shape == (6, 12, 5)
    assert np.array_equal(described, descriptors(thumbnails(images)))
    assert np.array_equal(dhash(images), np.concatenate([dhash(image[None]) for image in images]))
    assert len({image_id(image) for image in images}) == 6
    found = Statistics(images)
    assert np.allclose(found.brightness, images.reshape(6, -1).mean(axis=1), atol=3)
    assert not found.blank.any()


def test_an_image_of_one_colour_is_blank():
    red = np.zeros((2, 40, 48, 3), np.uint8)
    red[..., 0] = 200
    red[1, 5, 5, 0] = 201
    assert Statistics(red).blank.tolist() == [True, False]


def test_gray_and_rgb_images_of_the_same_values_are_different_images():
    gray = photo()[..., 0]
    assert image_id(gray) != image_id(np.repeat(gray[..., None], 3, axis=2))


def test_a_chunk_holds_some_four_megabytes():
    assert chunk_size(CAPTCHA) == 2048
    assert chunk_size(replace(PHOTOS, height=224, width=224)) == 27
    assert chunk_size(replace(PHOTOS, height=4000, width=4000)) == 1
