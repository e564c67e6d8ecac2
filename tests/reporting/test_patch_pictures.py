"""Pictures of certificates against patches: copies as certification sees them, stored small, drawn from the store."""

import numpy as np
import pytest
import torch
from PIL import Image
from support.linear_pixels import LinearPixels
from support.puppet import CPU, Puppet, certified, planted_classes, positive_image

from certseg.certifiers import DemaskedDetection, DemaskedRecovery, DerandomizedSmoothing, PatchDoubleMasking
from certseg.compute.decisions import NO_CLASS
from certseg.errors import ConfigError, ResultError
from certseg.evaluation import CertificationStage
from certseg.patches.copies import MaskedViews
from certseg.patches.inpainting import MeanColour, Telea
from certseg.patches.masks import erase
from certseg.reporting import Panel, RowStore, masked_picture, picture
from certseg.reporting.masked_pictures import OUTCOMES, masked_panels
from certseg.reporting.pictures import picture_figure
from certseg.types import Patch, Sample

C, SIZE = 3, (24, 32)
PATCH = Patch(height=2, width=3)
NAMES, PALETTE = ("sky", "road", "car"), ((70, 130, 180), (128, 64, 128), (0, 0, 142))


def certifiers(inpainter=None):
    return {
        "recovery": DemaskedRecovery(patch=PATCH, inpainter=inpainter, num_masks=7),
        "detection": DemaskedDetection(patch=PATCH, inpainter=inpainter, num_masks=5),
        "double": PatchDoubleMasking(patch=PATCH, inpainter=inpainter),
        "drs": DerandomizedSmoothing(patch=PATCH, inpainter=inpainter),
    }


def model():
    weights = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0], [2.0, -1.5, -1.5]])
    return LinearPixels(weights, torch.tensor([1.5, -1.5, 0.0]))


def image(seed=0):
    return torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(seed))


def sample():
    target = torch.randint(C, SIZE, generator=torch.Generator().manual_seed(1))
    target[0] = 255
    return Sample("a/b", image(), target)


@pytest.mark.parametrize("kind", sorted(certifiers()))
@pytest.mark.parametrize("inpainter", [None, MeanColour(), Telea()], ids=["none", "mean_colour", "telea"])
def test_views_show_what_certification_sees(kind, inpainter):
    certifier = certifiers(inpainter)[kind]
    views = certifier.masked_views(model(), image(), hardware=CPU)
    hidden = certifier.masks(SIZE).hidden()
    last = len(hidden) - 1
    assert torch.equal(views.hidden, hidden[[0, round(last / 2), last]])
    erased = erase(image().expand(3, -1, -1, -1), views.hidden)
    assert torch.equal(views.images, erased if inpainter is None else inpainter(erased, views.hidden))
    assert torch.equal(views.classes.long(), model()(views.images).argmax(dim=1))


@pytest.mark.parametrize("kind", ["recovery", "detection", "drs"])
def test_views_have_the_votes_that_are_counted(kind):
    certifier = certifiers()[kind]
    hidden = certifier.masks(SIZE).hidden()
    planted = planted_classes(len(hidden) + 1, SIZE, C, 0.9, 0)
    puppet = Puppet(positive_image(SIZE), hidden, planted[1:], planted[0], C)
    certified(certifier, puppet, puppet.image)
    asked = set(puppet.asked)
    views = certifier.masked_views(puppet, puppet.image, hardware=CPU, number=len(hidden) + 5)
    assert torch.equal(views.classes.long(), planted[1:])
    assert asked - {-1} == set(range(len(hidden)))
    one = certifier.masked_views(puppet, puppet.image, hardware=CPU, number=1)
    assert torch.equal(one.classes.long(), planted[1:2])
    with pytest.raises(ConfigError, match="positive"):
        certifier.masked_views(puppet, puppet.image, hardware=CPU, number=0)


def test_predictions_that_do_not_count_are_not_shown():
    def classes(**options):
        return (
            PatchDoubleMasking(patch=PATCH, inpainter=None, **options)
            .masked_views(model(), image(), hardware=CPU)
            .classes
        )

    logits = model()(certifiers()["double"].masked_views(model(), image(), hardware=CPU).images)
    sure = logits.softmax(dim=1).amax(dim=1) >= 0.8
    assert 0 < sure.float().mean() < 1
    assert (classes() != NO_CLASS).all()
    assert torch.equal(classes(min_probability=0.8), torch.where(sure, classes(), NO_CLASS))


def test_stored_views_are_small_and_give_the_copies_back():
    hidden = certifiers()["recovery"].masks(SIZE).hidden()[:2]
    classes = torch.tensor([0, NO_CLASS, 2], dtype=torch.int16).repeat(2, *SIZE)[..., : SIZE[1]]
    images = image().repeat(2, 1, 1, 1)
    maps = MaskedViews(hidden, images, classes).maps
    assert [(maps[name].dtype, maps[name].shape) for name in sorted(maps)] == [
        (np.uint8, (2, *SIZE)),
        (bool, (2, *SIZE)),
        (np.uint8, (2, 3, *SIZE)),
    ]
    assert set(np.unique(maps["views_classes"])) == {0, 2, 255}
    shown = np.broadcast_to(hidden[:, None].numpy(), images.shape)
    assert not maps["views_inpainted"][~shown].any()
    assert np.abs(maps["views_inpainted"] / 255.0 - images.numpy())[shown].max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("kind", sorted(certifiers()))
