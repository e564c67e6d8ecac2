"""The image loop: stages that turn images into rows, and summaries that are functions of rows alone."""

from certseg.evaluation.attack import AttackStage
from certseg.evaluation.bounds import check_bounds
from certseg.evaluation.bracket import check_bracket
from certseg.evaluation.certification import CertificationStage, Certifier
from certseg.evaluation.loop import Stage, Store, evaluate
from certseg.evaluation.minimum_norm import MinimumNormStage, check_norms
from certseg.evaluation.prediction import PredictionStage

__all__ = [
    "AttackStage",
    "CertificationStage",
    "Certifier",
    "MinimumNormStage",
    "PredictionStage",
    "Stage",
    "Store",
    "check_bounds",
    "check_bracket",
    "check_norms",
    "evaluate",
]
