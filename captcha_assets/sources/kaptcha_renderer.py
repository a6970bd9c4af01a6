"""One Kaptcha image, 200x50 pixels with five characters, and the crops of its characters.

What the Java library does is followed step by step: bold letters of 40 px side by side on the
baseline, a water wave around the centre of the image and a ripple over all of it, two noise curves
drawn as a few straight strokes that get thinner, a gradient from light gray to white below. Then each
character is cut out, enlarged to the size of the data set, and aged: brightness, grain, bars at a side.

Every pixel is computed by integer arithmetic, or by rounding figures that are nowhere near a tie, so that
the bytes depend neither on the processor nor on the number of threads. Outlines are rasterized by the
FreeType inside the Pillow wheel and reduced by Pillow, strokes are filled by OpenCV: both in fixed point.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from captcha_assets.dataset import CAPTCHA

Array = NDArray[Any]

_HEIGHT, _WIDTH = CAPTCHA.height, CAPTCHA.width

#: Characters of an image.
LENGTH = 5

_ROWS, _COLUMNS = 50, 200
_MARGIN = 5  # around the text layer: no wave moves a pixel further
_BASELINE = 42
_START = 30  # where the first character starts
_GAP = 2  # between the outlines of two characters
_SCALE = 8  # outlines are rasterized this many times larger
_EM = 40

#: How far the maker of the real crops took a character to reach, in pixels: a figure for each of them,
#: though it is drawn in one of two fonts. What follows a letter is therefore cut too far left or right.
_REACH: dict[str, int] = {
    "2": 20, "3": 19, "4": 21, "5": 19, "6": 20, "7": 20, "8": 21,
    "a": 20, "b": 21, "c": 19, "d": 21, "e": 20, "f": 17, "g": 21,
    "m": 30, "n": 21, "p": 21, "w": 27, "x": 20, "y": 20,
}  # fmt: skip


@dataclass(frozen=True)
class Face:
    """A way to draw letters: a font file, and how much bolder and wider its letters are drawn.

    Attributes:
        font: file name without its ending, one of those that come with matplotlib.
        bolder: added around the outline, in eighths of a pixel.
        width: width in percent of the font's own.
    """

    font: str
    bolder: int = 0
    width: int = 100


#: Each image has two faces, one of each row, and each of its characters is drawn in one of them.
Faces = tuple[tuple[Face, ...], tuple[Face, ...]]

#: Kaptcha takes Arial and Courier, for which Java on a plain machine puts a sans serif and a monospaced one.
FACES: Faces = (
    (
        *(Face("DejaVuSans-Bold", 0, width) for width in (84, 88, 92)),
        *(Face("DejaVuSans", bold, 95) for bold in (5, 7)),
    ),
    tuple(Face("DejaVuSansMono-Bold", 0, width) for width in (93, 97, 101)),
)

#: Where characters start in an image, and how wide they are.
Spans = list[tuple[int, int]]


@dataclass(frozen=True)
class Wave:
    """Where each pixel of an image comes from: four neighbours in a padded layer and their weights.

    Attributes:
        index: positions of the upper left neighbour in the flattened layer, int64 (50 x 200,).
        weights: of the four neighbours, uint16 (4, 50 x 200), 256 in sum.
    """

    index: Array
    weights: Array


def _wave(x: Array, y: Array) -> Wave:
    """Return the wave that fetches each pixel from the column `x` and the row `y`, both (50, 200)."""
    x, y = (_sixteenths(positions).ravel() + 16 * _MARGIN for positions in (x, y))
    return Wave((y >> 4) * (_COLUMNS + 2 * _MARGIN) + (x >> 4), _weights(x & 15, y & 15))


def _sixteenths(positions: Array) -> Array:
    return np.floor(positions * 16 + 0.5).astype(np.int64)


def _weights(x: Array, y: Array) -> Array:
    right, down = x.astype(np.uint16), y.astype(np.uint16)
    left, up = 16 - right, 16 - down
    return np.stack([left * up, right * up, left * down, right * down])


def _fetch(layer: Array, index: Array, weights: Array) -> Array:
    """Return the bilinear mean of four neighbours each, uint16 0..255, in the shape of `index`."""
    flat, width = layer.ravel(), layer.shape[1]
    total = flat[index] * weights[0]
    for step, weight in zip((1, width, width + 1), weights[1:], strict=True):
        total += flat[index + step] * weight
    return (total + 128) >> 8


def _water_positions() -> tuple[Array, Array]:
    """The wave around the centre, 3 pixels high there, gone at 50 pixels' distance: columns and rows."""
    y, x = np.mgrid[:_ROWS, :_COLUMNS].astype(np.float64)
    x, y = x - _COLUMNS / 2, y - _ROWS / 2
    distance = np.sqrt(x * x + y * y)
    height = 3 * np.sin(distance * math.pi - 10) * np.maximum(1 - distance / 50, 0)
    move = height / np.maximum(distance, 1)
    return x + x * move + _COLUMNS / 2, y + y * move + _ROWS / 2


