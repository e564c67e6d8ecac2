"""What a data set is asked for when it is built is what its protocol names."""

from certseg.pipeline.trainings import _MEMBERS
from certseg.types import SegmentationDataset


def test_every_member_of_the_protocol_is_asked_for():
    methods = {name for name in ("__len__", "__getitem__") if name in vars(SegmentationDataset)}
    methods |= {name for name, value in vars(SegmentationDataset).items() if callable(value) and name[0] != "_"}
    assert set(_MEMBERS) == methods | set(SegmentationDataset.__annotations__)
