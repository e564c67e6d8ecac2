"""The nouns every part of certseg shares: threats, samples, segmenters, attacks, certificates.

Conventions. Images are float32 RGB in [0, 1], ``3 x H x W``; every radius, sigma and epsilon is on that scale, over the
whole image (an l2 norm sums over all channels and pixels). Targets are int64 ``H x W`` with :data:`IGNORE_INDEX` where
there is no label. Abstention is a boolean mask, never a class id.
"""

from certseg.types.attempts import Attempt, Level
from certseg.types.capabilities import CoarseLogits, LipschitzBound
from certseg.types.contracts import (
    AnyAttack,
    Attack,
    Certifier,
    Distribution,
    Inpainter,
    Sampling,
    SegmentationDataset,
    SmallestAttack,
    Stage,
    Store,
)
from certseg.types.guarantees import Guarantee, Promise
from certseg.types.images import (
    IGNORE_INDEX,
    MOST_CLASSES,
    Sample,
    check_image,
    check_target,
    checked_sample,
    class_ids,
    sides_of,
)
from certseg.types.region_tests import RegionFindings, Regions, RegionTest
from certseg.types.results import (
    AttackResult,
    Certificate,
    Maps,
    MemberResult,
    MinimumNormResult,
    Passes,
    Row,
    Samples,
    Score,
    TrainingOutput,
)
from certseg.types.segmenters import (
    LipschitzSegmenter,
    Segmenter,
    coarse_logits_of,
    lipschitz_bound_of,
    lipschitz_segmenter_of,
    segmenter_of,
)
from certseg.types.threats import L1, L2, THREATS, Linf, NormBall, Patch, Sides, Threat, Unbounded, threat_of
from certseg.types.vanishing import Goal, Vanish

__all__ = [
    "IGNORE_INDEX",
    "L1",
    "L2",
    "MOST_CLASSES",
    "THREATS",
    "AnyAttack",
    "Attack",
    "AttackResult",
    "Attempt",
    "Certificate",
    "Certifier",
    "CoarseLogits",
    "Distribution",
    "Goal",
    "Guarantee",
    "Inpainter",
    "Level",
    "Linf",
    "LipschitzBound",
    "LipschitzSegmenter",
    "Maps",
    "MemberResult",
    "MinimumNormResult",
    "NormBall",
    "Passes",
    "Patch",
    "Promise",
    "RegionFindings",
    "RegionTest",
    "Regions",
    "Row",
    "Sample",
    "Samples",
    "Sampling",
    "Score",
    "SegmentationDataset",
    "Segmenter",
    "Sides",
    "SmallestAttack",
    "Stage",
    "Store",
    "Threat",
    "TrainingOutput",
    "Unbounded",
    "Vanish",
    "check_image",
    "check_target",
    "checked_sample",
    "class_ids",
    "coarse_logits_of",
    "lipschitz_bound_of",
    "lipschitz_segmenter_of",
    "segmenter_of",
    "sides_of",
    "threat_of",
]
