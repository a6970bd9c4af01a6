"""cleanvision over a folder of images: `TOOLS/bin/python cleanvision_run.py FOLDER`. Prints the seconds.

It looks for odd sizes and aspect ratios, low information, light, dark, blurry and gray images, exact and
near duplicates (by perceptual hash). It knows neither labels nor archives, and stops at the first file that
it cannot read.
"""

import sys
import time

from cleanvision import Imagelab

began = time.perf_counter()
Imagelab(data_path=sys.argv[1]).find_issues(n_jobs=2, verbose=False)
print(time.perf_counter() - began)