def test_views_are_kept_of_pictured_images_only(kind, tmp_path):
    rows = []
    for pictured, kept in ((None, True), (["a/b"], True), (["c"], False), ([], False)):
        certifier = certifiers(MeanColour())[kind]
        stage = CertificationStage(certifier, model(), NAMES, seed=0, hardware=CPU, pictured=pictured)
        row, maps = stage.run(sample())
        assert {name for name in maps if name.startswith("views_")} == (
            {"views_hidden", "views_inpainted", "views_classes"} if kept else set()
        )
        rows.append({key: value for key, value in row.items() if key != "seconds"})
        if pictured is None:
            store = RowStore(tmp_path, identity={"a": 1})
            store.save_map("a/b", **maps)
            back = store.load_map("a/b")
            assert all(np.array_equal(back[name], value) for name, value in maps.items())
    assert all(row == rows[0] for row in rows)  # passes of pictures are not counted


# --- drawing ---------------------------------------------------------------------------------------------------------


def maps_of(fills=True):
    """Maps by hand: two copies, of which one says nothing at its last pixels."""
    hidden = np.zeros((2, 4, 6), dtype=bool)
    hidden[0, :, :2], hidden[1, :, 4:] = True, True
    inpainted = np.zeros((2, 3, 4, 6), dtype=np.uint8)
    if fills:
        inpainted[np.broadcast_to(hidden[:, None], inpainted.shape)] = 51
    classes = np.zeros((2, 4, 6), dtype=np.uint8)
    classes[1, 3] = 255
    answer = np.ones((4, 6), dtype=np.uint8)
    certified_there = np.ones((4, 6), dtype=bool)
    certified_there[:, 5] = False
    return {
        "classes": answer,
        "certified": certified_there,
        "views_hidden": hidden,
        "views_inpainted": inpainted,
        "views_classes": classes,
    }


def target():
    labels = np.ones((4, 6), dtype=np.int64)
    labels[1] = 2
    labels[0, 0] = 255
    return labels


def test_rows_show_copies_and_at_last_what_became_of_every_pixel():
    shown = np.full((4, 6, 3), 0.9)
    rows = masked_panels(shown, target(), maps_of(), uncertified="alert")
    assert [[panel.title for panel in row] for row in rows] == [
        ["masked copy 1", "inpainted", "its segmentation"],
        ["masked copy 2", "inpainted", "its segmentation"],
        ["ground truth", "answer", "certification map"],
    ]
    masked, filled, segmented = rows[0]
    np.testing.assert_allclose(masked.image[:, 2:], 0.9)
    np.testing.assert_allclose(masked.image[:, :2], 0.5)
    np.testing.assert_allclose(filled.image[:, 2:], 0.9)
    np.testing.assert_allclose(filled.image[:, :2], 0.2)
    assert segmented.abstains is None
    assert rows[1][2].abstains[3].all()
    assert not rows[1][2].abstains[:3].any()
    outcome = rows[2][2]
    assert outcome.abstention == "alert"
    assert outcome.labels.tolist() == [[1] + [0] * 5, [1] * 6, [0] * 6, [0] * 6]
    assert outcome.unlabelled.sum() == 1
    assert outcome.unlabelled[0, 0]
    assert outcome.abstains[:, 5].all()
    assert outcome.abstains.sum() == 4
    figure = picture_figure([outcome], NAMES, PALETTE)
    pixels = figure.axes[0].images[0].get_array()
    assert tuple(pixels[2, 2]) == OUTCOMES[0][1]
    assert tuple(pixels[1, 2]) == OUTCOMES[1][1]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["certified, correct", "certified, wrong", "alert", "no label"]


def test_copies_that_stay_black_are_shown_once(tmp_path):
    rows = masked_panels(np.full((4, 6, 3), 0.9), target(), maps_of(fills=False))
    assert [[panel.title for panel in row] for row in rows] == [
        ["masked copy 1", "its segmentation"],
        ["masked copy 2", "its segmentation"],
        ["ground truth", "certification map"],
    ]
    path = masked_picture(tmp_path / "a=masks.png", np.zeros((4, 6, 3)), target(), maps_of(False), NAMES, PALETTE)
    with Image.open(path) as drawn:
        assert drawn.width == 1800
    figure = picture_figure([panel for row in rows for panel in row], NAMES, PALETTE, columns=2)
    assert figure.axes[0].get_gridspec().get_geometry() == (3, 2)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["sky", "road", "car", *(name for name, _ in OUTCOMES), "no class", "not certified", "no label"]


def test_labels_without_a_name_of_their_own_are_refused(tmp_path):
    panel = Panel("x", labels=np.full((3, 3), 2), classes=OUTCOMES)
    with pytest.raises(ResultError, match="without a name"):
        picture(tmp_path / "a.png", [panel], NAMES, PALETTE)
