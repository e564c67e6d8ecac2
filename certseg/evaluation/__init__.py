"""The image loop: stages that turn images into rows, and summaries that are functions of rows alone."""

from certseg.evaluation.attack import AttackStage
from certseg.evaluation.certification import CertificationStage, Certifier
from certseg.evaluation.loop import Stage, evaluate
from certseg.evaluation.minimum_norm import MinimumNormStage
from certseg.evaluation.prediction import PredictionStage

__all__ = [
    "AttackStage",
    "CertificationStage",
    "Certifier",
    "MinimumNormStage",
    "PredictionStage",
    "Stage",
    "evaluate",
]
