"""Weights before and after tuning, from a run, an adapter of PEFT or two checkpoints."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForImageClassification

from rlrr.adapters.folder import load_start, load_trained_state, merged_model, put_adapter, read_tensors
from rlrr.adapters.record import PEFT_CONFIG, RECORD, TENSORS, Record, check_file, read_record
from rlrr.backbones import load_backbone
from rlrr.backbones.families import classifier_names
from rlrr.backbones.weights import brief, from_file
from rlrr.data.split import enumerated
from rlrr.errors import RLRRError, UsageError
from rlrr.files import read_json
from rlrr.methods.capabilities import can_merge, learned, neutral_values
from rlrr.methods.trainable import parameter_counts
from rlrr.spectral.matrices import HEADS, MatrixInfo, matrices, matrix_infos

_RECIPE, _METRICS, _MODEL_CONFIG = "recipe.yaml", "metrics.jsonl", "config.json"
_PEFT_PATH = "base_model.model."
_CLASSIFIER = re.compile(re.escape(_PEFT_PATH) + rf"(?:{'|'.join(HEADS)})(?:\.fc)?\.(?:weight|bias)")
# Metrics of a run and the images they were measured on; the first that the run has counts.
_ACCURACIES = {"test_accuracy": "test", "best_test_accuracy": "best test epoch", "val_accuracy": "val"}


@dataclass(frozen=True, eq=False)
class Pair:
    """One matrix before and after tuning.

    Attributes:
        name: Name of the matrix, as in `MatrixInfo`; `layer` and `kind` likewise.
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
        where: Path or name of the model, for messages.
        tensors: The matrices of the backbone by name; none if an adapter on it cannot be merged.
        model: The model in evaluation mode; None if only a file of weights was given.
        preprocessing: timm's data config, if it is known.
    """

    where: str
    tensors: Mapping[str, Tensor]
    model: nn.Module | None = None
    preprocessing: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Tuned:
    """A tuned model, with its weights before and after.

    Attributes:
        label: Name in tables and legends.
        method: Name of the method, PEFT's type in lower case, or "weights" for two checkpoints.
        before: The weights at the start; the classifier of this model means nothing.
        after: The weights with all that was learned; the model is a PEFT model where the adapter cannot be merged.
        infos: Names and kinds of the matrices, in the model's order, or by name if they come from files alone.
        record: The content of `rlrr.json`; None if this is no run.
        trained: Number of trained parameters without the classifier; None if it is not known.
        accuracy: The best founded accuracy of the record, as a fraction; None if there is none.
        accuracy_of: Images it was measured on: "test", "val" or "best test epoch"; "" if there is no accuracy.
        vectors: The learned tensors of the method, float32 on the CPU, by module and name without prefix, as `learned`
            gives them. For RLRR `scale_out` (out, r), `scale_in` (r, in) or (blocks, r, in) and `shift` (out); after
            norms and the like `scale` and `shift` (features).
        neutral: Values of the vectors that leave a model as it was, by the same module and name; modules of methods
            that name no such value are left out.
        deviations: The deviations from pre-training that the run has logged, in order.
    """

    label: str
    method: str
    before: Weights
    after: Weights
    infos: tuple[MatrixInfo, ...]
    record: Record | None = None
    trained: int | None = None
    accuracy: float | None = None
    accuracy_of: str = ""
    vectors: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    neutral: dict[str, dict[str, float]] = field(default_factory=dict)
    deviations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrices."""
        return tuple(info.name for info in self.infos)

    @property
    def has_weight_form(self) -> bool:
        """Whether the update is a change of weights; if not there are no pairs, and only features can be compared."""
        return bool(self.infos)

    @property
    def preprocessing(self) -> Mapping[str, Any] | None:
        """Preprocessing of both models, as timm's data config; None if it is not known."""
        return self.after.preprocessing or self.before.preprocessing

    def pairs(self) -> Iterator[Pair]:
        """Yield all matrices before and after, one by one, also where nothing changed."""
        for info in self.infos:
            before, after = info.take(self.before.tensors), info.take(self.after.tensors)
            yield Pair(info.name, info.layer, info.kind, before, after)


def open_tuned(
    what: str | Path, *, start: str | Path | None = None, weights: str | None = None, label: str | None = None
) -> Tuned:
    """Load the weights before and after tuning, and check that they are of one model.

    No more than two copies of the weights are held.

    Args:
        what: The folder of a run of ours, by any method; the folder of a PEFT adapter; a model folder of timm or
            transformers; or a file of weights (.safetensors, .pth).
        start: Weights before tuning, if `what` is no run of ours: for an adapter a backbone as `load_backbone` names
            it, or a folder of transformers; else one of these or another file.
        weights: File or folder of the backbone's weights, if they are not where its name says.
        label: Name in tables and legends; None for the last part of the path.

    Raises:
        RLRRError: there is nothing at `what`, or something incomplete or damaged; `start` is missing or cannot be
            loaded; or the two are not of one model.

    Example:
        >>> tuned = open_tuned("run")
        >>> [(pair.after - pair.before).norm() for pair in tuned.pairs()]
    """
    path = Path(what).expanduser()
    label = label or labels([what])[0]
    try:
        exists = path.exists()
    except OSError:  # the name is too long for a path
        exists = False
    if not exists:
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
        raise UsageError(f"{path} is no run of ours: give the weights to compare it to as `start`.")
    before, after = _checkpoint(start, weights), _checkpoint(path.resolve())
    return Tuned(label, "weights", before, after, _common_matrices(before, after))


