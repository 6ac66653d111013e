"""Does every backbone work by default? Each is built small and put through all that a user does, check by check.

    python benchmarks/backbones.py --output bench/backbones               # all; an hour on two cores
    python benchmarks/backbones.py --models '[eva02_tiny_patch14_224]' --output bench/backbones --export true

A model has random weights, few blocks where timm lets us choose, and its own image size. It is written to a timm
folder and goes the product's own way: `load_backbone`, `apply_method`, the loss of a training, `save_adapter`,
`load_adapter`. Models of transformers go through `get_peft_model`. The checks, by the columns of the table:

    blocks      every block has an adapted module
    called      each adapted layer is called in the forward pass, and the classifiers are what is trained beside them
    step        one training step by the loss of `rlrr train`: every trained tensor gets a finite gradient
    merged      merged logits are the adapted ones, which differ from the bare model's
    folder      the merged model written as a timm folder, and opened by timm alone, gives them too
    loaded      the run saved and loaded, at its own image size, gives the very logits
    weights     the backbone's own file is taken as `weights`
    mixed       two adapters and none in a batch of 1, 2, 3 and 5 images: each image's own, or the batch is refused
    ssf, adaptformer    these methods by default: the step and, for ssf, merged logits
    export      the run as ONNX gives the logits (with --export true)

A check fails with its sentence, which stands below the table. Models that are done are not run again: results.json in
the output folder holds them. The table goes there as backbones.md.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from measure import command_line, markdown_table
from peft import PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from rlrr.adapters.folder import load_adapter, merged_model, save_adapter
from rlrr.adapters.record import Record, backbone_record
from rlrr.backbones import Backbone, load_backbone
from rlrr.backbones.families import block_names, classifier_names, family_of
from rlrr.errors import RLRRError
from rlrr.files import write_json
from rlrr.interop.timm_folder import write_timm_folder
from rlrr.methods.apply import apply_method, method_config
from rlrr.methods.trainable import check_adapted, plain_model
from rlrr.training.objective import Batch, CrossEntropy

CLASSES = ["a", "b", "c"]
BATCHES = (1, 2, 3, 5)
TOLERANCE = 1e-4  # share of the largest logit
CHECKS = ("blocks", "called", "step", "merged", "folder", "loaded", "weights", "mixed", "ssf", "adaptformer", "export")
METHODS = ("ssf", "adaptformer")

_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 2}
_VIT32, _VIT28 = _VIT | {"img_size": 32}, _VIT | {"img_size": 28}
_CNN = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 40)}
_VITS = """
vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 deit3_small_patch16_224 vit_base_patch16_siglip_224
vit_base_patch16_siglip_gap_224 vit_base_patch16_clip_224 vit_base_patch16_xp_224 vit_small_patch16_18x2_224
vit_relpos_small_patch16_224 vit_srelpos_small_patch16_224 flexivit_small vit_wee_patch16_reg1_gap_256
vit_pwee_patch16_reg1_gap_256 vit_dwee_patch16_reg1_gap_256 vit_dpwee_patch16_reg1_gap_256 samvit_base_patch16_224
beit_base_patch16_224 beitv2_base_patch16_224 vit_small_patch16_dinov3 vit_small_patch16_dinov3_qkvb
vit_huge_plus_patch16_dinov3 vit_base_patch16_rope_reg1_gap_256 vit_small_patch16_rope_224
vit_small_patch16_rope_mixed_224 vit_pe_core_tiny_patch16_384 naflexvit_base_patch16_gap
naflexvit_base_patch16_siglip
"""
_VITS_14 = """
vit_small_patch14_reg4_dinov2 vit_giant_patch14_dinov2 vit_intern300m_patch14_448 aimv2_large_patch14_224
eva_giant_patch14_224 eva02_tiny_patch14_224 eva02_base_patch14_224 eva02_enormous_patch14_clip_224
"""
_GENERIC = """
levit_128s levit_conv_128s volo_d1_224 crossvit_tiny_240 tnt_s_legacy_patch16_224 twins_svt_small twins_pcpvt_small
convit_tiny coat_lite_tiny coat_tiny davit_tiny gcvit_xxtiny nest_tiny_jx pit_ti_224 pit_ti_distilled_224
visformer_tiny focalnet_tiny_srf edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientvit_b0
efficientvit_m0 fastvit_t8 mobilevit_xxs mobilevitv2_050 nextvit_small poolformer_s12 caformer_s18 convformer_s18
sequencer2d_s mixer_s32_224 gmlp_s16_224 resmlp_12_224 swiftformer_xs shvit_s1 repvit_m0_9 inception_next_atto
mambaout_femto vitamin_small_224 hgnet_tiny starnet_s1 mobilenetv3_small_050 efficientnet_b0 tf_efficientnetv2_b0
regnetx_002 regnety_002 densenet121 dla34 vgg11 resnetv2_18 resnetv2_50x1_bit nfnet_f0 eca_nfnet_l0 inception_v3
xception41 hrnet_w18_small cspresnet50 rexnet_100 ghostnet_050 convmixer_768_32 halonet26t lambda_resnet26t
botnet26t_256 bat_resnext26ts vovnet39a tresnet_m senet154 dpn68 selecsls42 res2net50_26w_4s repghostnet_050
rdnet_tiny fasternet_t0 lcnet_035
"""
MODELS: dict[str, dict[str, Any]] = {
    # ViT in all its forms
    **{name: _VIT32 for name in _VITS.split()},
    **{name: _VIT28 for name in _VITS_14.split()},
    "vit_so400m_patch14_siglip_384": _VIT,
    **{name: {"img_size": 32} for name in ("test_vit", "test_vit2", "test_vit3", "test_vit4")},
    "vit_tiny_r_s16_p8_224": {"depth": 2, "embed_dim": 48, "num_heads": 2},
    "vit_small_r26_s32_224": {"depth": 2, "embed_dim": 48, "num_heads": 2},
    "cait_xxs24_224": _VIT32 | {"depth_token_only": 1},
    "xcit_nano_12_p16_224": _VIT32,
    "xcit_tiny_12_p8_224": _VIT32,
    # stages
    "hiera_tiny_224": {"embed_dim": 16, "stages": (1, 1, 1, 1)},
    "hiera_small_abswin_256": {"embed_dim": 16, "stages": (1, 1, 1, 1)},
    "sam2_hiera_tiny": {"embed_dim": 16, "stages": (1, 2, 2, 2), "global_att_blocks": (4,)},
    "mvitv2_tiny": {},
    "mvitv2_small_cls": {},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1)},
    "pvt_v2_b2_li": {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 40, 64)},
    "swin_tiny_patch4_window7_224": {"depths": (2, 2), "embed_dim": 16, "num_heads": (2, 2), "img_size": 56},
    "swinv2_tiny_window8_256": {"depths": (2, 2), "embed_dim": 16, "num_heads": (2, 2), "img_size": 64},
    "swinv2_cr_tiny_ns_224": {"depths": (2, 2), "embed_dim": 16, "num_heads": (2, 2), "img_size": 56},
    "maxvit_pico_rw_256": {"depths": (1, 1), "embed_dim": (32, 64), "img_size": 64},
    "maxvit_tiny_tf_224": {"depths": (1, 1), "embed_dim": (32, 64), "img_size": 56},
    "maxxvit_rmlp_nano_rw_256": {"depths": (1, 1), "embed_dim": (64, 64), "img_size": 64},
    "coatnet_nano_rw_224": {"depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64)},
    "coatnet_rmlp_nano_rw_224": {"depths": (1, 1, 1, 1), "embed_dim": (32, 32, 64, 64)},
    "coatnext_nano_rw_224": {"depths": (1, 1, 1, 1), "embed_dim": (64, 64, 64, 64)},
    "tiny_vit_5m_224": {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 48, 64), "num_heads": (1, 2, 2, 2)},
    "convnext_atto": _CNN,
    "convnext_atto_ols": _CNN,
    "convnext_zepto_rms": _CNN,
    "convnextv2_atto": _CNN,
    "resnet18": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40)},
    "resnet50d": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40)},
    "resnext50_32x4d": {"layers": (1, 1, 1, 1)},
    "seresnet18": {},
    "resnest14d": {},
    "skresnet18": {},
    # by the generic default
    **{name: {} for name in _GENERIC.split()},
}
"""Models of timm with the arguments that make them small."""

_HF = {"image_size": 32, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_HF_SWIN = {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
_HF_HIERA = {"image_size": (64, 64), "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "num_query_pool": 1}
_HF_CNN = {"image_size": 64, "hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "transformers ViT": ("ViT", _HF | {"intermediate_size": 64}),
    "transformers DeiT": ("DeiT", _HF | {"intermediate_size": 64}),
    "transformers DINOv2": ("Dinov2", _HF),
    "transformers DINOv2 with registers": ("Dinov2WithRegisters", _HF),
    "transformers DINOv3 ViT": ("DINOv3ViT", _HF | {"intermediate_size": 64, "num_register_tokens": 2}),
    "transformers DINOv3 ConvNeXt": ("DINOv3ConvNext", _HF_CNN),
    "transformers Swin": ("Swin", _HF_SWIN),
    "transformers Swin V2": ("Swinv2", _HF_SWIN),
    "transformers BEiT": ("Beit", _HF | {"intermediate_size": 64, "use_relative_position_bias": True}),
    "transformers SigLIP": ("Siglip", {"vision_config": _HF | {"intermediate_size": 64}, "image_size": 32}),
    "transformers CLIP": ("CLIP", {"vision_config": _HF | {"intermediate_size": 64}, "image_size": 32}),
    "transformers MetaCLIP 2": ("MetaClip2", {"vision_config": _HF | {"intermediate_size": 64}, "image_size": 32}),
    "transformers Hiera": ("Hiera", _HF_HIERA),
    "transformers ConvNeXt": ("ConvNext", _HF_CNN),
    "transformers ConvNeXt V2": ("ConvNextV2", _HF_CNN),
}
"""Models of transformers: the class for classification without its ending, and the sizes of a small one."""


class Failed(Exception):
    """A check that did not hold, with its sentence."""


def random_weights(model: nn.Module) -> nn.Module:
    """Draw all weights so that every layer acts: timm starts some scales at zero, or at 1e-6."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += 0.2 * noise if parameter.ndim <= 1 or parameter.abs().max() < 1e-3 else 0
    return model


