"""The same work as a plain loop over Pillow: `python -m benchmarks.ingest.pillow_loop ARCHIVE TABLE`.

Decodes, checks size and label, hashes pixels and file, takes the same statistics and the same difference
hash, counts exact duplicates, writes Parquet. It has no near-duplicate search, no checks of the archive and
no validation. Prints the seconds on the wall and on the processor, from the moment the libraries are loaded.
"""

import io
import sys
import time
import zipfile

import numpy as np
import polars as pl
import xxhash
from PIL import Image

from captcha_assets.dataset import CAPTCHA


def describe(member: str, data: bytes) -> dict[str, object]:
    image = Image.open(io.BytesIO(data)).convert("L")
    assert image.size == (CAPTCHA.width, CAPTCHA.height)
    pixels = np.asarray(image)
    thumbnail = np.asarray(image.resize((9, 8), Image.Resampling.BOX))
    bits = thumbnail[:, :-1] < thumbnail[:, 1:]
    return {
        "image_id": xxhash.xxh3_128_hexdigest(pixels.tobytes()),
        "member": member,
        "label": CAPTCHA.label_of(member),
        "pixels": pixels.tobytes(),
        "dhash": int.from_bytes(np.packbits(bits).tobytes(), "big"),
        "brightness": float(pixels.mean()),
        "contrast": float(pixels.std()),
        "foreground_fraction": float((pixels < 128).mean()),
        "file_bytes": len(data),
        "file_hash": xxhash.xxh3_128_hexdigest(data),
    }


def main(archive: str, table: str) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    with zipfile.ZipFile(archive) as members:
        rows = [describe(name, members.read(name)) for name in members.namelist()]
    frame = pl.DataFrame(rows, schema_overrides={"dhash": pl.UInt64})
    frame.unique("image_id").write_parquet(table)
    print(time.perf_counter() - began, time.process_time() - cpu)


if __name__ == "__main__":
    main(*sys.argv[1:])
