"""Training: one recipe, one objective, mmengine's runner; resumable to the bit and reused when finished.

:func:`train` runs a :class:`Recipe` (schedule, augmentation) whose :class:`Objective` says what a step minimises: the
loss of clean, noisy, attacked or masked images, that of a Lipschitz network, of a denoiser or of an inpainter.

>>> from certseg.training import NoiseObjective, Recipe
>>> Recipe(name="noise", objective=NoiseObjective(sigma=0.25), iterations=100).validation_interval
34
"""

from certseg.training.adversarial import AdversarialObjective
from certseg.training.consistency import ConsistencyObjective
from certseg.training.denoising import DenoiserObjective
from certseg.training.inpainting import InpainterObjective, TrainableInpainter
from certseg.training.lipschitz import LipschitzObjective
from certseg.training.masked import MaskedObjective
from certseg.training.objectives import CleanObjective, NoiseObjective, Objective
from certseg.training.recipe import Augmentation, Recipe
from certseg.training.trainer import TrainingReport, finished, train

__all__ = [
    "AdversarialObjective",
    "Augmentation",
    "CleanObjective",
    "ConsistencyObjective",
    "DenoiserObjective",
    "InpainterObjective",
    "LipschitzObjective",
    "MaskedObjective",
    "NoiseObjective",
    "Objective",
    "Recipe",
    "TrainableInpainter",
    "TrainingReport",
    "finished",
    "train",
]
