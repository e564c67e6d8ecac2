"""Settings of certificates against patches: what is refused, and what tells results apart."""

import json

import pytest
import torch

from certseg.bracket import Comparison
from certseg.certifiers import (
    DemaskedDetection,
    DemaskedRecovery,
    DerandomizedSmoothing,
    PatchDoubleMasking,
    SegCertify,
)
from certseg.errors import ConfigError
from certseg.patches.inpainting import Black, Telea
from certseg.types import Attempt, Guarantee, Patch, Promise

PATCH = Patch(share=0.01)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DemaskedRecovery, {"masks": "diagonal"}),
        (DemaskedRecovery, {"rule": "majority"}),
        (DemaskedRecovery, {"num_masks": 0}),
        (DemaskedRecovery, {"patch": 0.01}),
        (DemaskedRecovery, {"inpainter": torch.Tensor}),
        (DemaskedDetection, {"masks": "three"}),
        (DemaskedDetection, {"width": 4}),
        (DemaskedDetection, {"num_masks": None, "width": 0}),
        (PatchDoubleMasking, {"num_masks": None}),
        (PatchDoubleMasking, {"patch": Patch(share=0.01, count=2)}),
        (DerandomizedSmoothing, {"width": 0}),
        (DerandomizedSmoothing, {"stride": 1.5}),
    ],
    ids=str,
)
def test_bad_settings(kind, settings):
    with pytest.raises(ConfigError):
        kind(**({"patch": PATCH, "inpainter": None} | settings))


def test_predictors_and_settings_tell_apart_what_differs():
    def recovery(inpainter, **options):
        return DemaskedRecovery(**({"patch": PATCH, "inpainter": inpainter} | options))

    one = [
        recovery(Telea()),
        recovery(Telea(5)),
        recovery(Black()),
        recovery(Black(), masks="row"),
        recovery(Black(), num_masks=6),
        recovery(Black(), patch=Patch(share=0.02)),
        recovery(Black(), patch=Patch(height=2, width=3)),
        DemaskedDetection(patch=PATCH, inpainter=Black()),
        DemaskedDetection(patch=PATCH, inpainter=Black(), num_masks=5),
        PatchDoubleMasking(patch=PATCH, inpainter=Black()),
        DerandomizedSmoothing(patch=PATCH),
        DerandomizedSmoothing(patch=PATCH, inpainter=Black()),
    ]
    assert len({certifier.predictor for certifier in one}) == len(one)
    assert len({json.dumps([c.name, c.settings]) for c in one}) == len(one)
    assert [certifier.name for certifier in one[-2:]] == ["drs_s", "drs_e"]


def test_the_bracket_compares_patches():
    guarantee = Guarantee(Promise.EVERY_PIXEL, "p", Patch(share=0.01), confidence=1.0)
    attacked = (Patch(share=0.01), Patch(share=0.005), Patch(share=0.02), SegCertify(sigma=0.25).threat)
    found = [Comparison.of(guarantee, Attempt("p", threat)).is_possible for threat in attacked]
    assert found == [True, True, False, False]
