"""The settings of a LoRA adapter on queries and values, as they stand in `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass

from rlrr.tuners.config import TunerConfig, check_factor, check_number


@dataclass
class LoRAQVConfig(TunerConfig):
    """LoRA on queries and values, each with an A of its own (Hu et al., ICLR 2022, arXiv 2106.09685).

    Queries gain `scale * B dropout(A h)`, with h the input of their projection, and values likewise; keys gain nothing.
    PEFT's own LoRA on a fused qkv is another method: there q, k and v share one A, and dropout acts on h. `TunerConfig`
    describes the settings that choose modules.

    Args:
        target_modules: Projections to adapt, of q, k and v together or of q and v: a regex, a list of name endings, or
            None for those of all blocks.
        parts: Parts of the default targets to adapt: there is one, "attn.qkv".
        rank: Rank of each update.
        scale: Fixed factor of the updates; it stands for alpha / rank.
        dropout: Dropout between A and B while training.
        init_weights: True starts at the pre-trained function: A is Kaiming-uniform as a linear of torch is, B zero.
            False draws B as A is drawn, so that an untrained adapter shows (for tests).
    """

    method = "lora_qv"

    rank: int = 8
    scale: float = 1.0
    dropout: float = 0.1
    init_weights: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_factor("scale", self.scale)
        check_number("rank", self.rank, 1)
        check_number("dropout", self.dropout, 0, 1)
