"""The table of methods under uniform laws: a method adds its rows here, and nothing else in this folder's tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from peft import LoraConfig, PeftConfig
from tests.tuners.toys import TOYS
from torch import nn

from rlrr import RLRRConfig
from rlrr.tuners.adapter import AdapterConfig
from rlrr.tuners.adapter.variants import VARIANTS
from rlrr.tuners.adapter_plus import AdapterPlusConfig
from rlrr.tuners.adaptformer import AdaptFormerConfig
from rlrr.tuners.arc import ARCConfig
from rlrr.tuners.convpass import ConvpassConfig
from rlrr.tuners.fact import FacTConfig
from rlrr.tuners.lora_qv import LoRAQVConfig
from rlrr.tuners.repadapter import RepAdapterConfig
from rlrr.tuners.selection import SelectionConfig
from rlrr.tuners.ssf import SSFConfig
from rlrr.tuners.vpt import VPTConfig


class Block(nn.Module):
    """A residual block with a norm, as in a ViT."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.attn, self.norm, self.mlp = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        x = x + self.attn(x).tanh()
        return x + self.mlp(self.norm(x)).tanh()


def blocks() -> nn.Module:
    """Make two blocks; its input is (images, tokens, 8)."""
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block())


def vit(**settings: Any) -> nn.Module:
    """Make a timm ViT of two blocks; its input is (images, 3, 16, 16)."""
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=8, depth=2, embed_dim=24, num_heads=2, num_classes=3, **settings
    )


@dataclass(frozen=True)
class Case:
    """One method on one model.

    Attributes:
        config: Makes the settings of an adapter whose tensors are random, so that each has its part in the output.
        model: Makes the model.
        shape: Shape of an input without the number of images.
        denied: Capabilities that the method does not have, of merge, mix, split and combine.
    """

    config: Callable[..., PeftConfig]
    model: Callable[[], nn.Module] = vit
    shape: tuple[int, ...] = (3, 16, 16)
    denied: frozenset[str] = frozenset()


def _toy(name: str, targets: list[str], **settings: Any) -> Case:
    denied = {"combine"} if name == "shared" else {"merge", "combine"}
    config = lambda: TOYS[name][0](target_modules=targets, **settings)  # noqa: E731
    return Case(config, blocks, (5, 8), frozenset(denied))


CASES = {
    "rlrr": Case(RLRRConfig),
    "rlrr, rank 3": Case(lambda: RLRRConfig(rank=3)),
    "rlrr, inputs only": Case(lambda: RLRRConfig(sides="in")),
    "rlrr, product": Case(lambda: RLRRConfig(form="product")),
    "rlrr, product, outputs only": Case(lambda: RLRRConfig(form="product", sides="out")),
    "ssf": Case(SSFConfig, denied=frozenset({"combine"})),
    "adaptformer": Case(lambda: AdaptFormerConfig(bottleneck=4, dropout=0.0), denied=frozenset({"merge", "combine"})),
    "adaptformer, beside a linear": Case(
        lambda: AdaptFormerConfig(target_modules=["mlp"], bottleneck=4, dropout=0.0),
        blocks,
        (5, 8),
        frozenset({"merge", "combine"}),
    ),
    **{
        f"adapter, {variant}": Case(
            lambda variant=variant: AdapterConfig(  # type: ignore[misc]
                variant=variant, bottleneck=6, dropout=None if VARIANTS[variant].dropout is None else 0.0
            ),
            denied=frozenset({"merge", "combine"}),
        )
        for variant in VARIANTS
    },
    "adapter_plus": Case(
        lambda: AdapterPlusConfig(bottleneck=4, drop_path=0.0), denied=frozenset({"merge", "combine"})
    ),
    "selection, biases": Case(SelectionConfig, denied=frozenset({"combine"})),
    "selection, attention": Case(lambda: SelectionConfig(tensors="all", parts=["attn"]), denied=frozenset({"combine"})),
    "selection, last blocks": Case(
        lambda: SelectionConfig(tensors="all", last_blocks=1),
        lambda: vit(init_values=0.5),
        denied=frozenset({"combine"}),
    ),
    "vpt, shallow": Case(
        lambda: VPTConfig(tokens=3, deep=False), denied=frozenset({"merge", "mix", "split", "combine"})
    ),
    "vpt, deep": Case(lambda: VPTConfig(tokens=3), denied=frozenset({"merge", "split", "combine"})),
    "convpass": Case(
        lambda: ConvpassConfig(bottleneck=4, scale=0.5, dropout=0.0), denied=frozenset({"merge", "combine"})
    ),
    "repadapter": Case(lambda: RepAdapterConfig(bottleneck=4, scale=0.5, dropout=0.0), denied=frozenset({"combine"})),
    "arc": Case(lambda: ARCConfig(bottleneck=4, dropout=0.0), denied=frozenset({"combine"})),
    "lora_qv": Case(lambda: LoRAQVConfig(rank=3, scale=0.5, dropout=0.0), denied=frozenset({"combine"})),
    "fact": Case(lambda: FacTConfig(rank=3, scale=0.5, dropout=0.0), denied=frozenset({"combine"})),
    "fact, tk": Case(
        lambda: FacTConfig(decomposition="tk", rank=3, scale=0.5, dropout=0.0), denied=frozenset({"combine"})
    ),
    "shared tensors": _toy("shared", ["attn", "mlp"]),
    "beside": _toy("beside", ["mlp"]),
    "behind": _toy("behind", ["mlp"]),
    "before": _toy("before", ["attn"]),
    "stream": _toy("stream", ["0", "1"]),
}

