"""Mini-batches on the device: every image, in an order and a form that the seed and the epoch decide."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_assets.training.augment import Augmentation, draw_parameters
from captcha_assets.training.data import (
    EvaluationLoader,
    Images,
    Normalisation,
    Share,
    TrainImages,
    TrainLoader,
    TrainSampler,
)

STILL = Augmentation(shift=0, rotation=0, scale=0, brightness=0, contrast=0)
ALL = Share()
PLAIN = Normalisation(0.0, 1.0)


def numbered(count: int) -> Images:
    """Images whose label is their position."""
    pixels = torch.arange(count * 8 * 6, dtype=torch.int64).remainder(251).to(torch.uint8)
    return Images(pixels.view(count, 1, 8, 6), torch.arange(count))


def sampler(count: int, size: int, *, epoch: int = 0, seed: int = 0, share: Share = ALL) -> TrainSampler:
    return TrainSampler(count, size, seed, torch.device("cpu"), share, epoch)


@given(st.integers(1, 60), st.integers(1, 20))
def test_an_epoch_holds_every_image_once_but_those_that_fill_no_mini_batch(count, size):
    size = min(size, count)
    made = sampler(count, size)
    indices = [indices for indices, _ in made]
    assert len(indices) == len(made) == count // size
    seen = torch.cat(indices).tolist()
    assert len(seen) == len(set(seen)) == count // size * size
    assert all(len(one) == size for one in indices)


def test_images_keep_their_labels():
    images = numbered(40)
    loader = TrainLoader(TrainImages(images, STILL, PLAIN), sampler(40, 8))
    for batch, labels in loader:
        assert torch.equal((batch * 255).round().to(torch.uint8), images.pixels[labels])


def test_seed_and_epoch_decide_the_steps_and_nothing_else():
    def of(**what):
        torch.rand(())
        return [torch.cat([indices, parameters.flatten()]) for indices, parameters in sampler(40, 8, **what)]

    first = of(epoch=3, seed=5)
    assert all(map(torch.equal, first, of(epoch=3, seed=5)))
    assert not any(map(torch.equal, first, of(epoch=4, seed=5)))
    assert not any(map(torch.equal, first, of(epoch=3, seed=6)))


def test_a_loader_can_be_iterated_again_and_gives_another_epoch_after_set_epoch():
    loader = TrainLoader(TrainImages(numbered(40), STILL, PLAIN), sampler(40, 8))
    first, again = ([labels for _, labels in loader] for _ in range(2))
    assert all(map(torch.equal, first, again))
    loader.sampler.set_epoch(1)
    assert not all(map(torch.equal, first, [labels for _, labels in loader]))


@pytest.mark.parametrize("processes", [2, 4])
def test_the_processes_of_a_distributed_training_share_the_steps_of_one(processes):
    alone = list(sampler(40, 8))
    shared = [list(sampler(40, 8, share=Share(rank, processes))) for rank in range(processes)]
    for step, (indices, parameters) in enumerate(alone):
        for rank in range(processes):
            assert torch.equal(shared[rank][step][0], indices[rank::processes])
            assert torch.equal(shared[rank][step][1], parameters[rank::processes])


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 3))
def test_evaluation_sees_every_image_once(count, size, processes):
    parts = [
        EvaluationLoader(numbered(count), PLAIN, size, Share(rank, processes)) for rank in range(processes)
    ]
    seen = [labels for part in parts for _, labels in part]
    assert sorted(torch.cat(seen).tolist()) == list(range(count))
    assert all(len(list(part)) == len(part) for part in parts)


@given(st.integers(0, 2**32 - 1), st.integers(1, 50))
def test_normalised_images_have_mean_zero_and_deviation_one(seed, count):
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 52, 32), dtype=np.uint8)
    normal = Normalisation.of(pixels)(torch.from_numpy(pixels).double() / 255)
    assert abs(float(normal.mean())) < 1e-4
    assert abs(float(normal.std(correction=0)) - 1) < 1e-4


def test_images_of_one_colour_can_be_normalised():
    assert Normalisation.of(np.full((3, 52, 32), 255, np.uint8)).std > 0


def blob(row: int, column: int) -> torch.Tensor:
    image = torch.zeros(1, 1, 52, 32)
    image[..., row, column] = 1
    return image


def centre(image: torch.Tensor) -> tuple[float, float]:
    rows, columns = torch.arange(52.0).view(-1, 1), torch.arange(32.0)
    return float((image * rows).sum() / image.sum()), float((image * columns).sum() / image.sum())


def test_without_strength_nothing_changes():
    images = torch.rand(5, 1, 52, 32)
    assert torch.allclose(STILL(images, torch.ones(5, 7)), images, atol=1e-5)


def test_images_move_by_the_pixels_that_were_asked_for():
    how = Augmentation(shift=3, rotation=0, scale=0, brightness=0, contrast=0)
    parameters = torch.zeros(1, 7)
    parameters[0, 3], parameters[0, 4] = 1, -1
    row, column = centre(how(blob(20, 10), parameters))
    assert (row, column) == pytest.approx((23, 7), abs=1e-3)


def test_images_turn_without_being_bent():
    how = Augmentation(shift=0, rotation=90, scale=0, brightness=0, contrast=0)
    parameters = torch.zeros(1, 7)
    parameters[0, 0] = 1
    row, column = centre(how(blob(26 + 8, 16), parameters))
    assert abs(row - 25.5) == pytest.approx(0.5, abs=0.05)
    assert abs(column - 15.5) == pytest.approx(8.5, abs=0.05)


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 5))
def test_augmented_images_are_images_still(seed, count):
    generator = torch.Generator().manual_seed(seed)
    how = Augmentation(shift=16, rotation=45, scale=0.9, brightness=1, contrast=0.95)
    images = torch.rand(count, 1, 52, 32, generator=generator)
    changed = how(images, draw_parameters(count, generator))
    assert changed.shape == images.shape
    assert torch.isfinite(changed).all()
    assert changed.min() >= 0
    assert changed.max() <= 1
