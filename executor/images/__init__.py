"""Images: found, decoded, turned into the model's input, and the values that hide part of them.

Comes after planning has named the images and before the network runs. No module here imports torch.
"""

from __future__ import annotations

from obeql.executor.images.decode import decode_file, decode_object
from obeql.executor.images.fill import fill_values
from obeql.executor.images.locate import IMAGE_SUFFIXES, expand
from obeql.executor.images.locate_volumes import expand_volumes
from obeql.executor.images.pages import count_pages
from obeql.executor.images.placement import Placement, place
from obeql.executor.images.preprocess import ModelInput, preprocess
from obeql.executor.images.source_image import SourceFacts, SourceImage, as_signal

__all__ = [
    "IMAGE_SUFFIXES",
    "ModelInput",
    "Placement",
    "SourceFacts",
    "SourceImage",
    "as_signal",
    "count_pages",
    "decode_file",
    "decode_object",
    "expand",
    "expand_volumes",
    "fill_values",
    "place",
    "preprocess",
]
