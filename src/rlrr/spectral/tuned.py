"""What there is to look at: weights before and after tuning, from a run, an adapter of PEFT or two checkpoints."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from rlrr.adapters.folder import load_start, load_trained_state, merged_model, put_adapter, read_tensors, trained_state
from rlrr.adapters.record import PEFT_CONFIG, RECORD, TENSORS, Record, read_record
from rlrr.backbones import load_backbone
from rlrr.backbones.families import classifier_names
from rlrr.backbones.weights import brief, from_file
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError, UsageError
from rlrr.files import read_json
from rlrr.methods.trainable import parameter_counts
from rlrr.spectral.matrices import HEADS, MatrixInfo, matrices, matrix_infos
from rlrr.tuners import RLRRModel

_RECIPE, _METRICS, _MODEL_CONFIG = "recipe.yaml", "metrics.jsonl", "config.json"
_PEFT_PATH = "base_model.model."
_CLASSIFIER = re.compile(re.escape(_PEFT_PATH) + rf"(?:{'|'.join(HEADS)})(?:\.fc)?\.(?:weight|bias)")
# What a run has measured and where; the first that it has is told.
_ACCURACIES = {"test_accuracy": "test", "best_test_accuracy": "best test epoch", "val_accuracy": "val"}


@dataclass(frozen=True, eq=False)
class Pair:
    """One matrix before and after tuning.

    Attributes:
        name: As `MatrixInfo.name`; `layer` and `kind` likewise.
        before: (out, in), float32 on the CPU; of a convolution (out kh, in kw). It may share memory with the model.
        after: In the same shape; the same tensor where nothing could change.
    """

    name: str
    layer: int | None
    kind: str
    before: Tensor
    after: Tensor


@dataclass(frozen=True, eq=False)
class Weights:
    """A model at one time.

    Attributes:
        where: What a message calls it.
        tensors: The weights of its backbone's matrices by name; none if an adapter on it cannot be merged.
        model: It, in evaluation mode; None if all there is of it are tensors in a file.
        preprocessing: timm's data config, if it is known.
    """

    where: str
    tensors: Mapping[str, Tensor]
    model: nn.Module | None = None
    preprocessing: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Source:
    """Something that was tuned, with its weights before and after.

    Attributes:
        label: What tables and legends call it.
        method: Name of the method, PEFT's type in lower case, or "weights" for two checkpoints.
        before: The weights it started from; its model's classifier means nothing.
        after: The weights with all that was learned; its model is a PEFT model where the adapter cannot be merged.
        places: Of its matrices, in the model's order, or in that of their names if they come from files alone.
        record: What `rlrr.json` says, if it is a run.
        trained: Number of trained parameters without the classifier; None if it is not known.
        accuracy: The best founded one of the record, as a fraction, and what it was measured on: "test", "val" or
            "best test epoch"; None and "" if there is none.
        vectors: What RLRR learned, float32, by module and name: `scale_out` (out, r), `scale_in` (r, in) or
            (blocks, r, in) and `shift` (out); after norms and the like `scale` and `shift` (features).
        deviations: What the run has logged of its deviation from pre-training, in order.
    """

    label: str
    method: str
    before: Weights
    after: Weights
    places: tuple[MatrixInfo, ...]
    record: Record | None = None
    trained: int | None = None
    accuracy: float | None = None
    accuracy_of: str = ""
    vectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    deviations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """Of its pairs, in their order."""
        return tuple(place.name for place in self.places)

    @property
    def has_weight_form(self) -> bool:
        """Whether what was learned is a change of weights; if not there are no pairs, and only features to compare."""
        return bool(self.places)

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """How both models take their images, as timm's data config; None if it is not known."""
        return self.after.preprocessing or self.before.preprocessing

    def pairs(self) -> Iterator[Pair]:
        """All matrices before and after, one by one, those that did not change too."""
        for place in self.places:
            before, after = place.take(self.before.tensors), place.take(self.after.tensors)
            yield Pair(place.name, place.layer, place.kind, before, after)


