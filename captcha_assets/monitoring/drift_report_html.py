"""The drift of a day as one page of HTML that needs nothing beside it: styles and images are inside."""

import base64
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import polars as pl

from captcha_assets import quality
from captcha_assets.atomic_files import AnyPath
from captcha_assets.dataset import DatasetSpec
from captcha_assets.html_templates import environment
from captcha_assets.images.decode import decode
from captcha_assets.images.rejection import Rejection
from captcha_assets.monitoring.result import LIMITS, DriftTest, Family, ServedDrift, Window


def render(result: ServedDrift, plots: Mapping[str, bytes], images: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        result: what `served_drift` returned.
        plots: PNGs by the name of the window.
        images: PNGs of its unusual images by inference id, as `unusual_pngs` returns them.
    """
    folders = (Path(__file__).parent, Path(quality.__file__).parent)
    return (
        environment(*folders)
        .get_template("report.html.jinja")
        .render(
            result=result,
            images={name: _data_address(png) for name, png in images.items()},
            plots={name: _data_address(png) for name, png in plots.items()},
            limits=LIMITS,
            families=_families,
            percent=lambda share: f"{100 * share:.1f} %",
            p_value=lambda p: "< 0.0001" if p < 1e-4 else f"{p:.2g}",
        )
    )


def unusual_pngs(result: ServedDrift, table: AnyPath, spec: DatasetSpec) -> dict[str, bytes]:
    """Return the unusual images of a result as the model sees them, PNGs by inference id.

    Args:
        result: what `served_drift` returned.
        table: the prediction log's table of the day.
        spec: how images are decoded; both formats are read, as the service reads them.
    """
    spec = replace(spec, formats=("png", "jpeg"))
    wanted = [one.inference_id for one in result.unusual]
    rows = pl.scan_parquet(str(table), glob=False).filter(pl.col("inference_id").is_in(wanted))
    found = {}
    for name, data in rows.select("inference_id", "image").collect().iter_rows():
        try:
            pixels = decode(data or b"", spec).pixels
        except Rejection:
            continue
        in_order = pixels if pixels.ndim == 2 else pixels[:, :, ::-1]  # OpenCV expects blue first
        found[name] = cv2.imencode(".png", in_order)[1].tobytes()
    return found


def _families(window: Window) -> list[tuple[Family, list[DriftTest]]]:
    """Return the tests of each family, what drifted and the largest effect first."""
    grouped = [(family, [test for test in window.tests if test.family == family]) for family in LIMITS]
    return [
        (family, sorted(tests, key=lambda test: (test.severity == "none", -abs(test.effect))))
        for family, tests in grouped
        if tests
    ]


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