COMPILED = ("rlrr", "ssf", "adaptformer", "vpt, deep", "convpass", "shared tensors", "before", "behind")
"""One case of each base, which torch.compile is tried on."""


@dataclass(frozen=True)
class Golden:
    """Numbers of the authors' own code, in tests/golden/methods.

    Attributes:
        config: The settings they were made with.
        names: Regexes and what to put in their place, in order: from the authors' names of tensors to those of an
            adapter.
    """

    config: PeftConfig
    names: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

    def rename(self, name: str) -> str:
        """Give the adapter's name of one of the authors' tensors."""
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return name


_FACT = (
    (r"^FacTu\.weight", "base_model.fact_down"),
    (r"^FacTv\.weight", "base_model.fact_up"),
    (r"^FacTc", "base_model.fact_core"),
    (r"^FacTp", "base_model.fact_mix"),
    (r"attn\.(q|k|v)_FacTs\.weight", r"attn.qkv.fact_\1"),
    (r"(proj|fc1|fc2)_FacTs\.weight", r"\1.fact_\1"),
)
_BOTTLENECK = ((r"bottleneck\.1", "down"), (r"bottleneck\.4", "up"))
GOLDEN = {
    "ssf": Golden(
        SSFConfig(),
        (
            (r"^patch_embed\.", "patch_embed.proj."),
            (r"attn\.ssf_(\w+)_1", r"attn.qkv.ssf_\1"),
            (r"attn\.ssf_(\w+)_2", r"attn.proj.ssf_\1"),
            (r"mlp\.ssf_(\w+)_(\d)", r"mlp.fc\2.ssf_\1"),
            (r"^ssf_(\w+)_1", r"norm.ssf_\1"),
            (r"ssf_(\w+)_([12])$", r"norm\2.ssf_\1"),
            (r"proj\.norm1\.", "proj."),
        ),
    ),
    "adaptformer": Golden(AdaptFormerConfig(bottleneck=4), ((r"adaptmlp\.(down|up)_proj", r"adaptformer_branch.\1"),)),
    "adapter_pfeiffer": Golden(
        AdapterConfig(variant="pfeiffer", bottleneck=4),
        (
            (r"transformer\.encoder\.layer", "blocks"),
            (r"adapter_downsample", "mlp.adapter_branch.down"),
            (r"adapter_upsample", "mlp.adapter_branch.up"),
        ),
    ),
    "adapter_pfeiffer_adapterplus": Golden(
        AdapterConfig(variant="pfeiffer_norm", bottleneck=4),
        ((r"adapter\.", "adapter_branch."), *_BOTTLENECK, (r"norm_a", "norm")),
    ),
    "adapter_houlsby": Golden(
        AdapterConfig(variant="houlsby", bottleneck=4),
        ((r"adapter_attn\.", "attn.adapter_branch."), (r"\.adapter\.", ".mlp.adapter_branch."), *_BOTTLENECK),
    ),
    "adapter_houlsby_osu": Golden(
        AdapterConfig(variant="houlsby_osu", bottleneck=4, scale=0.5),
        ((r"ft_(attn|mlp)_module", r"\1.adapter_branch"), (r"_proj", "")),
    ),
    "adapter_noah": Golden(
        AdapterConfig(variant="noah", bottleneck=4),
        ((r"adapter\.ln1", "mlp.adapter_branch.down"), (r"adapter\.ln2", "mlp.adapter_branch.up")),
    ),
    "adapter_plus": Golden(
        AdapterPlusConfig(bottleneck=4),
        ((r"adapter\.", "adapter_plus_branch."), *_BOTTLENECK, (r"scaling", "scale")),
    ),
    "vpt_shallow": Golden(
        VPTConfig(tokens=3, deep=False, dropout=0.1),
        ((r"transformer\.prompt_embeddings", "blocks.0.vpt_prompts"),),
    ),
    "vpt_deep": Golden(
        VPTConfig(tokens=3, dropout=0.1),
        (
            (r"transformer\.prompt_embeddings", "blocks.0.vpt_prompts"),
            (r"transformer\.deep_prompt_embeddings", "blocks.1.vpt_prompts"),  # there are two blocks
        ),
    ),
    "convpass": Golden(
        ConvpassConfig(bottleneck=8, scale=0.5),
        ((r"adapter_(attn|mlp)\.adapter_", r"\1.convpass_branch."),),
    ),
    "lora_qkv": Golden(
        LoraConfig(r=4, lora_alpha=4, lora_dropout=0.1, target_modules=["qkv"], modules_to_save=["head"]),
        ((r"LoRA_a", "qkv.lora_A"), (r"LoRA_b", "qkv.lora_B")),
    ),
    "repadapter": Golden(
        RepAdapterConfig(bottleneck=4, scale=0.5),
        (
            (r"adapter_attn", "attn.qkv"),
            (r"adapter_mlp", "mlp.fc1"),
            (r"conv_A.weight", "repadapter_down"),
            (r"conv_A.bias", "repadapter_down_bias"),
            (r"conv_B.weight", "repadapter_up"),
            (r"conv_B.bias", "repadapter_up_bias"),
        ),
    ),
    "arc": Golden(
        ARCConfig(bottleneck=6),
        (
            (r"^head_mlp\.", ""),
            (r"^transformer\.(att|mlp)_down_projection", lambda m: "base_model.arc_" + m[1].replace("att", "attn")),
            (r"^transformer\.layer", "blocks"),
            (r"att_adapter\.adapter_", "attn.qkv.arc_"),
            (r"mlp_adapter\.adapter_", "mlp.fc1.arc_"),
            (r"arc_bias", "arc_shift"),
        ),
    ),
    "lora_qv": Golden(
        LoRAQVConfig(rank=4, scale=0.5), ((r"lora_(q|v)\.adapter_(down|up)\.weight", r"qkv.lora_qv_\1_\2"),)
    ),
    "fact_tt": Golden(FacTConfig(rank=4, scale=0.5), _FACT),
    "fact_tk": Golden(FacTConfig(decomposition="tk", rank=4, scale=0.5), _FACT),
}


