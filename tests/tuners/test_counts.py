"""Numbers of trained parameters, to the digit, for every row of `cases.COUNTS`."""

import copy

import pytest
import timm
import torch
from peft import get_peft_model
from tests.tuners.cases import COUNTS

from rlrr.methods.trainable import parameter_counts

_IDS = [f"{type(config).__name__} {base:,}" for config, base, _ in COUNTS]


@pytest.mark.parametrize(("config", "base", "large"), COUNTS, ids=_IDS)
def test_as_many_parameters_are_trained_as_the_authors_count(config, base, large):
    for model, expected in (("vit_base_patch16_224", base), ("vit_large_patch16_224", large)):
        if expected is not None:
            with torch.device("meta"):
                adapted = get_peft_model(timm.create_model(model, num_classes=10), copy.deepcopy(config))
            assert parameter_counts(adapted)["adapter"] == expected
