"""What is certified against what was attacked: who may be compared with whom, and whether they agree.

Certified from below, attacked from above: no attack within a threat may undercut what a certificate promises for it.
"""

from certseg.bracket.bounds import check_bounds
from certseg.bracket.check import Finished, check
from certseg.bracket.comparison import Comparison
from certseg.bracket.lost_objects import ObjectFindings, check_objects
from certseg.bracket.norms import NormFindings, check_norms
from certseg.bracket.pixels import PixelFindings, check_pixels

__all__ = [
    "Comparison",
    "Finished",
    "NormFindings",
    "ObjectFindings",
    "PixelFindings",
    "check",
    "check_bounds",
    "check_norms",
    "check_objects",
    "check_pixels",
]
