"""A defence by masked copies as an attack sees it: gradients through the copies, success by its own answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations_with_replacement
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from certseg.attacks.losses import Pixels
from certseg.attacks.objective import AttackObjective, Evaluation, Summary, checked_logits
from certseg.checks import check_count
from certseg.compute.hardware import Hardware
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError
from certseg.patches.canvas import PatchCanvas
from certseg.patches.masks import MaskSet, erase
from certseg.types import (
    IGNORE_INDEX,
    Certificate,
    CoarseLogits,
    Guarantee,
    Inpainter,
    Passes,
    Segmenter,
    coarse_logits_of,
    sides_of,
)


@runtime_checkable
class MaskedDefence(Protocol):
    """What is needed of a certifier against patches (:class:`certseg.certifiers.DemaskedRecovery` and its siblings):
    that it answers for an image by what a network says of masked, inpainted copies."""

    name: str
    predictor: str
    guarantee: Guarantee
    inpainter: Inpainter | None
    asks_image: bool
    asks_pairs: bool

    def masks(self, size: tuple[int, int]) -> MaskSet:
        """The masks of the first round for images of this height and width."""

    def predict(self, segmenter: Segmenter, image: Tensor, *, hardware: Hardware, name: str = "image") -> Tensor:
        """The answer ``H x W``."""

    def certify(self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware) -> Certificate:
        """Answer and certified pixels; of a detection those that raise no alert."""


@dataclass(frozen=True)
class Defence:
    """Attack the answer of a certifier against patches in the place of the network's, by expectation over masks.

    The gradient is that of the mean loss over masked, inpainted copies, also those with pairs of masks and the image
    itself where the certifier asks the network for them. Copies in which no patch shows are left out:
    they do not depend on it. Where an inpainter is not differentiable (Telea, Navier-Stokes, TorchScript), what it
    fills in counts as constant and the gradient flows through visible pixels alone. Points are judged by the real
    answer: of a detection by the pixels that are correct or raise an alert.

    Args:
        certifier: the certifier against patches whose answer is attacked.
        copies: number of copies drawn at random for each gradient, without repetition, the image itself always among
            them where the certifier asks for it; None takes all copies.
        judge_every: number of steps from one point that is judged by the answer to the next; the first and the last
            point always are.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    certifier: MaskedDefence
    copies: int | None = None
    judge_every: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.certifier, MaskedDefence):
            raise ConfigError(
                "An attack on a defence needs a certifier against patches",
                expected="for example demasked_recovery",
                received=type(self.certifier).__name__,
                remedy="Or attack the network: attack=patch",
            )
        check_count("attack.defence.copies", self.copies, optional=True)
        check_count("attack.defence.judge_every", self.judge_every)
        if self.copies == 1 and self.certifier.asks_image:
            raise ConfigError(
                f"One copy shows the attack no mask of {self.certifier.name}, which also asks for the image itself",
                expected="attack.defence.copies of at least 2",
                received=1,
            )

    @property
    def predictor(self) -> str:
        """The attacked model, in the words of its certificates."""
        return self.certifier.predictor

    @property
    def raises_alerts(self) -> bool:
        """Whether it detects: certified pixels may then change where there is an alert."""
        return self.certifier.guarantee.excuses_alerts


class Judgement(NamedTuple):
    """What a defence answers at a point: classes ``H x W``, the pixels that raise an alert (None where there is no such
    thing), and the share of labelled pixels that are correct or raise one, 0 without any."""

    classes: Tensor
    alerts: Tensor | None
    safe: float


class PatchObjective(AttackObjective):
    """The objective of the network itself, whose self-checks look at the gradient inside the patches alone.

    :attr:`canvas` is to be set before a point is evaluated.
    """

    canvas: PatchCanvas
    instead = "attack=square attack.norm=patch"

    def record(self, evaluation: Evaluation, summary: Summary, passes: Passes) -> Evaluation:
        """Count an evaluation and let its self-checks see it; one that was not judged has an accuracy of NaN."""
        self._calls += 1
        self.passes += passes
        if evaluation.accuracy == evaluation.accuracy:
            self.accuracies.append(evaluation.accuracy)
        if summary.check != 0.0:  # NaN
            raise self._broken()
        if evaluation.accuracy != 0.0:
            inside = self.canvas.read(evaluation.gradient)
            zeros = float((inside == 0).to(torch.float32).mean())
            self._zero_shares.append(zeros)
            if zeros == 1.0:
                self._flags.add("zero_gradient")
        return evaluation


