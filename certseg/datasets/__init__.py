"""Data sets: each a sequence of :class:`certseg.types.Sample`. ``streets`` needs no files, the others a folder."""

from certseg.datasets.ade20k import ADE20K
from certseg.datasets.camvid import CamVid
from certseg.datasets.cityscapes import Cityscapes
from certseg.datasets.coco_stuff10k import COCOStuff10k
from certseg.datasets.folder import Folder
from certseg.datasets.pascal_context import PascalContext
from certseg.datasets.streets import Streets
from certseg.datasets.view import View, evenly_spaced
from certseg.datasets.voc2012 import VOC2012

__all__ = [
    "ADE20K",
    "VOC2012",
    "COCOStuff10k",
    "CamVid",
    "Cityscapes",
    "Folder",
    "PascalContext",
    "Streets",
    "View",
    "evenly_spaced",
]
