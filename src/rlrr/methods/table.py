"""The methods: one row each. Only the standard library, since `rlrr train --help` and `Recipe` read it.

A name "peft:TYPE" stands for any method of PEFT that takes the linears of a ViT, with PEFT's own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlrr.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class Method:
    """One way to fine-tune.

    Attributes:
        name: The method's name in recipes and on the command line.
        title: The name that tables and legends show.
        summary: One sentence on what is trained.
        paper: Where the method was published, as "AUTHORS, TITLE, VENUE, arXiv NUMBER"; "" for common practice.
        learning_rate: Peak learning rate of AdamW where the recipe names none.
        config: Import path of the PEFT config that holds the method's settings, as "peft:LoraConfig", or PEFT's name
            of the method, as "peft:IA3"; None for a method that trains the classifier alone, or everything.
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
            learning_rate=3e-2,
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
            name="bitfit",
            title="BitFit",
            summary="The biases of the backbone.",
            paper="Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning, ACL 2022, arXiv 2106.10199",
            learning_rate=5e-3,
            config="rlrr.tuners.selection:SelectionConfig",
        ),
        Method(
            name="ln_tuning",
            title="LayerNorm tuning",
            summary="The weights and biases of the LayerNorms (PEFT's LNTuning).",
            paper="Zhao et al., Tuning LayerNorm in Attention, ICLR 2024, arXiv 2312.11420",
            learning_rate=1.5e-2,
            config="peft:LNTuningConfig",
            parts=("norm",),
        ),
        Method(
            name="attention",
            title="Attention only",
            summary="All weights of the attentions.",
            paper="Touvron et al., Three things everyone should know about Vision Transformers, ECCV 2022, "
            "arXiv 2203.09795",
            learning_rate=1e-4,
            config="rlrr.tuners.selection:SelectionConfig",
            defaults={"tensors": "all", "parts": ["attn"]},
            parts=("attn",),
        ),
        Method(
            name="last_blocks",
            title="Last blocks",
            summary="All weights of the last blocks, two by default, and the final norm.",
            paper="",
            learning_rate=3e-4,
            config="rlrr.tuners.selection:SelectionConfig",
            defaults={"tensors": "all", "last_blocks": 2},
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
            learning_rate=3e-3,
            config="rlrr.tuners.adapter:AdapterConfig",
            parts=("attn.module", "mlp.module"),
        ),
        Method(
            name="adapter_plus",
            title="Adapter+",
            summary="A bottleneck behind each block, with a learned scale for each channel.",
            paper="Steitz & Roth, Adapters Strike Back, CVPR 2024, arXiv 2406.06820",
            learning_rate=3e-3,
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
            learning_rate=3e-3,
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
            learning_rate=3e-3,
            config="rlrr.tuners.repadapter:RepAdapterConfig",
            parts=("attn.qkv", "mlp.fc1"),
        ),
        Method(
            name="arc",
            title="ARC",
            summary="Bottlenecks before qkv and the MLP whose projections all blocks share, rescaled in each.",
            paper="Dong et al., Efficient Adaptation of Large Vision Transformer via Adapter Re-Composing, "
            "NeurIPS 2023, arXiv 2310.06234",
            learning_rate=1.5e-2,
            config="rlrr.tuners.arc:ARCConfig",
            parts=("attn.qkv", "mlp.fc1"),
        ),
        Method(
            name="lora_qv",
            title="LoRA on q, v",
            summary="Low-rank terms of queries and values, as the papers on vision have LoRA.",
            paper="Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022, arXiv 2106.09685",
            learning_rate=3e-3,
            config="rlrr.tuners.lora_qv:LoRAQVConfig",
            parts=("attn.qkv",),
        ),
        Method(
            name="fact",
            title="FacT",
            summary="Updates of all linears of the blocks, by factors that all of them share.",
            paper="Jie & Deng, FacT: Factor-Tuning for Lightweight Adaptation on Vision Transformer, AAAI 2023, "
            "arXiv 2212.03145",
            learning_rate=3e-3,
            config="rlrr.tuners.fact:FacTConfig",
            parts=("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"),
        ),
        Method(
            name="dora",
            title="DoRA",
            summary="LoRA whose rows have a learned length (PEFT's LoRA with use_dora).",
            paper="Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, ICML 2024, arXiv 2402.09353",
            learning_rate=1e-3,
            config="peft:LoraConfig",
            defaults={"use_dora": True},
        ),
        Method(
            name="pissa",
            title="PiSSA",
            summary="LoRA that starts at the largest singular values (PEFT's LoRA with init_lora_weights).",
            paper="Meng et al., PiSSA: Principal Singular Values and Singular Vectors Adaptation, NeurIPS 2024, "
            "arXiv 2404.02948",
            learning_rate=1e-3,
            config="peft:LoraConfig",
            defaults={"init_lora_weights": "pissa"},
        ),
        Method(
            name="peft:ia3",
            title="IA3",
            summary="A scale of the output of every linear of the blocks (PEFT's IA3).",
            paper="Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper, NeurIPS 2022, "
            "arXiv 2205.05638",
            learning_rate=3e-2,
            config="peft:IA3",
            defaults={"feedforward_modules": []},
        ),
        Method(
            name="peft:oft",
            title="OFT",
            summary="Orthogonal blocks before every linear of the blocks (PEFT's OFT).",
            paper="Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning, NeurIPS 2023, "
            "arXiv 2306.07280",
            learning_rate=1e-3,
            config="peft:OFT",
        ),
        Method(
            name="peft:boft",
            title="BOFT",
            summary="Orthogonal butterflies behind every linear of the blocks (PEFT's BOFT).",
            paper="Liu et al., Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, ICLR 2024, "
            "arXiv 2311.06243",
            learning_rate=1e-3,
            config="peft:BOFT",
        ),
        Method(
            name="peft:hira",
            title="HiRA",
            summary="A low-rank matrix multiplied with every weight, element by element (PEFT's HiRA).",
            paper="Huang et al., HiRA, ICLR 2025, OpenReview TwJrTz9cRS",
            learning_rate=3e-3,
            config="peft:HIRA",
        ),
        Method(
            name="peft:vera",
            title="VeRA",
            summary="Vectors around random matrices that all linears share (PEFT's VeRA).",
            paper="Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, ICLR 2024, arXiv 2310.11454",
            learning_rate=3e-2,
            config="peft:VERA",
        ),
        Method(
            name="peft:glora",
            title="GLoRA",
            summary="Low-rank changes of weights, inputs and biases together (PEFT's GLoRA).",
            paper="Chavan et al., One-for-All: Generalized LoRA, 2023, arXiv 2306.07967",
            learning_rate=1e-3,
            config="peft:GLORA",
        ),
        Method(
            name="peft:hra",
            title="HRA",
            summary="Householder reflections before every linear of the blocks (PEFT's HRA).",
            paper="Yuan et al., Bridging The Gap between Low-rank and Orthogonal Adaptation, NeurIPS 2024, "
            "arXiv 2405.17484",
            learning_rate=1e-3,
            config="peft:HRA",
        ),
        Method(
            name="peft:shira",
            title="SHiRA",
            summary="A few random entries of every weight of the blocks (PEFT's SHiRA).",
            paper="Bhardwaj et al., Sparse High Rank Adapters, NeurIPS 2024, arXiv 2406.13175",
            learning_rate=1e-3,
            config="peft:SHIRA",
        ),
        Method(
            name="peft:randlora",
            title="RandLoRA",
            summary="Diagonal matrices around many random ones that all linears share (PEFT's RandLoRA).",
            paper="Albert et al., RandLoRA: Full-rank parameter-efficient fine-tuning of large models, ICLR 2025, "
            "arXiv 2502.00987",
            learning_rate=1e-3,
            config="peft:RANDLORA",
        ),
        Method(
            name="peft:fourierft",
            title="FourierFT",
            summary="A few Fourier coefficients of the change of every weight (PEFT's FourierFT).",
            paper="Gao et al., Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, ICML 2024, "
            "arXiv 2405.03003",
            learning_rate=1e-2,
            config="peft:FOURIERFT",
            defaults={"init_weights": True},
        ),
    )
}

