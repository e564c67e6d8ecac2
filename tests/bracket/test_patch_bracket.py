"""Certificates and attacks with patches on images of two sizes: what is compared, and planted faults."""

import copy

import numpy as np
import pytest
import torch
from support.brackets import Maps, Stored, changed, check_bounds, check_pixels
from support.brackets import certified as promised

from certseg.errors import BracketError
from certseg.metrics import CertifiedCounts, ClassCounts, worst_case_miou
from certseg.reporting import Entry, bracket_status
from certseg.types import Patch, Promise

SIZES = {"small": (20, 30), "large": (40, 60)}  # 1 % of the area: 2 x 3 and 4 x 6 pixels
SHARE, PIXELS = Patch(share=0.01), Patch(height=3, width=4)
NAMES = list(SIZES)


class Case:
    """Two images; class 1 left, class 0 right, of which two thirds are certified. The attack turns what is not."""

    def __init__(self, certified=SHARE, attacked=PIXELS, promise=Promise.EVERY_PIXEL):
        self.certifier = promised("demasked", "p", certified.to_json(), promise=promise)
        self.attack = {"name": "patch", "predictor": "p", "confidence": 1.0, "threat": attacked.to_json()}
        self.maps, self.left, self.rows, self.attacked = Maps(), Maps(), {}, {}
        for name, (height, width) in SIZES.items():
            target = (torch.arange(width) < width // 2).long().expand(height, -1)
            kept = (torch.arange(height) < 2 * height // 3)[:, None].expand(-1, width)
            prediction = torch.where(kept, target, 1 - target)
            self.maps[name] = {"classes": target.numpy().astype(np.uint8), "certified": kept.numpy()}
            self.left[name] = {"prediction": prediction.numpy().astype(np.uint8)}
            counts = CertifiedCounts.from_maps(target, kept, target, 2)
            self.rows[name] = row(certified, SIZES[name], {"certified": counts.to_json()})
            self.attacked[name] = row(attacked, SIZES[name], ClassCounts.from_maps(prediction, target, 2).to_json())
        kept = [CertifiedCounts.from_json(part["counts"]["certified"]) for part in self.rows.values()]
        left = [ClassCounts.from_json(part["counts"]) for part in self.attacked.values()]
        self.certifier["figures"] = {
            "certified_accuracy/image_mean": np.mean([one.accuracy() for one in kept]),
            "certified_accuracy/pooled": (kept[0] + kept[1]).accuracy(),
            "worst_case_miou/pooled": worst_case_miou(kept[0] + kept[1]),
        }
        self.attack["figures"] = {
            "attacked_accuracy/image_mean": np.mean([one.accuracy() for one in left]),
            "attacked_accuracy/pooled": (left[0] + left[1]).accuracy(),
            "attacked_miou/pooled": (left[0] + left[1]).miou(),
        }

    def bracket(self):
        return check_pixels(self.certifier, self.maps, self.attack, self.left, NAMES)

    def bounds(self):
        return check_bounds(self.certifier, Stored(self.rows, self.maps), self.attack, self.attacked, NAMES)

    def broken(self, name):
        """One certified pixel of an image changes."""
        case = copy.deepcopy(self)
        case.left[name]["prediction"][0, 0] ^= 1
        return case


def row(threat, size, counts):
    height, width = threat.size(*size)
    return {"figures": {"patch_height": height, "patch_width": width}, "counts": counts}


def test_pixels_and_shares_are_compared_where_the_attack_is_no_larger():
    case = Case()
    found = case.bracket()
    assert (found.images, found.skipped_images, found.certified_pixels) == (1, 1, 26 * 60)
    with pytest.raises(BracketError, match=r"at 1 pixels of image 'large'.*patch of 0\.01 of the image"):
        case.broken("large").bracket()
    assert case.broken("small").bracket() == found  # 3 x 4 pixels are more than is certified there


@pytest.mark.parametrize(
    ("certified", "attacked", "images"),
    [
        (SHARE, Patch(height=2, width=3), 2),
        (SHARE, Patch(height=4, width=7), 0),
        (SHARE, Patch(height=5, width=1), 0),
        (SHARE, Patch(height=1, width=1, count=2), 0),
        (Patch(share=0.01, count=2), Patch(height=1, width=1), 2),
        (PIXELS, SHARE, 1),
        (Patch(height=4, width=6), SHARE, 2),
        (Patch(share=0.02), SHARE, 2),
        (Patch(share=0.04, aspect=1), SHARE, 2),
        (SHARE, Patch(share=0.01, aspect=1), 0),
        (SHARE, Patch(share=0.02), 0),
    ],
    ids=str,
)
def test_which_images_are_compared(certified, attacked, images):
    case = Case(certified, attacked)
    found, bounds = case.bracket(), case.bounds()
    assert (found.images if found else 0) == images
    assert (found is None) == (bounds is None) == (images == 0)
    if images == 2:
        assert found.skipped_images is None
        with pytest.raises(BracketError, match="'small'"):
            case.broken("small").bracket()


def test_other_predictors_are_not_even_read():
    case = Case()
    case.attack["predictor"] = "base"
    case.maps.clear()
    assert case.bracket() is None
    assert case.bounds() is None


def test_an_attack_in_a_norm_has_no_patches_to_compare():
    case = Case()
    case.attack["threat"] = {"norm": "linf", "radius": 0.1}
    case.attacked = {name: {"figures": {}, "counts": {}} for name in NAMES}
    assert case.bracket() is None
    assert case.bounds() is None


def test_skipped_images_are_told():
    figures = {"bracket/violations": 0, "bracket/certified_pixels": 9, "bracket/skipped_images": 3}
    status = bracket_status([Entry({"kind": "attack", "images": 4, **Case().attack, "figures": figures})])
    assert status.endswith("; 3 images with larger patches not compared")


def test_bounds_are_counted_and_told():
    case = Case(attacked=SHARE)
    assert case.bounds() == 3 * 4 + 3  # correct pixels, of two classes, mean IoU; and the averages
    assert Case().bounds() == 2 * 4  # of one image, and of all that are compared
    found = case.bracket()
    compared = {"violations": 0, "certified_pixels": found.certified_pixels, "bounds": case.bounds()}
    figures = {f"bracket/{name}": value for name, value in compared.items()}
    attack = {"kind": "attack", "images": 2, **case.attack, "figures": figures}
    assert "no certified pixel changed, none of 15 bounds undercut" in bracket_status([Entry(attack)])


def lose(counts, k, pixels):
    counts["true_positive"][k] -= pixels
    counts["predicted"][k] -= pixels
    counts["predicted"][1 - k] += pixels


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda counts: lose(counts, 0, 1), r"left correct pixels 1559 of image 'large'.*at least 1560"),
        (lambda counts: (lose(counts, 0, 1), lose(counts, 1, -1)), r"correct pixels of class 0 779 of image 'large'"),
        (lambda counts: counts["predicted"].__setitem__(0, 10**6), r"left mean IoU .* of image 'large'"),
    ],
    ids=["correct pixels", "of a class", "mean IoU"],
)
def test_an_undercut_bound_of_an_image_is_an_error(edit, words):
    case = Case()
    edit(case.attacked["large"]["counts"])
    with pytest.raises(BracketError, match=words) as error:
        case.bounds()
    assert "within patch of 0.01 of the image" in str(error.value)
    other = Case()
    edit(other.attacked["small"]["counts"])
    other.bounds()  # the attack's patch is larger there


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("accuracy/image_mean", r"accuracy \(image_mean\)"),
        ("accuracy/pooled", r"accuracy \(pooled\)"),
        ("miou/pooled", "mean IoU"),
    ],
)
def test_an_undercut_average_is_an_error(figure, words):
    case = Case(attacked=SHARE)
    bound = case.certifier["figures"][f"{'worst_case' if 'miou' in figure else 'certified'}_{figure}"]
    figure = f"attacked_{figure}"
    case.attack["figures"][figure] = bound
    case.bounds()
    case.attack["figures"][figure] = bound - 1e-6
    with pytest.raises(BracketError, match=f"{words} .* of the 2 images together"):
        case.bounds()


def test_alerts_excuse_a_change_so_nothing_is_bounded():
    case = Case(attacked=SHARE, promise=Promise.UNTIL_ALERT)
    lose(case.attacked["large"]["counts"], 0, 700)
    assert case.bounds() is None
    assert case.bracket() is not None


def test_a_certificate_that_tolerates_errors_or_may_fail_bounds_nothing():
    average = {"promise": "error_share", "confidence": 0.0, "error_share": 0.1}
    for change in ({"promise": "all_but", "tolerated": 2}, average, {"confidence": 0.999}):
        case = Case(attacked=SHARE)
        case.certifier = changed(case.certifier, **change)
        assert case.bounds() is None
