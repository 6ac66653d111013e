"""The settings of VPT, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass

from rlrr.tuners.config import TunerConfig, check_number


@dataclass
class VPTConfig(TunerConfig):
    """Learned tokens, called prompts, beside the tokens of the image (Jia et al., arXiv 2203.12119).

    The prompts stand between the prefix tokens (class, registers) and the patches, and have no position. Deep prompts
    are new in every block, which drops what it made of them; shallow ones go through all blocks. Behind the last block
    there are none. `TunerConfig` describes the settings that choose modules.

    Args:
        target_modules: Blocks to give prompts: a regex, a list of name endings, or None for all. Shallow prompts need
            all.
        parts: Parts of the default targets: there is one, "block".
        tokens: Number of prompts, n: 1 to 200 in the paper, chosen per task.
        deep: Whether every block has prompts of its own (VPT-Deep), or those of the first stay (VPT-Shallow).
        dropout: Dropout on the prompts while training.
        init_weights: True draws the prompts uniform within sqrt(6 / (3 p p' + D)), for patches of p x p' pixels and D
            features. False draws them from a normal of 1, so that an untrained adapter shows (for tests).
    """

    method = "vpt"

    tokens: int = 10
    deep: bool = True
    dropout: float = 0.0
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("tokens", self.tokens, 1)
        check_number("dropout", self.dropout, 0, 1)
