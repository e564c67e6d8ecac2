"""The task of ``training=inpainter``: to train an inpainter, or find it trained, and say where its checkpoint lies."""

from __future__ import annotations

from pathlib import Path

from certseg.compute.hardware import rank
from certseg.patches.inpainting import MaskedUNet
from certseg.pipeline import earlier_keys
from certseg.pipeline.console import say
from certseg.pipeline.keys import inpainter_identity
from certseg.pipeline.places import Identity
from certseg.pipeline.settings import build
from certseg.pipeline.spec import ObjectSpec, RunSpec, TrainingSpec
from certseg.pipeline.tasks.task import Task
from certseg.pipeline.trainings import find_or_train, training_data
from certseg.training import Recipe, TrainableInpainter


def inpainter_parts(training: TrainingSpec, inpainter: ObjectSpec) -> tuple[Recipe, MaskedUNet]:
    """The recipe and the untrained network of an inpainter's training.

    Args:
        training: the recipe's spec.
        inpainter: the network's spec.

    Raises:
        CertsegError: a setting is outside its domain, missing or unknown.
    """
    return build("training", training), build("training.inpainter", inpainter)


def train_inpainter(task: Task, training: TrainingSpec, inpainter: ObjectSpec) -> None:
    """Train the inpainter of the run, or find it trained, and say where it lies and how it is used.

    Args:
        task: the run.
        training: its recipe.
        inpainter: the network that is trained.

    Raises:
        ConfigError: there is no training split, or a setting is outside its domain.
        CertsegError: as :func:`certseg.training.train`.
    """
    spec, hardware = task.spec, task.hardware
    task.check_tracking()
    hardware.setup(spec.seed)
    recipe, network = inpainter_parts(training, inpainter)
    data = training_data(spec, "Give dataset.train_split=...")

    def parts() -> tuple[Recipe, TrainableInpainter]:
        return recipe, TrainableInpainter(network, len(data.class_names))

    folder = Path(spec.output) / data.name / recipe.name
    identity = _identity(spec, data.fingerprint())
    report = find_or_train(spec, data, folder, identity, parts, hardware, task.tracker.training_options()).report
    if rank() == 0:
        cost = f"Trained in {report.seconds:.0f} s, {report.seconds_per_iteration:.2g} s per iteration"
        error = "".join(f", mean absolute error of hidden values {value:.4g}" for value in report.figures.values())
        say(f"{'Reused training' if report.reused else cost}{error}: {report.checkpoint}")
        say(f"Use it: certifier/inpainter=learned certifier.inpainter.checkpoint={report.checkpoint}")


def _identity(spec: RunSpec, fingerprint: str) -> Identity:
    composed = spec.settings_of_earlier
    earlier = earlier_keys.inpainter_identity(composed, fingerprint) if composed else None
    return Identity(inpainter_identity(spec, fingerprint), earlier)
