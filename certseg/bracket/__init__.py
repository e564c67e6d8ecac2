"""What is certified against what was attacked: who may be compared with whom, and whether they agree.

Certified from below, attacked from above: no attack within a threat may undercut what a certificate promises for it.
"""

from certseg.bracket.bounds import check_bounds
from certseg.bracket.norms import NormBracket, check_norms
from certseg.bracket.pixels import Bracket, check_bracket

__all__ = ["Bracket", "NormBracket", "check_bounds", "check_bracket", "check_norms"]
