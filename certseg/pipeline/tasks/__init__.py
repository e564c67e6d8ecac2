"""What a run may be: the evaluation of a network on a data set, pictures to certify, or an inpainter to train."""

from pathlib import Path

from certseg.pipeline.tasks.deploy import deploy
from certseg.pipeline.tasks.evaluate import evaluate
from certseg.pipeline.tasks.task import Task
from certseg.pipeline.tasks.train_inpainter import train_inpainter

__all__ = ["Task", "deploy", "evaluate", "perform", "train_inpainter"]


def perform(task: Task) -> Path | None:
    """Do what a run asks for: train an inpainter if its training has one, certify the pictures at ``input`` if that is
    set, and evaluate otherwise. Only an evaluation has a report, whose path is returned on rank 0."""
    training, pictures = task.spec.training, task.spec.input
    if training is not None and training.inpainter is not None:
        train_inpainter(task, training, training.inpainter)
        return None
    if pictures is not None:
        deploy(task, pictures)
        return None
    return evaluate(task)
