"""cleanvision over a folder of images: `TOOLS/bin/python cleanvision_run.py FOLDER`. Prints the seconds,
on the wall and on the processor.

It looks for odd sizes and aspect ratios, low information, light, dark, blurry and gray images, exact and
near duplicates (by perceptual hash). It knows neither labels nor archives, and stops at the first file that
it cannot read.
"""

import os
import sys
import time

from cleanvision import Imagelab

began, cpu = time.perf_counter(), sum(os.times()[:4])
Imagelab(data_path=sys.argv[1]).find_issues(n_jobs=2, verbose=False)
print(time.perf_counter() - began, sum(os.times()[:4]) - cpu)  # with the processes that have ended
