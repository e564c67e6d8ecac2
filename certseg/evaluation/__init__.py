"""The image loop: stages that turn images into rows, and summaries that are functions of rows alone."""

from certseg.evaluation.attack import AttackStage
from certseg.evaluation.bracket import check_bracket
from certseg.evaluation.certification import CertificationStage, Certifier
from certseg.evaluation.loop import Stage, Store, evaluate
from certseg.evaluation.prediction import PredictionStage

__all__ = [
    "AttackStage",
    "CertificationStage",
    "Certifier",
    "PredictionStage",
    "Stage",
    "Store",
    "check_bracket",
    "evaluate",
]
