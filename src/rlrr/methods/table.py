"""The methods: one row each. Only the standard library, since `rlrr train --help` and `Recipe` read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Attributes:
        name: The method's name in recipes and on the command line.
        title: The name that tables and legends show.
        summary: One sentence on what is trained.
        paper: Where the method was published, as "AUTHORS, TITLE, VENUE, arXiv NUMBER"; "" for common practice.
        learning_rate: Peak learning rate of AdamW where the recipe names none.
        config: Import path of the PEFT config that holds the method's settings, as "peft:LoraConfig"; None for a
            method that trains some of the model's own weights.
        defaults: Settings in which we differ from the config's own defaults.
        parts: Parts of a model family that are adapted by default (see `rlrr.backbones.families`); () for all.
        select: The model's own weights to train, "head" or "everything", for a method without a config.
        objective: Import path of the loss to train by; None for the usual one.
    """

    name: str
    title: str
    summary: str
    paper: str
    learning_rate: float
    config: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = ()
    select: str | None = None
    objective: str | None = None

    @property
    def citation(self) -> str:
        """Authors and venue of the paper, for tables; "" for common practice."""
        parts = self.paper.split(", ")
        return f"{parts[0]}, {parts[-2]}" if self.paper else ""


METHODS = {
    method.name: method
    for method in (
        Method(
            name="rlrr",
            title="RLRR",
            summary="Low-rank rescaling of every linear; scale and shift after norms and the patch embedding.",
            paper="Dong et al., Low-Rank Rescaled Vision Transformer Fine-Tuning, CVPR 2024, arXiv 2403.19067",
            learning_rate=5e-3,
            config="rlrr.tuners.rlrr:RLRRConfig",
            parts=("attn", "mlp", "norm", "patch_embed"),
        ),
        Method(
            name="linear",
            title="Linear probe",
            summary="The classifier alone, on the frozen backbone.",
            paper="",
            learning_rate=1e-2,
            select="head",
        ),
        Method(
            name="full",
            title="Full fine-tuning",
            summary="Every weight.",
            paper="",
            learning_rate=5e-5,
            select="everything",
        ),
        Method(
            name="lora",
            title="LoRA",
            summary="A low-rank term beside every linear of the blocks (PEFT's LoRA).",
            paper="Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685",
            learning_rate=1e-3,
            config="peft:LoraConfig",
        ),
        Method(
            name="ssf",
            title="SSF",
            summary="A scale and a shift of the output of every linear, norm and the patch embedding.",
            paper="Lian et al., Scaling & Shifting Your Features, NeurIPS 2022, arXiv 2210.08823",
            learning_rate=1e-2,
            config="rlrr.tuners.ssf:SSFConfig",
            parts=("attn", "mlp", "norm", "patch_embed"),
        ),
        Method(
            name="adaptformer",
            title="AdaptFormer",
            summary="A bottleneck beside the MLP of each block, on the residual stream.",
            paper="Chen et al., AdaptFormer, NeurIPS 2022, arXiv 2205.13535",
            learning_rate=1e-3,
            config="rlrr.tuners.adaptformer:AdaptFormerConfig",
            parts=("block",),
        ),
        Method(
            name="adapter",
            title="Adapter",
            summary="A bottleneck behind attention and MLP, in the forms of five codes.",
            paper="Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019, arXiv 1902.00751",
            learning_rate=1e-3,
            config="rlrr.tuners.adapter:AdapterConfig",
            parts=("attn.module", "mlp.module"),
        ),
        Method(
            name="adapter_plus",
            title="Adapter+",
            summary="A bottleneck behind each block, with a learned scale for each channel.",
            paper="Steitz & Roth, Adapters Strike Back, CVPR 2024, arXiv 2406.06820",
            learning_rate=1e-3,
            config="rlrr.tuners.adapter_plus:AdapterPlusConfig",
            parts=("block",),
        ),
        Method(
            name="vpt_shallow",
            title="VPT-Shallow",
            summary="Learned tokens beside those of the image, through all blocks.",
            paper="Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119",
            learning_rate=1e-2,
            config="rlrr.tuners.vpt:VPTConfig",
            defaults={"deep": False},
            parts=("block",),
        ),
        Method(
            name="vpt_deep",
            title="VPT-Deep",
            summary="Learned tokens beside those of the image, new ones in each block.",
            paper="Jia et al., Visual Prompt Tuning, ECCV 2022, arXiv 2203.12119",
            learning_rate=1e-2,
            config="rlrr.tuners.vpt:VPTConfig",
            parts=("block",),
        ),
        Method(
            name="convpass",
            title="Convpass",
            summary="A bottleneck with a convolution over the patches beside attention and MLP.",
            paper="Jie & Deng, Convolutional Bypasses Are Better Vision Transformer Adapters, 2022, arXiv 2207.07039",
            learning_rate=1e-3,
            config="rlrr.tuners.convpass:ConvpassConfig",
            parts=("attn.module", "mlp.module"),
        ),
        Method(
            name="repadapter",
            title="RepAdapter",
            summary="A linear bottleneck before qkv and before the MLP of each block, which merges.",
            paper="Luo et al., Towards Efficient Visual Adaption via Structural Re-parameterization, 2023, "
            "arXiv 2302.08106",
            learning_rate=1e-3,
            config="rlrr.tuners.repadapter:RepAdapterConfig",
            parts=("attn.qkv", "mlp.fc1"),
        ),
        Method(
            name="arc",
            title="ARC",
            summary="Bottlenecks before qkv and the MLP whose projections all blocks share, rescaled in each.",
            paper="Dong et al., Efficient Adaptation of Large Vision Transformer via Adapter Re-Composing, "
            "NeurIPS 2023, arXiv 2310.06234",
            learning_rate=5e-3,
            config="rlrr.tuners.arc:ARCConfig",
            parts=("attn.qkv", "mlp.fc1"),
        ),
        Method(
            name="lora_qv",
            title="LoRA on q, v",
            summary="Low-rank terms of queries and values, as the papers on vision have LoRA.",
            paper="Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685",
            learning_rate=1e-3,
            config="rlrr.tuners.lora_qv:LoRAQVConfig",
            parts=("attn.qkv",),
        ),
        Method(
            name="fact",
            title="FacT",
            summary="Updates of all linears of the blocks, by factors that all of them share.",
            paper="Jie & Deng, FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023, "
            "arXiv 2212.03145",
            learning_rate=1e-3,
            config="rlrr.tuners.fact:FacTConfig",
            parts=("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
        ),
    )
}