def labels(sources: Sequence[str | Path]) -> list[str]:
    """Shorten paths to names: the last part of each, or as many parts as make them differ.

    Raises:
        RLRRError: a path is given twice.
    """
    paths = [Path(source).expanduser().resolve() for source in sources]
    if twice := [str(path) for i, path in enumerate(paths) if path in paths[:i]]:
        raise UsageError(f"{twice[0]} is given twice: name it once.")
    tails = (["/".join(path.parts[-depth:]) for path in paths] for depth in itertools.count(1))
    return next(tail for tail in tails if len(set(tail)) == len(paths))


def _run(folder: Path, weights: str | None, label: str) -> Tuned:
    record = read_record(folder)
    deviations = _deviations(folder, record)
    start = load_start(folder, record, weights).eval()
    model = put_adapter(deepcopy(start), folder, record)
    vectors, neutral = _vectors(model), neutral_values(model)
    before = _of_model(start, record.backbone["name"], record.preprocessing)
    after = _of_model(_merged(model), str(folder), record.preprocessing)
    measured = ((record.metrics[key], of) for key, of in _ACCURACIES.items() if key in record.metrics)
    accuracy, accuracy_of = next(measured, (None, ""))
    return Tuned(
        label,
        record.method,
        before,
        after,
        _common_matrices(before, after),
        record,
        record.parameters.get("adapter"),
        accuracy,
        accuracy_of,
        vectors,
        neutral,
        deviations,
    )


def _adapter(folder: Path, start: str | Path | None, weights: str | None, label: str) -> Tuned:
    content = read_json(folder / PEFT_CONFIG)
    if start is None:
        named = content.get("base_model_name_or_path") if isinstance(content, dict) else None
        raise UsageError(
            f"{folder} is an adapter of PEFT without {RECORD}: give its backbone as `start`"
            + (f" ({PEFT_CONFIG} names {named})." if named else "."),
        )
    state = read_tensors(folder / TENSORS)
    head = next((name for name in state if _CLASSIFIER.fullmatch(name)), None)
    before = _model(start, weights, len(state[head]) if head else 0)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False  # so that trained parameters can be told from frozen ones
        model: Any = get_peft_model(deepcopy(cast(Any, before.model)), config)
    except RLRRError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # each method of PEFT refuses in its own way
        raise RLRRError(f"The adapter in {folder} cannot be put on {start}: {brief(error)}.") from error
    load_trained_state(model.eval(), state, folder / TENSORS)
    vectors, neutral, trained = _vectors(model), neutral_values(model), parameter_counts(model)["adapter"]
    after = _of_model(_merged(model), str(folder), before.preprocessing)
    method = str(content["peft_type"]).lower()
    common = _common_matrices(before, after)
    return Tuned(label, method, before, after, common, trained=trained, vectors=vectors, neutral=neutral)


def _merged(model: nn.Module) -> nn.Module:
    """Return the plain model in which an adapter is part of the weights, or the PEFT model if that cannot be."""
    return merged_model(model) if can_merge(model) else model


def _vectors(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Copy the learned tensors, which merging may change."""
    return {
        module: {name: tensor.to("cpu", torch.float32, copy=True) for name, tensor in tensors.items()}
        for module, tensors in learned(model).items()
    }


def _deviations(folder: Path, record: Record) -> list[dict[str, Any]]:
    path = folder / _METRICS
    if not path.is_file():
        return []
    check_file(folder, record, _METRICS)
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
        raise UsageError(f"{path} is read into a model only: give the model as `start`, and the file as `weights`.")
    state = from_file(path, path.name, None, HEADS)["state_dict"]
    tensors = {name: state[name] for name in sorted(state, key=_natural) if isinstance(state[name], Tensor)}
    return Weights(str(path), matrices(tensors))


def _natural(name: str) -> list[int | str]:
    """Make a sorting key by which block 2 comes before block 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _model(what: str | Path, weights: str | None = None, classes: int = 0) -> Weights:
    """Load a timm model by name or folder, or a folder of transformers.

    Args:
        what: Name or folder of the model.
        weights: File or folder of the weights, if they are not where the name says.
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


def _common_matrices(before: Weights, after: Weights) -> tuple[MatrixInfo, ...]:
    """List the matrices of both; none if the update is no change of weights.

    Raises:
        RLRRError: the matrices are not those of one model.
    """
    if isinstance(after.model, PeftModel):
        return ()
    old, new = ({name: tuple(tensor.shape) for name, tensor in side.tensors.items()} for side in (before, after))
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
        listed = "; ".join(f"{len(names)} {side} ({enumerated(names, 3)})" for side, names in problems.items() if names)
        raise RLRRError(
            f"{after.where} and {before.where} cannot be compared, as they are not of one model. Weights that differ: "
            f"{listed}."
        )
    return matrix_infos(new)
