"""Branches on a stream that a block writes into."""

import pytest
import torch
from peft import get_peft_model
from tests.tuners.cases import Block
from tests.tuners.toys import TOYS
from torch import nn

from rlrr.errors import RLRRError


@pytest.mark.parametrize("place", ["stream", "beside", "behind"])
@pytest.mark.parametrize("grad", [True, False])
def test_a_block_that_writes_into_its_stream_is_right_or_refused(grad, place):
    class InPlace(Block):
        def forward(self, x):
            x = x + self.attn(x).tanh()
            x += self.mlp(self.norm(x)).tanh()
            return x

    targets = ["0", "1"] if place == "stream" else ["mlp"]
    models = []
    for block in (Block, InPlace):
        torch.manual_seed(0)
        models.append(get_peft_model(nn.Sequential(block(), block()), TOYS[place][0](target_modules=targets)).eval())
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(2, 5, 8)
    with torch.set_grad_enabled(grad):
        if grad and place == "stream":
            with pytest.raises(RLRRError, match="writes into the stream"):
                models[1](x)
        else:
            torch.testing.assert_close(models[1](x), models[0](x))
