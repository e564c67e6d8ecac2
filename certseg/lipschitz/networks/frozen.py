"""The baked form of a Lipschitz network at one moment, what is proven about it, and how far its logits are rounded."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from certseg.errors import ModelError
from certseg.lipschitz.audit import Audit, ConstantCertificate, fingerprint
from certseg.lipschitz.audit.walk import check_untouched
from certseg.lipschitz.layers import PositionBias
from certseg.types import LipschitzBound

_CALIBRATION = 100.0  # measured rounding errors times this
_MARGIN = 16.0  # over the textbook bound of the head's sum, as in the audit


@dataclass
class Frozen:
    """The network of one moment: baked, without gradients of its weights, with what was proven about it.

    Args:
        state: what the network was when it was baked (:func:`certseg.lipschitz.audit.state_of`).
        body: the part that maps images to features.
        head: the part that maps features to logits, a 1x1 convolution.
        offset: the part that adds what does not depend on the image to the logits.
        logits: all three one after the other, compiled if the network is.
        bounds: for each size of images asked for, what the audit proved.
    """

    state: tuple[object, ...]
    body: nn.Module
    head: nn.Module
    offset: nn.Module
    logits: Callable[[Tensor], Tensor]
    bounds: dict[tuple[int, int], tuple[ConstantCertificate, LipschitzBound]] = field(default_factory=dict)

    @property
    def matrix(self) -> nn.Conv2d:
        """The head, as the convolution that it must be.

        Raises:
            ModelError: it is anything else.
        """
        if type(self.head) is not nn.Conv2d:
            raise ModelError(
                "The head of a Lipschitz network must be a matrix", expected="a 1x1 Conv2d", received=self.head
            )
        return self.head

    @functools.cached_property
    def audit(self) -> Audit:
        """The audit of the body; the norms of its layers serve images of all sizes."""
        return Audit(self.body)

    @functools.cached_property
    def weights(self) -> str:
        """sha256 of all weights and modules that make the logits."""
        return fingerprint(nn.ModuleDict({"body": self.body, "head": self.head, "offset": self.offset}))

    def check_ends(self, num_classes: int, output: tuple[int, int, int], size: tuple[int, int]) -> None:
        """Raise :class:`ModelError` unless the logits are one matrix times the features of each pixel, plus a
        translation: the constant says nothing of logits made otherwise.

        Args:
            num_classes: number of classes of the network.
            output: channels, height and width of the features.
            size: height and width of the images.
        """
        head, offset = self.head, self.offset
        check_untouched(head, "the head")
        check_untouched(offset, "the offset")
        is_matrix = type(head) is nn.Conv2d and (
            (head.kernel_size, head.stride, head.dilation, head.groups) == ((1, 1), (1, 1), (1, 1), 1)
            and head.padding == (0, 0)
            and head.weight.shape == (num_classes, output[0], 1, 1)
            and (head.bias is None or head.bias.shape == (num_classes,))
        )
        if not is_matrix:
            raise ModelError(
                "The head of a Lipschitz network must be a matrix",
                expected=f"a 1x1 Conv2d of {output[0]} features to {num_classes} classes, stride 1 and no padding",
                received=head,
            )
        is_map = type(offset) is PositionBias and offset.map.ndim == 4 and offset.map.shape[:2] == (1, num_classes)
        if not (is_map or type(offset) is nn.Identity):
            raise ModelError(
                "Behind the head of a Lipschitz network only a translation may follow",
                expected=f"PositionBias of {num_classes} classes or Identity",
                received=offset,
            )
        if output[1:] != size:
            raise ModelError(
                "The features of a Lipschitz network must have the size of the image",
                expected=f"{size[0]}x{size[1]}",
                received=f"{output[1]}x{output[2]}",
            )

    def rounding(self, certificate: ConstantCertificate) -> float:
        """Bound of the rounding error of one logit, proven before anything is computed: that of the features, carried
        through the head, and that of the head's own sum, with the audit's margin. Of use in float64 alone: in float32
        it is larger than the logits of any deep network."""
        longest, offsets = self._sizes()
        rounding = _MARGIN * (self.matrix.in_channels + 8) * self.audit.unit
        features = certificate.magnitude + certificate.error
        return (longest * certificate.error + rounding * (longest * features + offsets)) * (1.0 + 1e-6)

    def _sizes(self) -> tuple[float, float]:
        """The norm of the head's longest row, and what no entry of the translation behind it exceeds."""
        head = self.matrix
        offsets = 0.0 if head.bias is None else float(head.bias.abs().max())
        if isinstance(self.offset, PositionBias):
            offsets += float(self.offset.map.abs().max())
        return float(head.weight[:, :, 0, 0].double().norm(dim=1).max()), offsets

    def measured_rounding(self, certificate: ConstantCertificate) -> float:
        """A hundred times the largest difference to float64 on images of noise, of black and white noise and of one
        colour; at least one rounding of the largest logit that there can be, for a part of the network that these
        images leave idle shows no difference. No bound: what other images do is not proven."""
        longest, offsets = self._sizes()
        least = self.audit.unit * (longest * certificate.magnitude + offsets)
        size, device = certificate.size, self.matrix.weight.device
        noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
        probes = torch.cat([noise, (noise > 0.5).float(), torch.full_like(noise, 0.7)])
        exact = copy.deepcopy((self.body, self.head, self.offset))
        with torch.no_grad():
            wanted = probes.double()
            for part in exact:
                wanted = part.double()(wanted)
            return max(_CALIBRATION * float((self.logits(probes).double() - wanted).abs().max()), least)


class Holder:
    """Keeps the baked network out of torch's sight, and out of copies, which make their own."""

    def __init__(self) -> None:
        self.frozen: Frozen | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> Holder:
        return Holder()

    def __reduce__(self) -> tuple[type[Holder], tuple[()]]:
        return Holder, ()
