"""The option that was meant by one that does not exist: a near name, the word of another library, or a setting."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from rlrr.errors import did_you_mean

# The words of timm, transformers, Lightning and fastai for our options.
_SYNONYMS = {
    "--learning-rate": "lr learningrate base-lr peak-lr max-lr",
    "--batch-size": "b bs batch batchsize train-batch-size per-device-train-batch-size",
    "--weight-decay": "wd",
    "--output": "o out outdir out-dir output-dir save-dir save-path save-to dest",
    "--epochs": "e n-epochs num-epochs num-train-epochs max-epochs",
    "--image-size": "size imgsz img-size input-size resolution crop-size",
    "--model": "arch architecture backbone model-name model-name-or-path checkpoint",
    "--weights": "ckpt checkpoint pretrained pretrained-weights initial-checkpoint",
    "--method": "tuner adapter peft peft-type peft-method",
    "--accumulate": "accum grad-accum grad-accum-steps accum-steps gradient-accumulation-steps accumulate-grad-batches",
    "--schedule": "sched scheduler lr-sched lr-scheduler lr-scheduler-type lr-schedule",
    "--warmup": "warmup-ratio warmup-steps warmup-epochs",
    "--label-smoothing": "smoothing label-smoothing-factor",
    "--early-stop": "patience early-stopping early-stopping-patience",
    "--ema": "model-ema model-ema-decay ema-decay",
    "--flip": "hflip horizontal-flip fliplr",
    "--random-crop": "scale random-resized-crop rrc",
    "--normalization": "normalize mean std",
    "--val-fraction": "val-split valid-pct validation-split val-size val-ratio",
    "--seed": "random-seed manual-seed",
    "--precision": "amp fp16 bf16 fp32 half dtype mixed-precision",
    "--compile": "torch-compile torchcompile",
    "--workers": "j num-workers dataloader-num-workers",
    "--threads": "num-threads cpus cores",
    "--device": "gpu gpus cuda accelerator",
    "--jobs": "j parallel processes",
    "--overwrite": "force f exist-ok overwrite-output-dir",
    "--resume": "continue resume-from-checkpoint",
    "--config": "cfg recipe yaml",
    "--top-k": "k topk",
    "--set": "settings options",
    "--combination": "type kind combination-type",
    "--classes": "class-names labels names",
    "--directions": "n-directions k",
    "--json": "as-json format",
}


_PLACES = {
    "data": "dataset data-dir data-path train-dir",
    "run": "adapter",
    "images": "image input",
    "root": "data-dir",
}
_ALIKE = 0.8  # from which a near name is taken for a slip of the pen


def guess(name: str, arguments: Iterable[str]) -> str:
    """Return a hint at what was meant, as a sentence after a space, or "" if there is none.

    Args:
        name: The option as given, with hyphens.
        arguments: The arguments of the command: options with their hyphens, and names of places.
    """
    arguments, word = list(arguments), name.lstrip("-").lower()
    options = [argument for argument in arguments if argument.startswith("--")]
    if same := [option for option in options if word in _SYNONYMS.get(option, "").split()]:
        return f" Did you mean {', '.join(same)}?"
    for place in arguments:
        if word == place or word in _PLACES.get(place, "").split():
            return f" Give {place.upper()} alone, without the name of an option."
    near = did_you_mean(name, options)
    if "--set" in options and not get_close_matches(word, [option[2:] for option in options], cutoff=_ALIKE):
        setting = word.replace("-", "_")
        return f"{near} A setting of the method is given as --set {setting}=VALUE, if `rlrr methods` lists it."
    return near