OF_LANGUAGE = "it is made for the tokens of language models, which a Vision Transformer does not take"
UNSUITED = {
    "adalora": "it needs a call after each step of training, for its budget of ranks, which rlrr does not make",
    "poly": "it needs the number of a task beside each image",
    "trainable_tokens": "it trains rows of an embedding of words, which a Vision Transformer does not have",
    "xlora": "it mixes LoRA adapters of a language model that are trained already",
    **dict.fromkeys(
        (
            "adaption_prompt",
            "cartridge",
            "cpt",
            "multitask_prompt_tuning",
            "p_tuning",
            "prefix_tuning",
            "prompt_tuning",
            "shadow",
        ),
        OF_LANGUAGE,
    ),
}
"""Methods of PEFT that are refused, by PEFT's name, with the reason."""


def find_method(name: str) -> Method:
    """Give the row of a method; for "peft:TYPE" without a row, one of PEFT's defaults.

    Raises:
        UsageError: there is no such method, or a Vision Transformer cannot be tuned by it.
    """
    if name in METHODS:
        return METHODS[name]
    library, _, kind = name.lower().partition(":")
    if f"{library}:{kind}" in METHODS:
        return METHODS[f"{library}:{kind}"]
    if library != "peft" or not kind:
        raise UsageError(f"There is no method {name!r}.{did_you_mean(name, METHODS)}")
    if (reason := UNSUITED.get(kind)) is not None:
        raise UsageError(f"method {name} is of no use here: {reason}.", option="method")
    title = kind.upper()
    return Method(name, title, f"PEFT's {title}, by its own defaults.", "", 1e-3, config=f"peft:{title}")