def open_source(
    what: str | Path, *, start: str | Path | None = None, weights: str | None = None, label: str | None = None
) -> Source:
    """Find the weights before and after tuning, and see that they belong together.

    No more than two copies of the weights are held.

    Args:
        what: The folder of a run of ours, by any method; the folder of a PEFT adapter; a model folder of timm or
            transformers; or a file of weights (.safetensors, .pth).
        start: What it was tuned from, if it is no run of ours: for an adapter a backbone as `load_backbone` names it,
            or a folder of transformers; else one of these or another file.
        weights: Where the weights of the backbone are, if they are not where its name says.
        label: What tables and legends call it; None for the last part of its path.

    Raises:
        RLRRError: there is nothing at `what`, or something incomplete or damaged; `start` is missing or not to be
            had; or the two are not of one model.
    """
    path = Path(what).expanduser()
    label = label or labels([what])[0]
    try:
        there = path.exists()
    except OSError:  # its name is too long to be one
        there = False
    if not there:
        raise UsageError(f"There is no run, adapter, model or file of weights {path}.")
    if (path / RECORD).exists() or (path / _RECIPE).exists():
        return _run(path, weights, label)
    if path.is_dir() and not any((path / name).is_file() for name in (PEFT_CONFIG, _MODEL_CONFIG)):
        raise RLRRError(
            f"{path} holds no run ({RECORD}), no adapter ({PEFT_CONFIG}) and no model ({_MODEL_CONFIG}): is it the"
            " folder you meant?"
        )
    if (path / PEFT_CONFIG).is_file():
        return _adapter(path, start, weights, label)
    if start is None:
        raise UsageError(f"{path} is no run of ours: say with --start which weights it is compared to.")
    before, after = _checkpoint(start, weights), _checkpoint(path.resolve())
    return Source(label, "weights", before, after, _common_places(before, after))


def labels(sources: Sequence[str | Path]) -> list[str]:
    """Short names for several sources: the last part of their paths, or as many as make them differ.

    Raises:
        RLRRError: one is given twice.
    """
    paths = [Path(source).expanduser().resolve() for source in sources]
    if twice := [str(path) for i, path in enumerate(paths) if path in paths[:i]]:
        raise UsageError(f"{twice[0]} is given twice: name it once.")
    tails = (["/".join(path.parts[-depth:]) for path in paths] for depth in itertools.count(1))
    return next(tail for tail in tails if len(set(tail)) == len(paths))


def _run(folder: Path, weights: str | None, label: str) -> Source:
    deviations = _deviations(folder)
    record = read_record(folder)
    start = load_start(folder, record, weights).eval()
    model = put_adapter(deepcopy(start), folder, record)
    vectors = _vectors(model)
    before = _of_model(start, record.backbone["name"], record.preprocessing)
    after = _of_model(_merged(model), str(folder), record.preprocessing)
    measured = ((record.metrics[key], of) for key, of in _ACCURACIES.items() if key in record.metrics)
    accuracy, accuracy_of = next(measured, (None, ""))
    return Source(
        label,
        record.method,
        before,
        after,
        _common_places(before, after),
        record,
        record.parameters.get("adapter"),
        accuracy,
        accuracy_of,
        vectors,
        deviations,
    )


def _adapter(folder: Path, start: str | Path | None, weights: str | None, label: str) -> Source:
    content = read_json(folder / PEFT_CONFIG)
    if start is None:
        named = content.get("base_model_name_or_path") if isinstance(content, dict) else None
        raise UsageError(
            f"{folder} is an adapter of PEFT without {RECORD}: say with --start which backbone it is for"
            + (f" ({PEFT_CONFIG} names {named})." if named else "."),
        )
    state = read_tensors(folder / TENSORS)
    head = next((name for name in state if _CLASSIFIER.fullmatch(name)), None)
    before = _model(start, weights, len(state[head]) if head else 0)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False  # so that it shows what is trained
        model: Any = get_peft_model(deepcopy(cast(Any, before.model)), config)
    except RLRRError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # each method of PEFT refuses in its own way
        raise RLRRError(f"The adapter in {folder} cannot be put on {start}: {brief(error)}.") from error
    load_trained_state(model.eval(), state, folder / TENSORS)
    vectors, trained = _vectors(model), parameter_counts(model)["adapter"]
    after = _of_model(_merged(model), str(folder), before.preprocessing)
    method = str(content["peft_type"]).lower()
    return Source(label, method, before, after, _common_places(before, after), trained=trained, vectors=vectors)