@dataclass(frozen=True)
class PeftSuite:
    """What PEFT's own tests are given of a method.

    Attributes:
        config: Class of its settings.
        same_start: Settings with which an untrained adapter leaves the model as it was, as PEFT's tests take for
            granted.
        random_start: Settings with which an untrained adapter shows.
        models: Models of PEFT's suite, by title, with further settings; none for a method that is not defined on any
            linears, but on a ViT's.
        vit: Regexes of what is adapted in timm's and in transformers' ViT.
        endings: Ends of the names of modules in transformers' ViT that it adapts; None for the default targets.
    """

    config: type[PeftConfig]
    same_start: dict[str, Any]
    random_start: dict[str, Any]
    models: dict[str, tuple[str, dict[str, Any]]]
    vit: tuple[str, str]
    endings: list[str] | None = field(default_factory=lambda: ["q_proj", "fc1"])


_LINEARS = {
    "one": ("MLP", {"target_modules": "lin0"}),
    "list": ("MLP", {"target_modules": ["lin0"]}),
    "both": ("MLP", {"target_modules": ["lin0", "lin1"]}),
    "head saved": ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
}
_NORMS = {
    "norm": ("MLP_LayerNorm", {"target_modules": ["layernorm0", "lin0", "lin1"]}),
    "convolution": ("Conv2d", {"target_modules": ["conv2d", "lin0"]}),
}
_VIT = (
    r"patch_embed\.proj|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])|norm",
    r".*(q_proj|k_proj|v_proj|o_proj|fc1|fc2|layernorm_before|layernorm_after|patch_embeddings\.projection)"
    r"|vit\.layernorm",
)
_VIT_LINEARS = (r"blocks\.\d+\.(attn\.qkv|mlp\.fc1)", r".*(q_proj|k_proj|v_proj|fc1)")
PEFT_SUITES = {
    "rlrr": PeftSuite(
        RLRRConfig,
        {"init_weights": True},
        {"init_weights": False},
        _LINEARS
        | _NORMS
        | {"fused": ("MLP", {"target_modules": ["lin0"], "fused_blocks": {"lin0": 2}})}
        | {
            f"kernel {kind}": (kind, {"target_modules": ["conv2d"], "convolutions": "rescale"})
            for kind in ("Conv2d", "Conv2dGroups", "Conv2d1x1")
        },
        _VIT,
    ),
    "ssf": PeftSuite(SSFConfig, {"init_weights": True}, {"init_weights": False}, _LINEARS | _NORMS, _VIT),
    "adaptformer": PeftSuite(
        AdaptFormerConfig,
        {"init_weights": True, "dropout": 0.0},
        {"init_weights": False, "dropout": 0.0, "scale": 1.0},
        _LINEARS,
        (r"blocks\.\d+", r"vit\.layers\.\d+"),
    ),
    "adapter": PeftSuite(
        AdapterConfig,
        {"init_weights": True},
        {"init_weights": False},
        _LINEARS,
        (r"blocks\.\d+\.(attn|mlp)", r"vit\.layers\.\d+\.(attention|mlp)"),
    ),
    "adapter_plus": PeftSuite(
        AdapterPlusConfig,
        {"init_weights": True, "drop_path": 0.0},
        {"init_weights": False, "drop_path": 0.0},
        _LINEARS,
        (r"blocks\.\d+", r"vit\.layers\.\d+"),
    ),
    "selection": PeftSuite(
        SelectionConfig,
        {},
        {"init_weights": False},
        _LINEARS | _NORMS,
        _VIT,
    ),
    "vpt": PeftSuite(
        VPTConfig,
        {},
        {"init_weights": False},
        {},
        (r"blocks\.\d+", r"vit\.layers\.\d+"),
        None,
    ),
    "convpass": PeftSuite(
        ConvpassConfig,
        {"init_weights": True, "dropout": 0.0},
        {"init_weights": False, "dropout": 0.0},
        {},
        (r"blocks\.\d+\.(attn|mlp)", r"vit\.layers\.\d+\.(attention|mlp)"),
        ["attention", "mlp"],
    ),
    "repadapter": PeftSuite(
        RepAdapterConfig,
        {"init_weights": True, "dropout": 0.0, "bottleneck": 2},
        {"init_weights": False, "dropout": 0.0, "bottleneck": 2},
        _LINEARS,
        _VIT_LINEARS,
    ),
    "arc": PeftSuite(
        ARCConfig,
        {"init_weights": True, "dropout": 0.0, "bottleneck": 2},
        {"init_weights": False, "dropout": 0.0, "bottleneck": 2},
        {},
        _VIT_LINEARS,
    ),
    "lora_qv": PeftSuite(
        LoRAQVConfig,
        {"init_weights": True, "dropout": 0.0},
        {"init_weights": False, "dropout": 0.0},
        {},
        (r"blocks\.\d+\.attn\.qkv", r".*(q_proj|v_proj)"),
        ["q_proj", "v_proj"],
    ),
    "fact": PeftSuite(
        FacTConfig,
        {"init_weights": True, "dropout": 0.0},
        {"init_weights": False, "dropout": 0.0},
        {},
        (r"blocks\.\d+\.(attn\.qkv|attn\.proj)", r".*(q_proj|k_proj|v_proj|o_proj)"),
        ["q_proj", "o_proj"],
    ),
}