@cache
def _water() -> Wave:
    return _wave(*_water_positions())


#: Ripples: how far rows move, the rows from one to the next in radians, and the first one's phase. The
#: first is Kaptcha's; the others are there for images of unknown settings.
_RIPPLES = (
    (2.6, 15.0, 0.0),
    *((3.6, 10.0, phase) for phase in (0.5, 2.0, 3.5, 5.0)),
    *((3.0, 8.0, phase) for phase in (2.0, 5.0)),
)


def _ripple_positions(number: int) -> tuple[Array, Array]:
    """The ripple over the whole image, rows sideways, columns up and down: columns and rows."""
    y, x = np.mgrid[:_ROWS, :_COLUMNS].astype(np.float64)
    reach, length, phase = _RIPPLES[number]
    return x + reach * np.sin(y / length + phase), y + 1.7 * np.sin(x / 5)


@cache
def _ripple(number: int) -> Wave:
    return _wave(*_ripple_positions(number))


@cache
def _background() -> Array:
    """The gradient from light gray, top left, to white, uint16 (50, 200)."""
    y, x = np.mgrid[:_ROWS, :_COLUMNS]
    return (192 + 63 * (_COLUMNS * x + _ROWS * y) // (_COLUMNS**2 + _ROWS**2)).astype(np.uint16)


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), _EM * _SCALE, layout_engine=ImageFont.Layout.BASIC)


@cache
def _glyph(character: str, face: Face) -> tuple[Array, int]:
    """Return the coverage of a character, uint16 0..255 (50, its width), and the gap on its left.

    Its rows are the image's, so that all characters stand on one baseline.
    """
    canvas = Image.new("L", (80 * _SCALE, _ROWS * _SCALE))
    pen = 20 * _SCALE, _BASELINE * _SCALE
    ImageDraw.Draw(canvas).text(
        pen, character, font=_font(face.font), fill=255, anchor="ls", stroke_width=face.bolder
    )
    left, _, right, _ = canvas.getbbox() or (0, 0, 1, 1)
    width = round((right - left) * face.width / (100 * _SCALE))
    narrow = canvas.resize((width, _ROWS), Image.Resampling.BOX, box=(left, 0, right, _ROWS * _SCALE))
    return np.asarray(narrow, dtype=np.uint16), round((left - pen[0]) / _SCALE)


def _text(word: str, faces: list[Face]) -> tuple[Array, Spans]:
    """Return a padded layer of coverage, uint16 (60, 210), and the columns each character takes."""
    layer = np.zeros((_ROWS + 2 * _MARGIN, _COLUMNS + 2 * _MARGIN), np.uint16)
    spans, pen = [], _START
    for character, face in zip(word, faces, strict=True):
        glyph, gap = _glyph(character, face)
        left, width = pen + gap, min(glyph.shape[1], _COLUMNS - pen - gap)
        region = layer[_MARGIN:-_MARGIN, _MARGIN + left : _MARGIN + left + width]
        np.maximum(region, glyph[:, :width], out=region)
        spans.append((left, width))
        pen += glyph.shape[1] + _GAP
    return layer, spans


