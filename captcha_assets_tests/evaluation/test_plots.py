"""The plots: real ones, of the size they promise, drawn from the data and from nothing else."""

import io
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from captcha_assets.evaluation import plots
from captcha_assets.evaluation.metrics import compute_metrics
from captcha_assets.evaluation.plot_style import WIDTH
from captcha_assets_tests.evaluation.examples import CLASSES, made_up, measured, some_mistakes

TWENTY = tuple("2345678abcdefgmnpwxy")
HISTORY = [
    {"epoch": 0, "train_loss": 2.1, "validation_loss": 1.4, "validation_accuracy": 0.6},
    {"epoch": 1, "train_loss": 1.1, "validation_loss": 0.7, "validation_accuracy": 0.9},
]
OF_METRICS = [plots.confusion_matrix, plots.per_class, plots.reliability]


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    """A missing glyph, an empty legend or a degenerate axis is a warning before it is an ugly plot."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def opened(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    assert image.width == WIDTH
    return image.convert("RGB")


def margin_is_empty(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    edges = [pixels[:6], pixels[-6:], pixels[:, :6], pixels[:, -6:]]
    return all((edge == 255).all() for edge in edges)


@pytest.mark.parametrize("draw", OF_METRICS)
@pytest.mark.parametrize(
    "metrics",
    [
        measured(),
        measured(classes=TWENTY, n=12_000, skill=5),
        measured(classes=TWENTY, n=30, skill=1),
        measured(classes=("airplane", "automobile", "ship"), n=50),
        measured(classes=("a_1$", "$x$", "%"), n=50),
        measured(classes=tuple(f"class number {number}" for number in range(25)), n=500),
        measured(n=1),
        measured(skill=50),
        measured(skill=-50),
    ],
    ids=["plain", "many", "absent", "words", "long words", "signs", "one", "perfect", "hopeless"],
)
def test_every_plot_is_drawn_whole_for_any_figures(draw, metrics):
    image = opened(draw(metrics))
    assert 200 < image.height < 1200
    assert margin_is_empty(image)
    assert len(set(np.asarray(image).reshape(-1, 3).view("u1,u1,u1").ravel().tolist())) > 20


@pytest.mark.parametrize("draw", OF_METRICS)
def test_the_same_figures_give_the_same_bytes_and_others_do_not(draw):
    assert draw(measured(seed=1)) == draw(measured(seed=1))
    assert draw(measured(seed=1)) != draw(measured(seed=2))


def test_the_plots_do_not_depend_on_the_process_that_draws_them():
    code = (
        "import matplotlib, sys; matplotlib.rcParams['font.size'] = 20\n"
        "from captcha_assets.evaluation import plots\n"
        "from captcha_assets_tests.evaluation.examples import measured\n"
        "sys.stdout.buffer.write(plots.per_class(measured()))\n"
    )
    drawn = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert drawn.stdout == plots.per_class(measured())


def test_drawing_changes_no_global_state():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.per_class(measured())
    assert dict(mpl.rcParams) == before
    code = "import sys, captcha_assets.evaluation.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_mistake_stands_out_against_a_correct_answer():
    """One image in fifty is wrong: its cell is redder than any cell of the diagonal."""
    labels = np.arange(200) % 4
    probabilities = np.eye(4, dtype=np.float32)[labels]
    right = np.asarray(opened(plots.confusion_matrix(compute_metrics(probabilities, labels, CLASSES))), int)
    probabilities[0] = [0, 0, 0, 1]
    wrong = np.asarray(opened(plots.confusion_matrix(compute_metrics(probabilities, labels, CLASSES))), int)

    # Below the title and above the colours' legend there is nothing but the matrix.
    redness = [(image[90:370, :, 0] - image[90:370, :, 2]).max() for image in (right, wrong)]
    assert redness[0] < 5
    assert redness[1] > 60


def test_a_class_without_test_images_is_not_drawn_as_a_failing_one():
    probabilities, labels = made_up(n=300)
    whole = opened(plots.per_class(compute_metrics(probabilities, labels, CLASSES)))
    without = compute_metrics(probabilities, np.where(labels == 2, 1, labels), CLASSES)
    assert opened(plots.per_class(without)).height < whole.height


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (8, 1), (9, 2), (41, 5)])
def test_the_gallery_grows_by_the_row_and_ends_at_its_limit(count, rows):
    image = opened(plots.gallery(some_mistakes(count), 1000))
    assert image.height == 95 + 198 * rows
    assert margin_is_empty(image)


def test_the_gallery_shows_the_pixels_of_the_mistakes():
    mistakes = some_mistakes(3)
    assert plots.gallery(mistakes, 10) != plots.gallery(some_mistakes(3, seed=1), 10)
    assert plots.gallery(mistakes[:2], 10) != plots.gallery(mistakes, 10)


def test_where_there_is_no_mistake_the_gallery_says_so():
    image = opened(plots.gallery([], 1000))
    assert image.height == 220
    assert margin_is_empty(image)


@pytest.mark.parametrize(
    "history",
    [HISTORY, HISTORY[:1], [], [{"epoch": 0, "learning_rate": 0.1}], HISTORY * 100],
    ids=["plain", "one epoch", "nothing", "unknown figures", "long"],
)
def test_the_curves_are_drawn_for_any_history(history):
    assert opened(plots.training_curves(history)).height == 420


def test_the_curves_follow_the_history():
    assert plots.training_curves(HISTORY) != plots.training_curves(HISTORY[:1])
