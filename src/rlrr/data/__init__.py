"""Labelled images: where they come from, whether they can be read, and how they become tensors."""

from rlrr.data.check import prepare_split
from rlrr.data.dataset import ImageData, Split
from rlrr.data.decode import decode
from rlrr.data.pipeline import PreparedImages
from rlrr.data.sources import data_source, load_data

__all__ = ["ImageData", "PreparedImages", "Split", "data_source", "decode", "load_data", "prepare_split"]
