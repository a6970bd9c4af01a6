"""The temperature makes probabilities mean what they say, and changes no answer."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captcha_assets.training.calibration import fit_temperature


def answers(confidence: float, seed: int = 0, count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax is exactly how often each class is right, made `confidence` times as sure."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 20, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator).squeeze(1)
    return logits * confidence, labels


@settings(max_examples=20)
@given(st.floats(0.3, 6))
def test_the_temperature_undoes_too_much_and_too_little_confidence(confidence):
    assert fit_temperature(*answers(confidence)) == pytest.approx(confidence, rel=0.05)


def test_probabilities_after_the_temperature_are_as_often_right_as_they_say():
    logits, labels = answers(4.0)
    fresh, expected = answers(4.0, seed=1)
    sure, said = torch.softmax(fresh / fit_temperature(logits, labels), 1).max(1)
    right = (said == expected).float()
    for low in (0.2, 0.4, 0.6, 0.8):
        within = (sure >= low) & (sure < low + 0.2)
        assert float(right[within].mean()) == pytest.approx(float(sure[within].mean()), abs=0.04)


@pytest.mark.parametrize("count", [20, 200, 2000])
def test_a_model_that_is_right_about_a_few_images_is_not_taken_to_be_right_for_ever(count):
    logits = 30 * torch.eye(20).repeat(count // 20, 1)
    temperature = fit_temperature(logits, torch.arange(20).repeat(count // 20))
    doubt = 1 - float(torch.softmax(logits / temperature, 1).max())
    assert doubt == pytest.approx(1 / (count + 2), rel=0.1)


def test_the_same_answers_give_the_same_temperature():
    assert fit_temperature(*answers(3.0)) == fit_temperature(*answers(3.0))