def _moved(layer: Array, number: int) -> Array:
    """Return the coverage of the text, uint16 (50, 200), after the wave of water and a ripple."""
    water, ripple = _water(), _ripple(number)
    inner = layer[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    inner[:] = _fetch(layer, water.index, water.weights).reshape(_ROWS, _COLUMNS)
    return _fetch(layer, ripple.index, ripple.weights).reshape(_ROWS, _COLUMNS)


Point = tuple[float, float]


def _middle(a: Point, b: Point) -> Point:
    return (a[0] + b[0]) / 2, (a[1] + b[1]) / 2


def _away(point: Point, start: Point, end: Point) -> float:
    """Return the squared distance of a point from the stroke between two others."""
    x, y = end[0] - start[0], end[1] - start[1]
    px, py = point[0] - start[0], point[1] - start[1]
    length = x * x + y * y
    along = min(max((px * x + py * y) / length, 0.0), 1.0) if length else 0.0
    return (px - along * x) ** 2 + (py - along * y) ** 2


def _flat(a: Point, b: Point, c: Point, d: Point, depth: int = 0) -> list[Point]:
    """Return the ends of straight strokes that stay within 2 pixels of a cubic curve, without `a`."""
    if depth == 10 or max(_away(b, a, d), _away(c, a, d)) < 4:
        return [d]
    ab, bc, cd = _middle(a, b), _middle(b, c), _middle(c, d)
    abc, bcd = _middle(ab, bc), _middle(bc, cd)
    half = _middle(abc, bcd)
    return _flat(a, ab, abc, half, depth + 1) + _flat(half, bcd, cd, d, depth + 1)


def _stroke(image: Array, start: Point, end: Point, width: float) -> None:
    """Draw a straight black stroke with square ends on a uint8 image, in place."""
    x, y = end[0] - start[0], end[1] - start[1]
    length = math.sqrt(x * x + y * y)
    if not length:
        return
    half = (width - 0.9) / 2  # OpenCV's smooth edge adds the rest
    x, y = x / length * half, y / length * half
    ends = ((start[0] - x, start[1] - y), (end[0] + x, end[1] + y))
    corners = [
        (ends[i][0] + side * y, ends[i][1] - side * x) for i, side in ((0, 1), (0, -1), (1, -1), (1, 1))
    ]
    fixed = np.array([[round(16 * (value + 0.5)) for value in corner] for corner in corners], np.int32)
    cv2.fillConvexPoly(image, fixed, 0, cv2.LINE_AA, 4)


def _curve(image: Array, columns: tuple[int, int, int, int], rows: list[int]) -> None:
    """Draw a noise curve through four points, thick at the left, on a uint8 image, in place."""
    a, b, c, d = ((float(x), float(y)) for x, y in zip(columns, rows, strict=True))
    points = [(float(int(x)), float(int(y))) for x, y in [a, *_flat(a, b, c, d)]]
    for number, (start, end) in enumerate(pairwise(points)):
        _stroke(image, start, end, 0.9 * (4 - min(number, 2)))


def draw(word: str, rng: np.random.Generator, faces: Faces = FACES) -> tuple[Array, Spans]:
    """Draw an image.

    Args:
        word: its characters, each one of the data set's classes.
        rng: what is left to chance is drawn from it.
        faces: what letters may look like.

    Returns:
        The image, uint8 (50, 200), and the columns each character takes.
    """
    pair = [row[rng.integers(len(row))] for row in faces]
    layer, spans = _text(word, [pair[i] for i in rng.integers(2, size=len(word))])
    number = max(int(rng.integers(-9, len(_RIPPLES))), 0)
    image = (_background() * (255 - _moved(layer, number)) // 255).astype(np.uint8)
    rows = rng.integers(_ROWS, size=(3, 4)).tolist()
    _curve(image, (20, 20, 50, 50), rows[0])
    _curve(image, (20, 50, 100, 180), rows[1])
    if rng.integers(6) == 0:
        _curve(image, (20, 20, 150, 180), rows[2])
    return image, spans


def cut(image: Array, word: str, spans: Spans, rng: np.random.Generator) -> Array:
    """Cut characters out of an image, enlarge and age them.

    Args:
        image: uint8 (50, 200).
        word: its characters.
        spans: the columns each character takes.
        rng: what is left to chance is drawn from it.

    Returns:
        The characters, uint8 (their number, 52, 32).
    """
    left, top, wide, high = _frames(word, spans, rng)
    turn = rng.integers(-450, 451, size=(2, len(spans)))
    row, column = np.mgrid[:_HEIGHT, :_WIDTH][:, None]
    x = _each(left) + _each(wide) * (2 * column + 1) // (2 * _WIDTH) + _each(turn[0]) * (row - _HEIGHT // 2)
    y = _each(top) + _each(high) * (2 * row + 1) // (2 * _HEIGHT) + _each(turn[1]) * (column - _WIDTH // 2)
    layer = np.pad(_sharpened(image, int(rng.integers(64))), _MARGIN, mode="edge")
    x = np.clip((x >> 8) - 8 + 16 * _MARGIN, 0, 16 * (layer.shape[1] - 1) - 1)
    y = np.clip((y >> 8) - 8 + 16 * _MARGIN, 0, 16 * (layer.shape[0] - 1) - 1)
    crops = _fetch(layer, (y >> 4) * layer.shape[1] + (x >> 4), _weights(x & 15, y & 15))
    return _aged(crops, rng)


def _sharpened(image: Array, strength: int) -> Array:
    """Return an image, uint16, with its edges steepened, as a cubic enlargement does."""
    around = np.pad(image.astype(np.int32), 1, mode="edge")
    across = around[1:-1, :-2] + around[1:-1, 2:] + around[:-2, 1:-1] + around[2:, 1:-1]
    sharp = image + ((4 * around[1:-1, 1:-1] - across) * strength >> 8)
    return np.clip(sharp, 0, 255).astype(np.uint16)


def _each(values: Array) -> Array:
    return values[:, None, None]


def _frames(word: str, spans: Spans, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Return what is cut out, one entry a character: left, top, width and height in 4096ths of a pixel.

    One half as the maker of the real crops did, by the characters' usual reach; the other around the
    middle of the character and of one narrow width for all, which cuts wide letters.
    """
    start, width = np.array(spans).T << 12
    reach = np.array([_REACH[character] for character in word]) << 12
    count = len(spans)
    fixed = rng.integers(2, size=count) == 0
    wide = np.where(fixed, _between(22, 28, rng, count), reach + _between(4, 8, rng, count))
    high = np.where(fixed, _between(38, 47, rng, count), _between(40, 44, rng, count))
    centred = start + (width - wide) // 2 + _between(-4, 4, rng, count)
    usual = (_START << 12) + np.cumsum(reach) - reach - _between(0, 5, rng, count)
    free = (_ROWS << 12) - high
    top = np.where(fixed, free // 2 + _between(-2, 3, rng, count), free - _between(-1, 2, rng, count))
    return np.where(fixed, centred, usual), top, wide, high


def _between(low: int, high: int, rng: np.random.Generator, count: int) -> Array:
    return rng.integers(low << 12, high << 12, size=count)


def _aged(crops: Array, rng: np.random.Generator) -> Array:
    """Return crops, uint16 (n, 52, 32), with brightness and grain changed, as uint8."""
    count = len(crops)
    blown = rng.integers(4, size=count) == 0
    gain = np.where(blown, rng.integers(290, 350, size=count), rng.integers(230, 290, size=count))
    grain = rng.integers(2, 14, size=count)
    noise = rng.integers(0, 256, size=(2, *crops.shape), dtype=np.uint8).astype(np.int32).sum(0) - 255
    bright = crops.astype(np.int32) * np.where(_bars(count, rng), 235, _each(gain)) + noise * _each(grain)
    return np.clip(bright >> 8, 0, 255).astype(np.uint8)


def _bars(count: int, rng: np.random.Generator) -> Array:
    """Return where a crop keeps its gray, at its right and its top: bool (n, 52, 32), mostly False."""
    row, column = np.mgrid[:_HEIGHT, :_WIDTH][:, None]
    with_bars = rng.integers(6, size=count) == 0
    right, above = rng.integers(5, size=count), rng.integers(3, size=count)
    return _each(with_bars) & ((column >= _WIDTH - _each(right)) | (row < _each(above)))
