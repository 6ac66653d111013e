"""Labelled images: where they come from, whether they can be read, and how they become tensors."""

from rlrr.data.check import prepare_split
from rlrr.data.dataset import ImageData, Split
from rlrr.data.decode import decode
from rlrr.data.load import data_source, load_data
from rlrr.data.pipeline import PreparedImages

__all__ = ["ImageData", "PreparedImages", "Split", "data_source", "decode", "load_data", "prepare_split"]
