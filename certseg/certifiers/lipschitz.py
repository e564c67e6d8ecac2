"""Certificates from a Lipschitz constant, in one forward pass (Massena et al. 2025, arXiv 2512.06010; seed 000)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from torch import Tensor

from certseg.checks import check_flag, check_number, checked_numbers
from certseg.compute.forward import check_logits
from certseg.compute.hardware import Hardware, Stopwatch
from certseg.compute.streams import NoiseStream
from certseg.errors import ConfigError, ModelError
from certseg.lipschitz.audit import full_precision
from certseg.lipschitz.worst_case import (
    ROW,
    SHARES,
    FlippableImage,
    RadiusFigures,
    allowed,
    defined_mean,
    figures_by_radius,
    flip_costs,
    object_radii,
)
from certseg.metrics import CertifiedCounts, worst_case_miou
from certseg.types import (
    L2,
    Certificate,
    Certifier,
    Guarantee,
    LipschitzBound,
    Maps,
    Passes,
    Promise,
    Row,
    Score,
    Segmenter,
    Sides,
    check_image,
    lipschitz_bound_of,
    lipschitz_segmenter_of,
    sides_of,
)
from certseg.types.capabilities import LARGEST


@dataclass(frozen=True, kw_only=True)
class LipschitzCertificate(Certificate):
    """A certificate with what further figures need. These tensors lie on the device on which they were computed.

    Args:
        logits: ``K x H x W``, the network's logits at the image.
        costs: ``H x W`` float64, the squared feature distance that changes each pixel's class
            (:func:`certseg.lipschitz.worst_case.flip_costs`).
        bound: what was proven about the network for images of this size.
    """

    logits: Tensor
    costs: Tensor
    bound: LipschitzBound

    @property
    def radii(self) -> Tensor:
        """``H x W`` float64 on the CPU: the l2 radius below which each pixel keeps its class, on the [0, 1] image
        scale and over the whole image, rounded down; all hold at once, each for its own perturbation."""
        return self.costs.cpu().sqrt() / self.bound.constant * (1.0 - 2.0**-50)

    def pictured_maps(self) -> Maps:
        """What is kept of pictured images only: ``radii`` in float32, not above the others."""
        radii = self.radii.numpy()
        small = radii.astype(np.float32)
        return {"radii": np.where(small > radii, np.nextafter(small, np.float32(0)), small)}

    def region_radii(self, right: Tensor, regions: Tensor, areas: np.ndarray, share: float) -> list[float]:
        """For each region the l2 radius below which no perturbation takes so many of its pixels that less than the
        share is right (:func:`certseg.lipschitz.worst_case.object_radii`)."""
        return object_radii(self.costs, right, regions, areas, share, self.bound.constant)


class Lipschitz(Certifier):
    """Certify every pixel whose class no perturbation within the radius can change, by the Lipschitz constant.

    Claim. Let the network's features be L-Lipschitz in the l2 norm over all pixels and channels together
    (:class:`certseg.types.LipschitzBound`). For every certified pixel i with class c_i and every perturbation d with
    ||d||_2 <= radius, the class of the network at x + d is c_i. Deterministic. Strict at the boundary: a pixel that a
    perturbation of exactly this norm might change is not certified.

    The same forward pass bounds, at every one of ``radii``, what one perturbation of the whole image can do together:
    pixel accuracy (exactly the optimum given logits and L), IoU of each class (also the optimum for a network without a
    head; with a head, what it costs to enter a class is known from below only, so that the IoU is a lower bound), mean
    IoU, false negative rates, and the radius at which a quarter, half and three quarters of the labelled pixels can
    change. ``certified_radius`` is the mean over labelled pixels of the radius below which each keeps its class,
    counted as 0 where that is wrong.

    Args:
        radius: the l2 radius of the certificate, on the [0, 1] image scale; at most sqrt(3 H W), the norm of the
            largest perturbation that an image has room for.
        radii: further radii to report, on the same scale and below the same bound, none negative.
        worst_case_iou: whether to bound IoUs too, which takes seconds for a large image.
        false_negative_rate: a rate in [0, 1). For each class the radius is reported that can push its false negative
            rate above this one.

    Raises:
        ConfigError: an argument is outside its domain.
    """

    name = "lipschitz"
    revision = 2  # in float32 the slack could be nothing, and nothing was said of what is assumed
    is_sampled = False

    def __init__(
        self,
        *,
        radius: float = 0.25,
        radii: Sequence[float] = (0.1, 0.17, 0.25, 0.5, 1.0),
        worst_case_iou: bool = True,
        false_negative_rate: float = 0.5,
    ) -> None:
        self._guarantee = Guarantee(Promise.EVERY_PIXEL, "base", L2(radius), confidence=1.0)
        radii = checked_numbers("certifier.radii", radii, "[0, inf)")
        check_flag("certifier.worst_case_iou", worst_case_iou)
        check_number("certifier.false_negative_rate", false_negative_rate, "[0, 1)")
        self.radius = float(radius)
        self.radii = tuple(sorted({*radii, float(radius)}))
        self.worst_case_iou, self.false_negative_rate = worst_case_iou, float(false_negative_rate)

    @property
    def settings(self) -> dict[str, object]:
        """Everything that decides the result."""
        return {
            "radius": self.radius,
            "radii": list(self.radii),
            "worst_case_iou": self.worst_case_iou,
            "false_negative_rate": self.false_negative_rate,
        }

    @property
    def guarantee(self) -> Guarantee:
        """Every certified pixel of the network itself, in an l2 ball, without any error probability. A certificate adds
        the assumption of a network whose rounding is not proven (:attr:`certseg.types.LipschitzBound.assumption`)."""
        return self._guarantee

    def check_size(self, size: Sides) -> None:
        """Raise ConfigError if a radius is above the norm of every perturbation of an image of this size."""
        self.check(size[0] * size[1])

    def check(self, num_pixels: int) -> None:
        """Raise ConfigError if a radius is above the norm of every perturbation of an image of so many pixels."""
        largest = math.sqrt(3 * num_pixels)
        if max(self.radii) > largest:
            raise ConfigError(
                f"A radius of certifier=lipschitz is larger than any perturbation of an image of {num_pixels} pixels",
                expected=f"at most {largest:.6g} = sqrt(3 H W)",
                received=max(self.radii),
            )

    def check_model(self, segmenter: Segmenter) -> None:
        """Raise :class:`certseg.errors.ModelError` if the network has no audited Lipschitz constant."""
        lipschitz_segmenter_of(segmenter)

    def certify(
        self, segmenter: Segmenter, image: Tensor, *, stream: NoiseStream, hardware: Hardware
    ) -> LipschitzCertificate:
        """Certify one image.

        Args:
            segmenter: a network with ``certified_bound`` (:class:`certseg.types.LipschitzSegmenter`), on the hardware's
                device.
            image: ``3 x H x W`` in [0, 1].
            stream: names the image; nothing is drawn from it.
            hardware: device. The network is run in its own precision, whatever ``hardware.precision``.

        Returns:
            The certificate, its tensors on the CPU but for ``logits`` and ``costs``.

        Raises:
            DataError: the image is not in [0, 1].
            ConfigError: a radius is above the norm of every perturbation of the image.
            ModelError: the network has no audited constant, none for this size, or one too large to compute with, or
                returned NaN, infinite or misshapen logits.
        """
        check_image(image, stream.name)
        self.check(image[0].numel())
        device = hardware.torch_device
        images = image[None].to(device)
        watch = Stopwatch(device)
        with watch("audit"), full_precision(device), torch.no_grad():
            bound = lipschitz_bound_of(segmenter, sides_of(image))
            if not bound.constant < LARGEST:
                raise ModelError("The Lipschitz constant is too large to compute with", received=bound.constant)
        with watch("forward"), full_precision(device), torch.no_grad():
            logits = segmenter(images)
            check_logits(logits, images, segmenter.num_classes)
        with watch("statistics"):
            try:
                classes, costs = flip_costs(logits[0], bound)
            except ModelError as error:
                raise ModelError(f"Image {stream.name!r} cannot be certified", received=error) from error
            budget = torch.tensor(bound.budget(self.radius), dtype=torch.float64)
            certified = costs > float(allowed(budget, 1))
        return LipschitzCertificate(
            classes=classes.cpu(),
            certified=certified.cpu(),
            guarantee=self.guarantee.provided(bound.assumption),
            passes=Passes(forward=1),
            seconds=watch.seconds,
            flags=bound.flags,
            logits=logits[0],
            costs=costs,
            bound=bound,
        )

    def score(self, certificate: LipschitzCertificate, target: Tensor) -> Score:
        """What the labels ``H x W`` add to a row: figures at ``radius``, counts at all radii, and the seconds spent."""
        watch = Stopwatch(certificate.costs.device)
        with watch("bounds"):
            found = certificate.classes, certificate.costs
            image = FlippableImage.of(certificate.logits, target, certificate.bound, found)
            counts = RadiusFigures.of(
                image,
                certificate.bound,
                sides_of(target),
                self.radii,
                false_negative_rate=self.false_negative_rate,
                worst_case_iou=self.worst_case_iou,
            )
        radii = torch.where(image.correct, certificate.radii.to(image.correct.device).flatten(), 0.0)[image.labelled]
        own = counts.at(self.radii.index(self.radius))
        own.pop("certified_accuracy")  # is a figure of every certifier
        shares = {f"robustness@{100 * share:.0f}": value for share, value in zip(SHARES, counts.share_radii)}
        others = {
            "certified_radius": float(radii.mean()) if len(radii) else math.nan,
            "lipschitz_constant": certificate.bound.constant,
        }
        return Score({**own, **shares, **others}, {ROW: counts.to_json()}, watch.seconds)

    def summarise(self, rows: Sequence[Row], class_names: Sequence[str]) -> dict[str, Any]:
        """What the rows add to a summary: ``figures`` at ``radius``, ``class_iou``, and all radii in ``by_radius``."""
        images = [RadiusFigures.from_json(row["counts"][ROW]) for row in rows]
        by_radius = figures_by_radius(images, self.radii, class_names)
        own = by_radius[self.radii.index(self.radius)]
        shown = ("certified_collective_accuracy/", "worst_case_miou/")
        figures = {name: value for name, value in own.items() if name.startswith(shown)}
        if "worst_case_miou/pooled" in figures:  # what the certified pixels alone say may be more, though it rarely is
            certified = (CertifiedCounts.from_json(row["counts"]["certified"]) for row in rows)
            figures["worst_case_miou/pooled"] = max(
                own["worst_case_miou/pooled"], worst_case_miou(reduce(add, certified))
            )
        shares = (f"robustness@{100 * share:.0f}" for share in SHARES)
        for name in ("grey_levels", "certified_radius", "lipschitz_constant", *shares):
            figures[f"{name}/image_mean"] = defined_mean([row["figures"].get(name) for row in rows])
        hidden = zip(class_names, zip(*(image.false_negative_radii for image in images)), strict=True)
        return {
            "figures": figures,
            "class_iou": {"worst_case": own["class_iou"]} if "class_iou" in own else {},
            "by_radius": by_radius,
            "false_negative_radius": {
                "rate": self.false_negative_rate,
                "image_mean": {name: defined_mean(radii) for name, radii in hidden},
            },
        }