COUNTS = (  # settings, numbers of trained parameters of ViT-B/16 and ViT-L/16 beside the head; None if not published
    (RLRRConfig(), 288_768, None),
    (RLRRConfig(form="product"), 288_768, None),
    (SSFConfig(), 205_824, 544_768),
    (AdaptFormerConfig(bottleneck=8), 156_768, 417_984),
    (AdaptFormerConfig(bottleneck=64), 1_189_632, None),
    (AdapterConfig(variant="pfeiffer", bottleneck=96), 1_779_840, None),
    (AdapterConfig(variant="pfeiffer", bottleneck=12), 230_544, None),
    (AdapterConfig(variant="pfeiffer_norm"), 175_200, None),
    (AdapterConfig(bottleneck=4), 165_984, None),
    (AdapterConfig(), 313_536, 835_968),
    (AdapterConfig(variant="houlsby_osu"), 313_536, None),
    (AdapterConfig(variant="houlsby_osu", parts=["mlp.module"]), 156_768, None),
    (AdapterConfig(variant="noah"), 156_768, None),
    (AdapterPlusConfig(), 165_984, 442_560),
    (AdapterPlusConfig(bottleneck=16), 313_536, None),
    (SelectionConfig(), 102_912, None),
    (SelectionConfig(tensors="all", parts=["attn"]), 28_348_416, None),
    (SelectionConfig(tensors="all", last_blocks=1), 7_087_872 + 1_536, None),
    (VPTConfig(tokens=1, deep=False), 768, None),
    (VPTConfig(tokens=50, deep=False), 38_400, None),
    (VPTConfig(tokens=1), 9_216, 24_576),
    (VPTConfig(tokens=50), 460_800, 1_228_800),
    (ConvpassConfig(), 327_552, 864_000),
    (ConvpassConfig(parts=["attn.module"]), 163_776, None),
    (RepAdapterConfig(), 239_808, 639_360),
    (ARCConfig(), 96_432, 153_952),
    (ARCConfig(parts=["attn.qkv"]), 48_216, None),
    (LoRAQVConfig(), 294_912, 786_432),
    (FacTConfig(rank=8), 21_504, None),
    (FacTConfig(rank=16), 61_440, 106_496),
    (FacTConfig(decomposition="tk", rank=16), 30_976, None),
    (FacTConfig(decomposition="tk", rank=32), 86_528, 107_520),
)


def shows(method: str, targets: Any, **settings: Any) -> PeftConfig:
    """Make settings of a method for these modules, with which an untrained adapter shows."""
    suite = PEFT_SUITES[method]
    return suite.config(target_modules=targets, **suite.random_start | settings)


METHODS = tuple(name for name, suite in PEFT_SUITES.items() if suite.models)
"""Methods that are defined on any linears."""
WEIGHTS = ("rlrr", "ssf", "selection", "repadapter")
"""Those of them that amount to other weights; the rest have branches."""
