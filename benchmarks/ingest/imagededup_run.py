"""imagededup over a folder of images: `TOOLS/bin/python imagededup_run.py FOLDER`. Prints the seconds,
on the wall and on the processor.

It encodes every image with a difference hash and searches duplicates up to 10 bits apart; that finds few
shifted copies and takes distinct images of one class for copies. It checks nothing else.
"""

import os
import sys
import time

from imagededup.methods import DHash

began, cpu = time.perf_counter(), sum(os.times()[:4])
hasher = DHash(verbose=False)
hasher.find_duplicates(
    encoding_map=hasher.encode_images(image_dir=sys.argv[1], num_enc_workers=2),
    max_distance_threshold=10,
    num_dist_workers=2,
)
print(time.perf_counter() - began, sum(os.times()[:4]) - cpu)  # with the processes that have ended
