"""What training costs, and what of it is not the network: `python -m benchmarks.train [--help]`.

Prints: Lightning's overhead over a bare PyTorch loop, with one linear layer and with resnet18; ours against
the usual way, on the same images, with the same network, by the clock and by CPU time (with that of the
loader's workers); and on a GPU how much of the card is used and how long it takes from random weights to
99 %. Every figure is that of a warm epoch, and the ways take turns.
"""

import argparse
import logging
import os
import warnings

from benchmarks import results
from benchmarks.results import Recording
from benchmarks.train import device, overhead, usual


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("overhead", "usual", "device"), help="one of the comparisons")
    parser.add_argument(
        "--images", type=int, default=2048, help="images of the comparison with the usual way"
    )
    parser.add_argument(
        "--overhead-images", type=int, default=512, help="images of the comparison on resnet18"
    )
    parser.add_argument("--channels", type=int, nargs=4, default=[64, 128, 256, 512])
    parser.add_argument("--workers", type=int, default=min(4, len(os.sched_getaffinity(0))))
    parser.add_argument("--gpu-images", type=int, default=118_000)
    parser.add_argument("--gpu-batch-size", type=int, default=1024)
    parser.add_argument("--gpu-epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5)
    results.add_option(parser)
    return parser.parse_args()


def main() -> None:
    options, recording = _options(), Recording("benchmarks.train", ("pytorch-lightning", "timm", "torch"))
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    tables = {
        "overhead": lambda: overhead.table(options.rounds, options.overhead_images, recording),
        "usual": lambda: usual.table(
            options.images, options.workers, tuple(options.channels), options.rounds, recording
        ),
        "device": lambda: device.table(
            options.gpu_images, options.gpu_epochs, options.gpu_batch_size, options.seeds, recording
        ),
    }
    for name, table in tables.items():
        if options.only in (None, name):
            print(*table(), "", sep="\n", flush=True)
    recording.write(options.result)


if __name__ == "__main__":
    main()
