"""The families with a known anatomy, and the names of tensors in files of weights.

A family is one `Family` with its rows in `BY_CLASS` or `BY_MODEL_TYPE`. Regexes of parts that are adapted by default
are written into the settings of every adapter: two adapters can be combined only if both have the same regexes, so
leave them as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from rlrr.backbones.anatomy import Family

_TIMM_BLOCK = {
    "attn": (r"{block}\.attn\.(?:qkv|proj)",),
    "attn.module": (r"{block}\.attn",),
    "attn.qkv": (r"{block}\.attn\.qkv",),
    "attn.proj": (r"{block}\.attn\.proj",),
    "attn_norm": (r"{block}\.norm1",),
    "mlp.module": (r"{block}\.mlp",),
    "mlp.fc2": (r"{block}\.mlp\.fc2",),
    "mlp_norm": (r"{block}\.norm2",),
}
_TIMM_VIT = Family(
    inside=("timm_model",),
    block=r"blocks\.{index}",
    modules={
        **_TIMM_BLOCK,
        "mlp": (r"{block}\.mlp\.fc\w+",),
        "mlp.fc1": (r"{block}\.mlp\.fc1\w*",),  # two, if the MLP is gated
        "norm": (r"{block}\.norm[12]", "norm", "fc_norm"),
        "final_norm": ("norm", "fc_norm"),
        "patch_embed": (r"patch_embed\.proj",),
    },
    adapted=("attn", "mlp", "norm", "patch_embed"),
    heads=("head", "head_dist"),
    fused_blocks={"qkv": 3},
    sequence=True,
)
_TIMM_SWIN = Family(
    inside=("timm_model",),
    block=r"layers\.\d+\.blocks\.{index}",
    modules={
        **_TIMM_BLOCK,
        "mlp": (r"{block}\.mlp\.fc[12]",),
        "mlp.fc1": (r"{block}\.mlp\.fc1",),
        "norm": (r"{block}\.norm[12]", "norm"),
        "final_norm": ("norm",),
        "patch_embed": (r"patch_embed\.proj",),
        "downsample": (r"layers\.\d+\.downsample\.reduction",),
    },
    adapted=("attn", "mlp", "norm", "downsample"),
    heads=("head.fc",),
)
_TIMM_RESNET = Family(
    inside=("timm_model",),
    block=r"layer\d+\.{index}",
    modules={
        "conv": (r"{block}\.conv[123]",),
        "downsample": (r"{block}\.downsample\.0", r"{block}\.downsample\.1"),  # in ResNet-D after a pooling
        "stem": ("conv1", r"conv1\.[036]"),
    },
    adapted=("conv", "downsample", "stem"),
    heads=("fc",),
    convolutions="rescale",
)
_MODEL_TYPES = ("vit", "deit", "dinov2", "dinov2_with_registers")
_TRANSFORMERS_VIT = Family(
    inside=_MODEL_TYPES,
    block=r"(?:encoder\.)?layers?\.{index}",
    modules={
        "attn": (r"{block}\.attention\.[qkvo]_proj",),
        "attn.module": (r"{block}\.attention",),
        "attn.qkv": (r"{block}\.attention\.[qkv]_proj",),
        "attn.proj": (r"{block}\.attention\.o_proj",),
        "attn_norm": (r"{block}\.(?:layernorm_before|norm1)",),
        "mlp": (r"{block}\.mlp\.(?:fc[12]|\w+_proj)",),
        "mlp.module": (r"{block}\.mlp",),
        "mlp.fc1": (r"{block}\.mlp\.(?:fc1|gate_proj|up_proj)",),
        "mlp.fc2": (r"{block}\.mlp\.(?:fc2|down_proj)",),
        "mlp_norm": (r"{block}\.(?:layernorm_after|norm2)",),
        "norm": (r"{block}\.(?:layernorm_before|layernorm_after|norm[12])", "layernorm"),
        "final_norm": ("layernorm",),
        "patch_embed": (r"embeddings\.patch_embeddings\.projection",),
    },
    adapted=("attn", "mlp", "norm", "patch_embed"),
    heads=("classifier", "cls_classifier", "distillation_classifier"),
    sequence=True,
)

BY_CLASS = {"VisionTransformer": _TIMM_VIT, "SwinTransformer": _TIMM_SWIN, "ResNet": _TIMM_RESNET}
"""Families by the class of the model, or a class that it inherits from."""

BY_MODEL_TYPE = {name: _TRANSFORMERS_VIT for name in _MODEL_TYPES}
"""Families by the `model_type` of transformers."""


@dataclass(frozen=True)
class KnownKind:
    """Facts about a family whose parts are told from the kinds of its modules (`rlrr.backbones.by_kind`)."""

    fused_blocks: Mapping[str, int] = field(default_factory=dict)
    """Number of projections stacked one after the other in one linear, by the linear's name."""
    left_out: str | None = None
    """Regex of the names of modules that do not act on the logits."""
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Regexes, as in `Family.modules`, of parts that the kinds of modules do not tell."""
    sequence: bool = False
    """See `Family.sequence`."""


_STACKED_QKV = KnownKind({"qkv": 3})
_EVA_BLOCK = {
    **_TIMM_BLOCK,
    "attn": (r"{block}\.attn\.(?:qkv|[qkv]_proj|proj)",),
    "attn.qkv": (r"{block}\.attn\.(?:qkv|[qkv]_proj)",),
    "mlp.fc1": (r"{block}\.mlp\.fc1\w*",),
}
_DINOV3_BLOCK = {part: _TRANSFORMERS_VIT.modules[part] for part in _TRANSFORMERS_VIT.modules if part in _EVA_BLOCK}
_CLIP_BLOCK = {
    "attn.module": (r"{block}\.self_attn",),
    "attn.qkv": (r"{block}\.self_attn\.[qkv]_proj",),
    "attn.proj": (r"{block}\.self_attn\.out_proj",),
    "attn_norm": (r"{block}\.layer_norm1",),
    "mlp.module": (r"{block}\.mlp",),
    "mlp.fc1": (r"{block}\.mlp\.fc1",),
    "mlp.fc2": (r"{block}\.mlp\.fc2",),
    "mlp_norm": (r"{block}\.layer_norm2",),
}
KNOWN_KINDS = {
    **dict.fromkeys(
        (
            "Cait",
            "Hiera",
            "HieraDet",
            "MultiScaleVit",
            "NaFlexVit",
            "VisionTransformer",  # with parallel blocks, which have no attn and mlp of these names
            "VisionTransformerRelPos",
            "VisionTransformerSAM",
            "Xcit",
            "hiera",
        ),
        _STACKED_QKV,
    ),
    "Beit": KnownKind({"qkv": 3}, parts=_EVA_BLOCK),
    "Eva": KnownKind({"qkv": 3}, parts=_EVA_BLOCK, sequence=True),
    "PyramidVisionTransformerV2": KnownKind({"kv": 2}),
    **dict.fromkeys(
        (
            "ConvNeXt",
            "MaxxVit",
            "ResNet",  # with split or selective attention
            "SwinTransformerV2",
            "SwinTransformerV2Cr",
            "TinyVit",
            "beit",
            "convnext",
            "convnextv2",
            "dinov3_convnext",
            "swin",
            "swinv2",
        ),
        KnownKind(),
    ),
    **dict.fromkeys(
        ("clip", "clip_vision_model", "metaclip_2", "metaclip_2_vision_model"),
        KnownKind(left_out=r"post_layernorm$", parts=_CLIP_BLOCK, sequence=True),
    ),
    **dict.fromkeys(("siglip", "siglip_vision_model"), KnownKind(parts=_CLIP_BLOCK, sequence=True)),
    "dinov3_vit": KnownKind(parts=_DINOV3_BLOCK, sequence=True),
}
"""Families without regexes of their own: by the class of a timm model, or by the `model_type` of transformers."""

# Names by which the parts of models without regexes are told.
ATTENTION = re.compile(r"(?:^|\.)(?:\w*attn\w*|\w*attention\w*|token_mixer\w*|xca)(?:\.|$)")
MLP = re.compile(r"(?:^|\.)(?:mlp\w*|ffn\w*)$")
BETWEEN_STAGES = re.compile(r"down_?sampl|reduction|transition")
PATCHES = re.compile(r"patch_?emb|embeds?\b|embeddings")
STAGE = re.compile(r"(?:^|\.)(?:\w*stages|layers|levels)\.\d+$")
LISTS_OF_BLOCKS = re.compile(r"\w*blocks\w*|layers?|stages")

NOT_OF_IMAGES = re.compile(
    r"(?:^|\.)(?:cpb_mlp|continuous_position\w*|meta_mlp|rel_pos\w*|pos_emb\w*|rope\w*|rotary\w*|attn_pool|AuxLogits|aux\w*|head_dist"
    r"|text_model|text_projection|visual_projection|pooler|head\.(?:attention|layernorm|mlp)|decoder)(?:\.|$)"
)
"""Modules whose rows are not images but positions or words, and heads beside the classifier."""

PREFIX_PARAMETERS = ("cls_token", "class_embedding", "distillation_token", "register_tokens")
"""Names of the prefix tokens in transformers' models; timm's models have `num_prefix_tokens`."""

# The tables below tell a part by the name of a tensor alone, in files of weights as in models of any family.

HEADS = ("head", "head_dist", "fc", "classifier", "cls_classifier", "distillation_classifier", "heads")
"""Names of classifiers."""

BLOCK_NAME = re.compile(  # staged models first, since the stage in "layers.1.blocks.0" is not a block
    r"(?:^|\.)(?:(?:layers|stages)\.\d+\.blocks|blocks(?:\.\d+)?|layer\d+|layers?(?!\.\d+\.downsample))\.\d+(?=\.)"
)
STACKED = re.compile(r"(?:timm_model\.)?(?:layers\.\d+\.)?blocks\.\d+\.attn\.qkv")
"""Linears that stack q, k and v one after the other; timm's models with "stages" stack them head by head."""

RESIZED = re.compile(r"pos_embed|relative_position|relative_coords|rel_pos|attn_mask|attention_bias")
"""Tables that change their size with the image size, by their names in timm's families."""

POSITIONS = re.compile(r"pos(?:ition)?_embed|relative_position|rel_pos")
"""Tables of positions, by their names in timm and transformers."""

KINDS = {
    "attention.output.dense": "proj",
    "o_proj": "proj",
    "out_proj": "proj",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "query": "q",
    "key": "k",
    "value": "v",
    "patch_embed.proj": "patch_embed",
    "patch_embeddings.projection": "patch_embed",
}
"""One word for modules of the same kind in different families, by the end of the module's name."""
