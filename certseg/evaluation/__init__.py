"""The image loop: stages that turn images into rows, and summaries that are functions of rows alone."""

from certseg.evaluation.attack import AttackStage
from certseg.evaluation.certification import CertificationStage, region_test_of
from certseg.evaluation.loop import evaluate
from certseg.evaluation.minimum_norm import MinimumNormStage
from certseg.evaluation.prediction import PredictionStage

__all__ = [
    "AttackStage",
    "CertificationStage",
    "MinimumNormStage",
    "PredictionStage",
    "evaluate",
    "region_test_of",
]
