"""Segmentation models behind the :class:`certseg.types.Segmenter` protocol, and their checkpoints."""

from certseg.models.checkpoint import load_checkpoint, save_checkpoint
from certseg.models.mmseg_adapter import MMSegSegmenter
from certseg.models.mmseg_library import shipped_configs

__all__ = ["MMSegSegmenter", "load_checkpoint", "save_checkpoint", "shipped_configs"]
