"""The nouns every part of certseg shares: threats, samples, segmenters, attacks, certificates.

Conventions. Images are float32 RGB in [0, 1], ``3 x H x W``; every radius, sigma and epsilon is on that scale, over the
whole image (an l2 norm sums over all channels and pixels). Targets are int64 ``H x W`` with :data:`IGNORE_INDEX` where
there is no label. Abstention is a boolean mask, never a class id.
"""

from certseg.types.bounds import CoarseLogits, LipschitzBound
from certseg.types.contracts import Inpainter, LipschitzSegmenter, SegmentationDataset, Segmenter, Store
from certseg.types.images import IGNORE_INDEX, Sample, check_image, check_target
from certseg.types.results import AttackResult, Certificate, Maps, MemberResult, Passes, Row, TrainingOutput
from certseg.types.threats import L1, L2, THREATS, Linf, NormBall, Patch, Threat

__all__ = [
    "IGNORE_INDEX",
    "L1",
    "L2",
    "THREATS",
    "AttackResult",
    "Certificate",
    "CoarseLogits",
    "Inpainter",
    "Linf",
    "LipschitzBound",
    "LipschitzSegmenter",
    "Maps",
    "MemberResult",
    "NormBall",
    "Passes",
    "Patch",
    "Row",
    "Sample",
    "SegmentationDataset",
    "Segmenter",
    "Store",
    "Threat",
    "TrainingOutput",
    "check_image",
    "check_target",
]
