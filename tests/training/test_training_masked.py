"""Training on masked, inpainted images: what the segmenter is shown, and that masked copies then agree more."""

import dataclasses

import pytest
import torch
from support.training_fakes import RECIPE, Bands, TinySegmenter, train_bands

from certseg.errors import ConfigError
from certseg.patches.inpainting import Black, MeanColour
from certseg.training import CleanObjective, MaskedObjective

SIZE = (40, 48)


class Listening(TinySegmenter):
    """Keeps the images it is trained on."""

    def loss(self, images, labels):
        self.seen, self.labels = images, labels
        return super().loss(images, labels)


def bright(count=32):
    return 0.25 + 0.5 * torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def shown(objective, images):
    model, labels = Listening(), torch.zeros(len(images), *SIZE, dtype=torch.long)
    torch.manual_seed(1)
    assert set(objective(model, images, labels)) == {"loss_ce", "acc"}
    assert torch.equal(model.labels, labels)
    return model.seen


def test_every_image_has_a_mask_of_its_own():
    images = bright()
    seen = shown(MaskedObjective(inpainter=Black(), clean_share=0.0), images)
    hidden = (seen == 0).all(dim=1)
    assert torch.equal(seen, images * ~hidden[:, None])
    shares = hidden.float().mean(dim=(1, 2))
    assert shares.min() > 0
    assert shares.max() < 1
    assert len({mask.numpy().tobytes() for mask in hidden}) > 28


def test_the_share_of_clean_images():
    images = bright(200)
    for share in (0.0, 0.25):
        seen = shown(MaskedObjective(inpainter=Black(), masks=["column"], clean_share=share), images)
        untouched = (seen == images).flatten(1).all(dim=1).float().mean()
        assert abs(untouched - share) < 0.12  # four standard deviations
    assert untouched > 0.12


def test_hidden_pixels_are_filled_by_the_inpainter_alone():
    images = bright(4)
    filled = shown(MaskedObjective(inpainter=MeanColour(), clean_share=0.0), images)
    erased = shown(MaskedObjective(inpainter=Black(), clean_share=0.0), images)  # the same draws
    hidden = (erased == 0).all(dim=1)
    assert torch.equal(filled, MeanColour()(erased, hidden))
    assert not torch.equal(filled, erased)


def test_views_are_clean_and_masked_and_depend_on_the_generator_alone():
    objective, images = MaskedObjective(inpainter=Black()), bright(3)
    first, second, other = (objective.views(images, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert list(first) == ["clean", "masked"]
    assert torch.equal(first["clean"], images)
    assert torch.equal(first["masked"], second["masked"])
    assert not torch.equal(first["masked"], other["masked"])
    assert (first["masked"] == 0).all(dim=1).flatten(1).any(dim=1).all()


def test_a_network_trained_with_masks_errs_less_on_masked_images(tmp_path):
    masked = MaskedObjective(inpainter=Black(), masks=["blocks"], shares=[0.02, 0.03], clean_share=0.0)
    found = {}
    for name, objective in (("masked", masked), ("clean", CleanObjective())):
        recipe = dataclasses.replace(RECIPE, objective=objective, validations=0)
        model, _ = train_bands(tmp_path / name, recipe=recipe)
        model.eval()
        samples = [Bands(count=8, split="val", seed=1)[index] for index in range(8)]
        images, labels = (torch.stack([getattr(s, part) for s in samples]) for part in ("image", "target"))
        views = masked.views(images, torch.Generator().manual_seed(0))
        with torch.no_grad():
            found[name] = float(model.loss(views["masked"], labels)["loss_ce"])
    assert found["masked"] < found["clean"] - 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inpainter": None}, "inpainter"),
        ({"masks": []}, "masks"),
        ({"masks": ["circle"]}, "masks"),
        ({"shares": [0.03, 0.002]}, "shares"),
        ({"shares": [0.0, 0.03]}, "shares"),
        ({"clean_share": 1.0}, "clean_share"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=f"training.objective.{message}"):
        MaskedObjective(**settings)
