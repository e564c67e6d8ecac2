"""Data sets: each a sequence of :class:`certseg.types.Sample`. ``streets`` needs no files, the others a folder."""

from certseg.datasets.ade20k import ADE20K
from certseg.datasets.bands import PLAIN, Reader
from certseg.datasets.camvid import CamVid
from certseg.datasets.cityscapes import Cityscapes
from certseg.datasets.coco import COCO
from certseg.datasets.coco_stuff10k import COCOStuff10k
from certseg.datasets.files import Legend, TellsLegend
from certseg.datasets.folder import IMAGE_SUFFIXES, Folder
from certseg.datasets.kvasir_seg import KvasirSEG
from certseg.datasets.oxford_pets import OxfordPets
from certseg.datasets.pascal_context import PascalContext
from certseg.datasets.readable import check_headers, readable
from certseg.datasets.reading import image_size, pixels_of, read_image
from certseg.datasets.streets import Streets
from certseg.datasets.view import View, evenly_spaced
from certseg.datasets.voc2012 import VOC2012

__all__ = [
    "ADE20K",
    "COCO",
    "IMAGE_SUFFIXES",
    "PLAIN",
    "VOC2012",
    "COCOStuff10k",
    "CamVid",
    "Cityscapes",
    "Folder",
    "KvasirSEG",
    "Legend",
    "OxfordPets",
    "PascalContext",
    "Reader",
    "Streets",
    "TellsLegend",
    "View",
    "check_headers",
    "evenly_spaced",
    "image_size",
    "pixels_of",
    "read_image",
    "readable",
]
