"""A method's abilities are known without a model."""

import pytest

from rlrr.errors import RLRRError
from rlrr.methods.abilities import abilities, starts_at_pretraining


@pytest.mark.parametrize(("method", "merges", "combines"), [("rlrr", 1, 1), ("ssf", 1, 0), ("adaptformer", 0, 0)])
def test_a_method_is_asked_through_a_small_model(method, merges, combines):
    assert abilities(method) == {"can_merge": merges, "can_mix": True, "can_combine": combines, "can_split": True}


def test_an_unknown_method_is_refused():
    with pytest.raises(RLRRError, match="no method"):
        abilities("rllr")


@pytest.mark.parametrize(
    ("method", "starts"), [("rlrr", False), ("ssf", False), ("adaptformer", True), ("linear", True)]
)
def test_a_method_starts_at_pretraining_or_not(method, starts):
    assert starts_at_pretraining(method) is starts