def timm_folder(name: str, arguments: Mapping[str, Any], folder: Path) -> Path:
    """Write a model with random weights as a timm folder, at its own image size."""
    torch.manual_seed(0)
    model = random_weights(timm.create_model(name, num_classes=2, **arguments))
    size = arguments.get("img_size")
    config = timm.data.resolve_model_data_config(model, {"img_size": size} if isinstance(size, int) else None)
    write_timm_folder(model, folder, ["x", "y"], config)
    return folder


def adapted_layers(model: nn.Module) -> list[str]:
    """Name the adapted layers of a model."""
    return [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def logits_of(model: nn.Module, images: Tensor, **options: Any) -> Tensor:
    """Compute logits in evaluation mode, of the first head if there are several."""
    with torch.no_grad():
        return _tensor_of(model.eval()(images, **options))


def _tensor_of(output: Any) -> Tensor:
    """Find the logits in what a model gives; transformers' DINOv3, which has no classifier, gives pooled features."""
    for name in ("logits", "pooler_output"):
        output = getattr(output, name, output)
    return output[0] if isinstance(output, tuple) else output


def expect_equal(given: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Compare logits, as a share of the largest."""
    difference = ((given - expected).abs().max() / expected.abs().max()).item()
    if not difference <= tolerance:
        raise Failed(f"{what} differ by {difference:.1e} of the largest")


def every_block(model: nn.Module) -> str:
    """Count the blocks, each of which has an adapted module."""
    plain = plain_model(model)
    blocks, layers = block_names(plain), adapted_layers(plain)
    bare = [block for block in blocks if not any(f"{name}.".startswith(f"{block}.") for name in layers)]
    if bare:
        raise Failed(f"{len(bare)} of {len(blocks)} blocks have no adapted module, such as {bare[0]}")
    return str(len(blocks))


def called(model: PeftModel, images: Tensor) -> str:
    """Check that all adapted layers are called, and that the classifiers alone are trained beside them."""
    check_adapted(model, torch.zeros_like(images[:1]))
    plain = plain_model(model)
    wrapped = [name for name, module in plain.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    if sorted(wrapped) != sorted(classifier_names(plain)):
        raise Failed(f"trained whole are {wrapped}, and the classifiers are {classifier_names(plain)}")
    return str(len(adapted_layers(model)))


def step(model: nn.Module, images: Tensor) -> str:
    """Take one training step, in which every trained tensor gets a finite gradient."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    targets = torch.arange(len(images)) % len(CLASSES)
    outcome = CrossEntropy()(_Logits(model).train(), Batch(images, targets, targets), 0.0)
    outcome.loss.backward()
    if without := [name for name, parameter in trained.items() if parameter.grad is None]:
        raise Failed(f"{len(without)} trained tensors get no gradient, such as {without[0]}")
    if odd := [name for name, parameter in trained.items() if not parameter.grad.isfinite().all()]:
        raise Failed(f"{len(odd)} gradients are not finite, such as that of {odd[0]}")
    optimizer.step()
    optimizer.zero_grad()
    return f"{outcome.loss.item():.3g}"


class _Logits(nn.Module):
    """A model that gives its logits alone, of the first head if there are several, as a loss takes them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return _tensor_of(self.model(images))


def merged(model: PeftModel, images: Tensor) -> nn.Module:
    """Merge a copy, whose logits are the adapted ones; these are not those of the bare model."""
    adapted = logits_of(model, images)
    with model.disable_adapter():
        bare = logits_of(model, images)
    if (adapted - bare).abs().max() <= 1e-3 * adapted.abs().max():
        raise Failed("the adapter does not show in the logits")
    plain = merged_model(deepcopy(model))
    expect_equal(logits_of(plain, images), adapted, "merged logits")
    return plain


def opened(plain: nn.Module, folder: Path, backbone: Backbone, images: Tensor) -> str:
    """Write a merged model as a timm folder, and open it."""
    expected = logits_of(plain, images)
    write_timm_folder(plain, folder, CLASSES, backbone.data_config)
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    expect_equal(logits_of(again, images), expected, "logits of the merged folder")
    return "yes"


def saved(model: PeftModel, backbone: Backbone, method: str, folder: Path) -> Path:
    """Save a run."""
    record = Record(method, backbone_record(backbone, None), CLASSES, backbone.data_config, {}, {"source": "none"})
    save_adapter(folder, model, record)
    return folder


def loaded(run: Path, expected: Tensor, images: Tensor) -> str:
    """Load a run at its own image size, which its record names."""
    again, record = load_adapter(run)
    expect_equal(logits_of(again, images), expected, "loaded logits", tolerance=1e-6)
    return str(record.backbone["image_size"])


def own_weights(folder: Path, backbone: Backbone) -> str:
    """Give the backbone its own file as `weights`."""
    again = load_backbone(str(folder), num_classes=0, weights=str(folder / "model.safetensors"))
    if again.fingerprint != backbone.fingerprint:
        raise Failed("the weights that were loaded from the file are others")
    return "yes"


def mixed(model: PeftModel, config: Any, images: Tensor) -> str:
    """Run batches of two adapters and none, and compare each image with its own; or find the batch refused."""
    model.add_adapter("other", config)
    alone = {}
    for name in ("default", "other"):
        model.set_adapter(name)
        alone[name] = logits_of(model, images)
    model.set_adapter("default")
    with model.disable_adapter():
        alone["__base__"] = logits_of(model, images)
    for size in BATCHES:
        names = [("default", "other", "__base__")[index % 3] for index in range(size)]
        try:
            together = logits_of(model, images[:size], adapter_names=names)
        except (ValueError, RLRRError) as error:
            return f"refused: {error}"
        expected = torch.stack([alone[name][index] for index, name in enumerate(names)])
        expect_equal(together, expected, f"logits of a mixed batch of {size}")
    return "yes"


def other_method(build: Callable[[], tuple[nn.Module, Any]], method: str, images: Tensor) -> str:
    """Take a step by another method, by default; ssf merges too."""
    model, _ = build_adapted(build, method)
    called(model, images)
    every = every_block(model) if method != "adaptformer" else str(len(adapted_layers(model)))
    step(model, images[:2])
    if method == "ssf":
        merged(model, images[:2])
    return every


def build_adapted(build: Callable[[], tuple[nn.Module, Any]], method: str) -> tuple[Any, Any]:
    """Build a model anew and adapt it by the default of a method, with random vectors so that the adapter shows."""
    base, backbone = build()
    torch.manual_seed(1)
    if backbone is None:
        return get_peft_model(base, method_config(method, {"init_weights": False})), None
    return apply_method(base, method, {"init_weights": False}), backbone


def check_model(
    build: Callable[[], tuple[nn.Module, Any]], size: int, folder: Path, export: bool = False
) -> dict[str, Any]:
    """Run all checks on one model.

    Args:
        build: Builds the model, and its `Backbone` if timm has it.
        size: Height and width of its images.
        folder: A scratch folder; for a timm model with its own folder in "model".
        export: Whether to export as ONNX.

    Returns:
        family, parameters, and checks: by name "…" or "FAILED: sentence".
    """
    images = torch.randn(max(BATCHES), 3, size, size, generator=torch.Generator().manual_seed(2))
    checks: dict[str, str] = {}

    def attempt(name: str, run: Callable[[], Any]) -> Any:
        try:
            result = run()
        except Exception as error:  # whatever fails is the result
            words = " ".join(str(error).split())
            kind = "" if isinstance(error, (Failed, RLRRError)) else f"{type(error).__name__}: "
            refused = isinstance(error, RLRRError)
            checks[name] = f"{'refused' if refused else 'FAILED'}: {kind}{words}"[:400]
            return None
        checks[name] = result if isinstance(result, str) else "yes"
        return result

    made = attempt("built", lambda: build_adapted(build, "rlrr"))
    if made is None:
        return {"family": "", "checks": checks}
    model, backbone = made
    family: Any = family_of(plain_model(model))
    row = {"family": "generic" if family.generic else "known", "image_size": size, "checks": checks}
    attempt("blocks", lambda: every_block(model))
    attempt("called", lambda: called(model, images))
    attempt("step", lambda: step(model, images[:2]))
    plain = attempt("merged", lambda: merged(model, images))
    if backbone is not None:
        if plain is not None:
            attempt("folder", lambda: opened(plain, folder / "merged", backbone, images))
        run = attempt("loaded", lambda: saved(model, backbone, "rlrr", folder / "run"))
        if run is not None:
            attempt("loaded", lambda: loaded(run, logits_of(model, images), images))
            if export:
                attempt("export", lambda: f"{export(run, folder / 'model.onnx').relative_difference:.0e}")
        attempt("weights", lambda: own_weights(folder / "model", backbone))
    attempt("mixed", lambda: mixed(model, method_config("rlrr", other_settings(model)), images))
    for method in METHODS:
        attempt(method, lambda method=method: other_method(build, method, images))
    return row


def other_settings(model: PeftModel) -> dict[str, Any]:
    """Settings of a second adapter, of the first one's modules."""
    config: Any = model.peft_config["default"]
    return {
        "target_modules": config.target_modules,
        "modules_to_save": config.modules_to_save,
        "init_weights": False,
        "fused_blocks": config.fused_blocks,
        "convolutions": config.convolutions,
    }


def check_timm(name: str, arguments: Mapping[str, Any], export: bool = False) -> dict[str, Any]:
    """Run all checks on a model of timm."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = timm_folder(name, arguments, Path(scratch) / "model")

        def build() -> tuple[nn.Module, Backbone]:
            backbone = load_backbone(str(folder), num_classes=len(CLASSES))
            return backbone.model, backbone

        size = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["input_size"][-1]
        return check_model(build, size, Path(scratch), export)


def check_transformers(name: str) -> dict[str, Any]:
    """Run the checks on a model of transformers that do not need timm."""
    kind, sizes = TRANSFORMERS[name]

    def build() -> tuple[nn.Module, None]:
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind.removesuffix('Model')}Config")(**sizes, num_labels=len(CLASSES))
        whole = getattr(transformers, f"{kind}ForImageClassification", None) or getattr(transformers, f"{kind}Model")
        return random_weights(whole(config)), None

    with tempfile.TemporaryDirectory() as scratch:
        size = sizes["image_size"]
        return check_model(build, size if isinstance(size, int) else size[0], Path(scratch))


def check_any(name: str, export: bool = False) -> dict[str, Any]:
    """Run all checks on a model by its name."""
    return check_transformers(name) if name in TRANSFORMERS else check_timm(name, MODELS.get(name, {}), export)


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write the table and, below it, every sentence of a check that did not hold."""
    rows, sentences = [], []
    for name, result in results.items():
        checks = result["checks"]
        for check, words in checks.items():
            if words.startswith(("FAILED", "refused")):
                sentences.append(f"- `{name}`, {check}: {words}")
        cells = [_cell(checks.get(check, "-" if "built" not in checks else "")) for check in CHECKS]
        rows.append([f"`{name}`", result["family"] or "-", *cells])
    minutes = sum(result["seconds"] for result in results.values()) / 60
    head = f"{len(results)} models in {minutes:.0f} minutes; torch {torch.__version__}, timm {timm.__version__}."
    body = head + "\n\n" + markdown_table(["model", "default", *CHECKS], rows)
    return body + ("\n\n" + "\n".join(sentences) if sentences else "")


def _cell(words: str) -> str:
    return words.partition(":")[0] if words.startswith(("FAILED", "refused")) else words


def main(
    models: Sequence[str] = (),
    output: Path = Path("bench/backbones"),
    export: bool = False,
    again: bool = False,
) -> None:
    """Check models one after the other and write the table.

    Args:
        models: Names in `MODELS` or `TRANSFORMERS`, or of any model of timm; all of both if none is named.
        output: Folder of results.json and backbones.md.
        export: Export each run as ONNX too, which takes most of the time.
        again: Check models anew that results.json holds.
    """
    warnings.simplefilter("ignore")
    logging.getLogger("rlrr").setLevel(logging.ERROR)
    path = output / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    names = list(models) or sorted([*MODELS, *TRANSFORMERS], key=_GENERIC.split().__contains__)
    for name in names:
        if name in results and not again and not (export and "export" not in results[name]["checks"]):
            continue
        start = time.perf_counter()
        try:
            result = check_any(name, export)
        except Exception as error:  # timm cannot build it like this, or the folder cannot be written
            result = {
                "family": "",
                "checks": {"built": f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]}"},
            }
        result["seconds"] = round(time.perf_counter() - start, 1)
        results[name] = result
        write_json(path, results)
        bad = [
            f"{check}: {words}" for check, words in result["checks"].items() if words.startswith(("FAILED", "refused"))
        ]
        print(f"{name}: {result['seconds']} s, {'; '.join(bad) or 'all hold'}", flush=True)
    ordered = {name: results[name] for name in [*MODELS, *TRANSFORMERS, *results] if name in results}
    text = table(ordered)
    (output / "backbones.md").write_text(text + "\n")


if __name__ == "__main__":
    command_line(main)
