"""A loss that is not added up is not trained on; so losses have names that say which they are."""

import pytest
import torch

from certseg.errors import ModelError
from certseg.training.training_model import TrainingModel
from certseg.types.trainable import check_losses

ONE = torch.ones((), requires_grad=True)
SEEN = torch.ones(())


@pytest.mark.parametrize("losses", [{"loss": ONE}, {"loss_ce": ONE, "acc_seg": SEEN}, {"decode.loss_dice": ONE}])
def test_names_that_say_what_they_are(losses):
    check_losses(losses)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ({"loss_ce": ONE, "dice": ONE}, r"Received: dice\. Rename"),
        ({"ce": ONE}, r"Received: ce\. Rename"),
        ({"acc_seg": SEEN}, r"Received: acc_seg\."),
        ({}, "no loss"),
        (ONE, "a dictionary of losses.*Tensor"),
        ({"loss": 1.0}, "tensors by name"),
    ],
)
def test_others_are_refused_before_a_step_is_taken(losses, words):
    with pytest.raises(ModelError, match=words):
        check_losses(losses)
    model = TrainingModel(torch.nn.Conv2d(3, 2, 1), lambda segmenter, images, labels: losses, seed=0)
    with pytest.raises(ModelError, match=words):
        model(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), mode="loss")
