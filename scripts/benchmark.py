"""Speed as ratios against something run in the same process.

    python scripts/benchmark.py segcertify [--size 360 480] [--model upernet_tiny] [--n 100] [--hardware auto]

``statistics``: the table of p-values and Holm for a 1024 x 2048 image at n=100 on one core, against one
``scipy.stats.binomtest`` per pixel (timed on a sample of pixels, extrapolated). ``certification``: the whole of
``SegCertify.certify`` against the same forward passes alone, at the same batch and precision, medians over interleaved
repetitions; once against passes that give logits at image size, as every user of the network needs them, once against
those that stop at the network's own resolution, which is where certification on the CPU decides; and once against the
same with floating point noise. ``noisy copies``: a batch of exact noise against torch's normals. ``peak memory``: of a
process that certifies one image with ten times as many samples, against one with n.

    python scripts/benchmark.py sea [--size 360 480] [--model upernet_tiny] [--iterations 20] [--hardware auto]

APGD on the masked cross-entropy in both norms, from the checks before to the prediction after, against as many forward
and backward passes of the mean cross-entropy alone; medians over interleaved repetitions. ``peak memory``: as above, of
an attack with ten times the iterations.

    python scripts/benchmark.py lipschitz [--size 1024 2048] [--model lip_deeplabv3] [--classes 19] [--radii 0.17 1.0]
        [--small 120 160] [--batches 1 8] [--n 100 1000] [--quick] [--hardware cpu]

``pixel accuracy``: costs and collective accuracy from logits, against the forward pass of the Lipschitz network itself,
as certification computes both: float64 logits, the audited constant, distances between the rows of the head. ``mean
IoU``: the bounds at each radius, each from the logits. At --small: forward passes of the baked network, in float32 and
float64, against those that compute the weights first, as in training; and SegCertify of n samples against Lipschitz
certification on the same weights: sampling against one forward pass, and in full, that is with statistics, against
certificate and collective accuracy at all radii. All samples are drawn; --quick leaves out n of 1000 and more. Medians
over interleaved repetitions; on the CPU processor seconds of one thread. The weights are fresh, the logits for ``pixel
accuracy`` and ``mean IoU`` those of a made-up scene.

    python scripts/benchmark.py adversarial [--size 240 320] [--batch 8] [--steps 2 5] [--model upernet_tiny]

A training step of AT2 and AT5 against a clean one: loss, backward pass and AdamW; medians over interleaved repetitions.

    python scripts/benchmark.py patches [--size 360 480] [--model upernet_tiny] [--classes 11] [--inpainter model.pt]
        [--quick] [--hardware auto]

The whole of ``certify`` for each certificate against patches and each inpainter, against as many forward passes alone
in the same batches: once those that give what a masked copy needs, on the CPU logits at the network's own resolution,
once those that give logits at image size. An unmasked image is passed at image size in both. Goals are for inpainters
that fill a batch at once; telea fills image by image on the CPU. The parts are shares of the wall-clock time.
--inpainter adds a learned one, of a checkpoint. --quick repeats once. Medians over interleaved repetitions; on the CPU
processor seconds of one thread. Weights are fresh and the image is noise, so masked copies agree less than they would
after training.

    python scripts/benchmark.py wrap [--size 360 480] [--model lraspp_mobilenet_v3_large] [--batch 4] [--hardware auto]

A forward pass through ``certseg.wrap`` against one through the bare network of torchvision, medians of the ratios of
interleaved repetitions; on the CPU processor seconds of one thread. With normalisation the bare pass normalises, too.

Each row states its goal if it has one and whether it is met; the exit status does not depend on it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # as certseg does

from benchmarks.adversarial import benchmark_adversarial
from benchmarks.lipschitz import benchmark_lipschitz
from benchmarks.patches import benchmark_patches
from benchmarks.sea import benchmark_sea
from benchmarks.segcertify import benchmark_segcertify
from benchmarks.wrapping import benchmark_wrap


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and run a benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="benchmark", required=True)
    segcertify = commands.add_parser("segcertify", help="statistics and sampling overhead of SegCertify")
    segcertify.add_argument("--n", type=int, default=100)
    segcertify.set_defaults(run=benchmark_segcertify, repeats=5)
    sea = commands.add_parser("sea", help="overhead and memory of APGD")
    sea.add_argument("--iterations", type=int, default=20)
    sea.set_defaults(run=benchmark_sea, repeats=7)
    adversarial = commands.add_parser("adversarial", help="cost of adversarial training")
    adversarial.add_argument("--batch", type=int, default=8)
    adversarial.add_argument("--steps", type=int, nargs="+", default=[2, 5], help="of the inner attack")
    adversarial.set_defaults(run=benchmark_adversarial, repeats=5)
    patches = commands.add_parser("patches", help="overhead of certificates against patches")
    patches.add_argument("--inpainter", help="model.pt that training=inpainter wrote, to measure it as well")
    patches.add_argument("--quick", action="store_true", help="repeat once")
    patches.set_defaults(run=benchmark_patches, repeats=5)
    wrap = commands.add_parser("wrap", help="cost of certseg.wrap")
    wrap.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("H", "W"))
    wrap.add_argument("--model", default="lraspp_mobilenet_v3_large", help="a segmentation network of torchvision")
    wrap.add_argument("--classes", type=int, default=19)
    wrap.add_argument("--batch", type=int, default=4)
    wrap.add_argument("--repeats", type=int, default=15)
    wrap.add_argument("--hardware", default="auto", help="a choice of configs/hardware")
    wrap.set_defaults(run=benchmark_wrap)
    large, small = (360, 480), (240, 320)
    for command, size, classes in (
        (segcertify, large, 19),
        (sea, large, 19),
        (adversarial, small, 19),
        (patches, large, 11),
    ):
        command.add_argument("--size", type=int, nargs=2, default=size, metavar=("H", "W"))
        command.add_argument("--model", default="upernet_tiny", help="a preset of configs/model")
        command.add_argument("--classes", type=int, default=classes)
        command.add_argument("--repeats", type=int)
        command.add_argument("--hardware", default="auto", help="a choice of configs/hardware")
        command.add_argument("overrides", nargs="*", help="further settings, for example hardware.noise_batch=4")
    lipschitz = commands.add_parser("lipschitz", help="cost of Lipschitz certificates, also against SegCertify")
    lipschitz.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    lipschitz.add_argument("--model", default="lip_deeplabv3", help="a Lipschitz preset of configs/model")
    lipschitz.add_argument("--classes", type=int, default=19)
    lipschitz.add_argument("--radii", type=float, nargs="+", default=[0.17, 1.0])
    lipschitz.add_argument("--small", type=int, nargs=2, default=(120, 160), metavar=("H", "W"), help="of images run")
    lipschitz.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="of baked forward passes")
    lipschitz.add_argument("--n", type=int, nargs="+", default=[100, 1000], help="samples of SegCertify")
    lipschitz.add_argument("--quick", action="store_true", help="leave out n of 1000 and more")
    lipschitz.add_argument("--hardware", default="cpu", help="a choice of configs/hardware")
    lipschitz.add_argument("--repeats", type=int, default=3)
    lipschitz.add_argument("overrides", nargs="*", help="further settings, for example model.size=S")
    lipschitz.set_defaults(run=benchmark_lipschitz)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