class DefendedObjective(PatchObjective):
    """The objective of a defence.

    Args:
        defence: what is attacked.
        segmenter: the network that the defence asks.
        target: ``H x W`` int64 labels, 255 ignored.
        loss: a key of :data:`certseg.attacks.losses.LOSSES`, whose mean over labelled pixels and copies is to be
            raised.
        stream: the image's random numbers for this attack.
        hardware: device, and how many copies go through the network at once.
    """

    instead = "attack=square_defended"

    def __init__(
        self,
        defence: Defence,
        segmenter: Segmenter,
        target: Tensor,
        loss: str,
        stream: NoiseStream,
        hardware: Hardware,
    ) -> None:
        super().__init__(segmenter, target, loss, None, stream, hardware)
        self._defence, self._counted = defence, _Counted(segmenter)
        certifier, device = defence.certifier, hardware.torch_device
        self._hidden = certifier.masks(sides_of(target)).hidden(device)
        number = len(self._hidden)
        single = [(k, k) for k in range(number)]
        self._copies = list(combinations_with_replacement(range(number), 2)) if certifier.asks_pairs else single
        self._shown: tuple[PatchCanvas | None, list[tuple[int, int]]] = (None, [])

    def at(self, point: Tensor, progress: float, is_judged: bool) -> Evaluation:
        """The objective at ``point`` (``3 x H x W``); its accuracy is the share of safe pixels, NaN if not judged.

        Raises:
            ModelError: NaN or infinite logits or gradients.
        """
        safe = self.judge(point).safe if is_judged else float("nan")
        copies = self._drawn()
        loss, gradient, check = 0.0, torch.zeros_like(point), 0.0
        done = 0
        while done < len(copies):
            (part, slope, extremes), size = self.batch.run(
                partial(self._part, point, copies[done:], progress), len(copies) - done
            )
            loss, check, gradient = loss + part / len(copies), check + extremes, gradient.add_(slope / len(copies))
            done += size
        passes = Passes(done, done)
        return self.record(Evaluation(point, safe, loss, gradient), Summary(safe, loss, 0.0, check * 0.0), passes)

    def judge(self, point: Tensor) -> Judgement:
        """What the defence answers at a point.

        Raises:
            ModelError: NaN or infinite logits.
        """
        certifier, before, alerts = self._defence.certifier, self._counted.forward, None
        if self._defence.raises_alerts:
            stream = NoiseStream(0, self.name)  # names the image; nothing is drawn
            certificate = certifier.certify(self._counted, point, stream=stream, hardware=self._hardware)
            classes, alerts = certificate.classes, ~certificate.certified
        else:
            classes = certifier.predict(self._counted, point, hardware=self._hardware, name=self.name)
        self.passes += Passes(self._counted.forward - before)
        target = self.target.cpu()
        safe = (classes == target) if alerts is None else (classes == target) | alerts
        labelled = target != IGNORE_INDEX
        return Judgement(classes, alerts, int((safe & labelled).sum()) / max(1, int(labelled.sum())))

    def _drawn(self) -> list[tuple[int, int]]:
        """The copies of the next gradient: pairs of masks, (k, k) for mask k alone."""
        if self._shown[0] is not self.canvas:
            self._shown = self.canvas, self._showing()
        shown, number = self._shown[1], self._defence.copies
        if number is None or number >= len(shown):
            return shown
        generator = self._stream.for_purpose("attack copies").generator(self._calls, torch.device("cpu"))
        always = shown[:1] if self._defence.certifier.asks_image else []  # the answer wherever no copy overrules it
        others = shown[len(always) :]
        drawn = torch.randperm(len(others), generator=generator)[: number - len(always)].tolist()
        return [*always, *(others[index] for index in drawn)]

    def _showing(self) -> list[tuple[int, int]]:
        """The copies in which a pixel of the patches shows; -1 stands for the image itself."""
        covered = self._hidden[:, self.canvas.inside]
        shown = [(m, n) for m, n in self._copies if not (covered[m] | covered[n]).all()]
        return [(-1, -1), *shown] if self._defence.certifier.asks_image else shown

    def _part(
        self, point: Tensor, copies: Sequence[tuple[int, int]], progress: float, most: int
    ) -> tuple[float, Tensor, float]:
        """Sum of the losses of the first ``most`` copies, its gradient, and a number that is finite if all logits and
        the gradient are."""
        nothing = torch.zeros_like(self._hidden[0])
        hidden = torch.stack([nothing if m < 0 else self._hidden[m] | self._hidden[n] for m, n in copies[:most]])
        leaf = point[None].detach().requires_grad_(True)
        images = inpainted(leaf.expand(len(hidden), -1, -1, -1), hidden, self._defence.certifier.inpainter)
        target = self.target.expand(len(hidden), -1, -1)
        pixels = Pixels(checked_logits(self.segmenter, images, self.instead), target)
        attacked = self.attacked(pixels, progress, self.number.expand(len(hidden)))
        (gradient,) = torch.autograd.grad(attacked.sum(), leaf)
        check = pixels.decision[1].to(gradient.dtype).sum() + gradient.sum()
        total, check = torch.stack([attacked.detach().sum(), check.to(attacked.dtype)]).tolist()
        return total, gradient[0], check


def inpainted(images: Tensor, hidden: Tensor, inpainter: Inpainter | None) -> Tensor:
    """Masked and inpainted ``images`` (``B x 3 x H x W``), differentiable with respect to visible pixels whatever the
    inpainter is; ``hidden`` is ``B x H x W`` bool."""
    erased = erase(images, hidden)
    if inpainter is None:
        return erased
    filled = inpainter(erased, hidden)
    return filled if filled.requires_grad else torch.where(hidden[:, None], filled, erased)


class _Counted:
    """A segmenter that counts the images it is given."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self.num_classes, self.forward = segmenter, segmenter.num_classes, 0

    def __call__(self, images: Tensor) -> Tensor:
        self.forward += len(images)
        return self._segmenter(images)

    def coarse_logits(self, images: Tensor) -> CoarseLogits | None:
        """Those of the segmenter, counted where it gives some."""
        logits = coarse_logits_of(self._segmenter, images)
        self.forward += 0 if logits is None else len(images)
        return logits