def _merged(model: nn.Module) -> nn.Module:
    """The plain model in which an adapter is part of the weights, or the PEFT model if that cannot be."""
    try:
        return merged_model(model)
    except NotImplementedError:
        return model


def _vectors(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in trained_state(model).items() if isinstance(model, PeftModel) else ():
        module, _, vector = name.removeprefix(_PEFT_PATH).rpartition(".")
        if vector.startswith(RLRRModel.prefix):
            found[module][vector.removeprefix(RLRRModel.prefix)] = tensor.float()
    return dict(found)


def _deviations(folder: Path) -> list[dict[str, Any]]:
    path = folder / _METRICS
    if not path.is_file():
        return []
    try:
        records = [dict(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(math.isfinite(record.get("deviation", 0)) for record in records):
            raise ValueError("a deviation is not finite")
    except (TypeError, ValueError) as error:
        raise RLRRError(f"{path} is damaged ({error}): delete it, and the rest of the run can be analysed.") from None
    return [record for record in records if "deviation" in record]


def _checkpoint(what: str | Path, weights: str | None = None) -> Weights:
    path = Path(what).expanduser()
    return _file(path) if path.is_file() else _model(what, weights)


def _file(path: Path) -> Weights:
    if path.suffix == ".npz":
        raise UsageError(f"{path} is read into a model only: name that with --start, and the file with --weights.")
    state = from_file(path, path.name, None, HEADS)["state_dict"]
    found = matrices({name: state[name] for name in sorted(state, key=_natural) if isinstance(state[name], Tensor)})
    return Weights(str(path), found)


def _natural(name: str) -> list[int | str]:
    """A key by which block 2 comes before block 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _model(what: str | Path, weights: str | None = None, classes: int = 0) -> Weights:
    """A timm model by name or folder, or a folder of transformers.

    Args:
        what: Its name or folder.
        weights: Where its weights are, if not where the name says.
        classes: Outputs of the classifier.
    """
    config = Path(what).expanduser() / _MODEL_CONFIG
    if config.is_file() and "architecture" not in read_json(config):  # timm's word
        return _transformers(config.parent, classes)
    backbone = load_backbone(str(what), num_classes=classes, weights=weights)
    return _of_model(backbone.model.eval(), str(what), backbone.data_config)


def _transformers(folder: Path, classes: int) -> Weights:
    options = {"num_labels": classes, "ignore_mismatched_sizes": True} if classes else {}
    try:
        model: Any = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, **options)
    except Exception as error:  # each architecture fails in its own way
        raise RLRRError(f"transformers opens no model that classifies images in {folder}: {brief(error)}.") from error
    return _of_model(model.eval(), str(folder))


def _of_model(model: nn.Module, where: str, preprocessing: Mapping[str, Any] | None = None) -> Weights:
    tensors = {} if isinstance(model, PeftModel) else matrices(model.state_dict(), classifier_names(model))
    return Weights(where, tensors, model, preprocessing)


def _common_places(before: Weights, after: Weights) -> tuple[MatrixInfo, ...]:
    """Where the matrices of both are; none if what was learned is no change of weights.

    Raises:
        RLRRError: they are not those of one model.
    """
    if isinstance(after.model, PeftModel):
        return ()
    old, new = ({name: tuple(tensor.shape) for name, tensor in its.tensors.items()} for its in (before, after))
    if not old or not new:
        empty = after if old else before
        raise RLRRError(f"{empty.where} holds no weight of two dimensions or more: is it the file you meant?")
    shapes = [f"{name}: {new[name]} and {old[name]}" for name in old if name in new and new[name] != old[name]]
    problems = {
        f"only in {after.where}": [name for name in new if name not in old],
        f"only in {before.where}": [name for name in old if name not in new],
        "of another shape": shapes,
    }
    if any(problems.values()):
        listed = "; ".join(f"{len(names)} {what} ({enumerated(names, 3)})" for what, names in problems.items() if names)
        raise RLRRError(
            f"{after.where} and {before.where} cannot be compared, as they are not of one model. Weights that differ: "
            f"{listed}."
        )
    return matrix_infos(new)
