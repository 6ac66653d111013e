"""Make image files, recipes and adapter folders by hypothesis, and read each as a user's.

Used by benchmarks/reliability.py. Nothing but `RLRRError` may come out, a finite number of bytes is needed, and an
adapter that loads although its folder was changed gives the logits that it gave before.
"""

from __future__ import annotations

import gc
import io
import json
import os
import random
import resource
import shutil
import tempfile
import time
import traceback
import zlib
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import timm
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from measure import PeakMemory
from PIL import Image
from stage import LONGEST, Stage

from rlrr.backbones import load_backbone
from rlrr.data.decode import decode
from rlrr.data.load import load_data
from rlrr.errors import RLRRError
from rlrr.files import SEAL, file_checksum, write_sealed
from rlrr.hints import members
from rlrr.inference.predict import load
from rlrr.methods.apply import method_config
from rlrr.methods.table import METHODS
from rlrr.recipes.files import RECIPE, load_recipe, packaged_recipes, read_recipe, write_recipe
from rlrr.recipes.recipe import Recipe

CHUNK = 50  # examples in a process of its own
MOST_MIB = 1024  # above what the process has before an example
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True)
class Edit:
    """A change of bytes at a place, a share of their length; headers, which stand first, are met most often."""

    kind: str
    place: float
    data: bytes

    def __call__(self, content: bytes) -> bytes:
        """Return the changed bytes."""
        start = int(self.place**3 * len(content))
        end = start + len(self.data)
        before, after = content[:start], content[start:]
        match self.kind:
            case "cut":
                return content[: int(self.place * len(content))]
            case "flip":
                return before + bytes(one ^ other for one, other in zip(after, self.data, strict=False)) + content[end:]
            case "put":
                return before + self.data + content[end:]
            case "insert":
                return before + self.data + after
            case "delete":
                return before + content[end:]
            case _:  # repeat
                return content[:end] + after


@dataclass
class Outcome:
    """What became of a chunk of examples.

    Attributes:
        examples: Number of examples.
        sentences: Number of those that were refused in a sentence.
        faults: What came out of the others that were not read as they should be, with the example.
        peak_mib: Largest memory that an example took, above what the process had before.
        slowest: Seconds of the slowest.
    """

    examples: int = 0
    sentences: int = 0
    faults: list[str] = field(default_factory=list)
    peak_mib: float = 0.0
    slowest: float = 0.0


def fuzz(stage: Stage, kind: str, number: int) -> dict[str, Any]:
    """Read a chunk of examples of a kind in a process of its own, whose address space is limited."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        if not (child := os.fork()):
            code = 1
            try:
                size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (size + 4 * (MOST_MIB << 20),) * 2)
                report.write_text(json.dumps(asdict(_chunk(stage, kind, number, Path(scratch)))))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        if status:
            return {"kind": kind, "ok": False, "examples": 0, "faults": [f"the process ended with {status}"]}
        outcome = json.loads(report.read_text())
    ok = not outcome["faults"] and outcome["peak_mib"] <= MOST_MIB and outcome["slowest"] < LONGEST
    return {"kind": kind, **outcome, "ok": ok}


def _chunk(stage: Stage, kind: str, number: int, scratch: Path) -> Outcome:
    outcome = Outcome()
    gc.freeze()  # what is there already is not looked at before each example
    strategy, read = {"image": (images(), read_image), "recipe": (recipes(stage), read_as_recipe)}.get(
        kind, (adapters(stage), read_adapter)
    )

    @seed(number)
    @settings(
        max_examples=CHUNK,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def one(example: Any) -> None:
        if outcome.examples == CHUNK:  # hypothesis may ask for a few more
            return
        outcome.examples += 1
        memory, start = PeakMemory(torch.device("cpu")), time.perf_counter()
        try:
            if problem := read(stage, example, scratch):
                outcome.faults.append(f"{problem}: {str(example)[:500]}")
        except RLRRError:
            outcome.sentences += 1
        except Exception:
            outcome.faults.append(f"{traceback.format_exc()}\n{str(example)[:500]}")
        outcome.slowest = max(outcome.slowest, time.perf_counter() - start)
        outcome.peak_mib = max(outcome.peak_mib, memory.above_start())

    one()
    return outcome


# Image files


def images() -> st.SearchStrategy[bytes]:
    """Files of all formats that Pillow writes, then changed; and bytes that begin as such a file."""
    pictures = _pictures()
    changed = st.builds(_edited, st.sampled_from(pictures), st.lists(edits(), max_size=4))
    mere = st.builds(lambda start, rest: start[:16] + rest, st.sampled_from(pictures), st.binary(max_size=300))
    return st.one_of(changed, changed.map(_with_checksums), mere)


def read_image(stage: Stage, example: bytes, scratch: Path) -> str:
    """Decode an image from a file, as the data of a run, and from bytes."""
    path = scratch / "image.png"
    path.write_bytes(example)
    try:
        image = decode(path)
    finally:
        path.unlink()
    return "" if image.mode == "RGB" and min(image.size) > 0 else f"decoded as {image.mode} {image.size}"


@cache
def _pictures() -> list[bytes]:
    """One small picture for each format and mode that Pillow writes."""
    Image.init()
    pixels = np.random.default_rng(0).integers(0, 256, (23, 17, 4), dtype=np.uint8)
    colour = Image.fromarray(pixels)
    made = [colour.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F")]
    made.append(Image.fromarray(pixels[..., 0].astype(np.uint16) * 250))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    files = []
    for name in sorted(Image.SAVE):
        for image in made:
            with io.BytesIO() as file:
                try:
                    image.save(file, name, **({"exif": exif} if name in ("JPEG", "PNG", "WEBP", "TIFF") else {}))
                except Exception:  # the format has no such mode, or asks for more than an image
                    continue
                files.append(file.getvalue())
    return files


def edits() -> st.SearchStrategy[Edit]:
    """Changes of bytes, with anything or with the edges of whole numbers as what is written."""
    whole = st.builds(
        lambda number, size, order: (number % 256**size).to_bytes(size, order),
        st.sampled_from(EDGES),
        st.sampled_from([1, 2, 4]),
        st.sampled_from(["big", "little"]),
    )
    kinds = st.sampled_from(["cut", "flip", "put", "insert", "delete", "repeat"])
    return st.builds(
        Edit, kinds, st.floats(0, 1, exclude_max=True), st.one_of(st.binary(min_size=1, max_size=40), whole)
    )


def _edited(content: bytes, changes: list[Edit]) -> bytes:
    for change in changes:
        content = change(content)
    return content


def _with_checksums(content: bytes) -> bytes:
    """Mend the checksums of a PNG, without which Pillow reads no further."""
    start, position = b"\x89PNG\r\n\x1a\n", 8
    if not content.startswith(start):
        return content
    parts = [start]
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunk = content[position + 4 : position + 8 + length]
        if position + 12 + length > len(content):
            break
        parts += [content[position : position + 4], chunk, zlib.crc32(chunk).to_bytes(4, "big")]
        position += 12 + length
    return b"".join([*parts, content[position:]])


# Recipes


def recipes(stage: Stage) -> st.SearchStrategy[bytes]:
    """Files of YAML: options with values of all kinds, packaged recipes changed, and text that is hard to read."""
    names = [option.name for option in fields(Recipe)]
    scalar = st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.integers(0, 10), st.floats(), st.floats(0, 1)),
        *(st.text(max_size=30), st.dates(), st.binary(max_size=8), st.sampled_from(_WORDS)),
    )
    value = st.recursive(
        scalar,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
        max_leaves=6,
    )
    written = st.dictionaries(st.one_of(st.sampled_from(names), st.text(max_size=12)), value, max_size=6).map(_as_yaml)
    hints = get_type_hints(Recipe)
    right = st.fixed_dictionaries(
        {"data": st.just(str(stage.root / "images")), "model": st.just(str(stage.root / "backbone"))},
        optional={name: _right(name, hint) for name, hint in hints.items() if name not in _TEXTS},
    )
    odd = st.dictionaries(st.sampled_from(names), value, max_size=1)
    mostly_right = st.builds(lambda options, others: _as_yaml(options | others), right, odd)
    changed = st.builds(_edited, st.sampled_from(_recipe_texts()), st.lists(edits(), min_size=1, max_size=3))
    hard = st.sampled_from(_HARD).map(str.encode)
    harder = st.builds(_edited, hard, st.lists(edits(), max_size=1))
    return st.one_of(written, mostly_right, right.map(_as_yaml), changed, harder)


def _right(name: str, hint: Any) -> st.SearchStrategy[Any]:
    """Values that an option may have, if it goes together with the others."""
    kinds = members(hint)
    if get_origin(kinds[0]) is Literal:
        return st.sampled_from(get_args(kinds[0]))
    if name == "settings":
        return st.sampled_from([{}, {"rank": 2}, {"r": 4}, {"parts": ["attn"]}, {"layers_to_transform": [0]}, {"x": 1}])
    if name == "method":
        return st.sampled_from(list(METHODS))
    simple = {bool: st.booleans(), int: st.integers(1, 64), float: st.floats(0.001, 0.9)}
    return simple.get(kinds[0], st.just([0.5, 1.0]))


def read_as_recipe(stage: Stage, example: bytes, scratch: Path) -> str:
    """Read a recipe, check its settings, find its data, and write it as a run does: it has to come back as it was."""
    path = scratch / "given.yaml"
    path.write_bytes(example)
    recipe = read_recipe(path)
    digest = recipe.digest()
    write_recipe(recipe, scratch)
    same = read_recipe(scratch / RECIPE).digest() == digest
    if not same:
        return "it comes back as another recipe"
    method_config(recipe.method, recipe.settings)
    if recipe.data and not recipe.data.startswith("hub:"):
        load_data(recipe.data, val_fraction=recipe.val_fraction, seed=recipe.seed)
    if not timm.is_model(recipe.model):  # those that timm has are large
        load_backbone(recipe.model, num_classes=2, image_size=recipe.image_size, weights=recipe.weights)
    return ""


_TEXTS = ("data", "model", "weights", "objective")  # options that are text, or depend on the method
_WORDS = ["rlrr", "lora", "full", "~nobody/x", "sample:", "sample:mnist", "hub:", "a" * 5000, "\0", "../..", "1e5"]
_WORDS += ["vit_small_focus", "paper", "best", "-1", ".nan", "0x10", "null", "true", "{", "[", "é", "\ud83d\ude00"]
_HARD = [
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\ndata: *c\n",
    "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9) if i else 'x'}]\n" for i in range(9))
    + "settings: {r: *l8}\n",
    "settings: &s {rank: *s}\n",
    "[" * 5000,
    "{a: " * 3000,
    "- " * 5000,
    "data: !!python/object/apply:os.system ['true']\n",
    "data: 2001-02-30\n",
    "epochs: !!int abc\n",
    "epochs: " + "9" * 5000 + "\n",
    "epochs: 0x" + "f" * 5000 + "\n",
    "learning_rate: !!float x\n",
    "data: !!binary '%%%'\n",
    "settings: !!set {rank}\n",
    "settings: {? [a, b] : 1}\n",
    "? {a: b}\n: 1\n",
    "epochs: 1\nepochs: 2\n",
    "<<: {epochs: 1}\n<<: [{seed: 1}]\n",
    "data: x\t\n\tepochs: 1\n",
    "%YAML 9.9\n---\ndata: x\n",
    "data: x\n---\ndata: y\n",
    "\ufeffdata: x\n",
    "data: 'x\n",
    "null\n",
    "",
]


@cache
def _recipe_texts() -> list[bytes]:
    names = random.Random(0).sample(packaged_recipes(), 6)
    return [_as_yaml(load_recipe(name).to_dict()) for name in names]


def _as_yaml(options: dict[Any, Any]) -> bytes:
    return yaml.safe_dump(options, allow_unicode=True).encode("utf-8", "surrogatepass")


# Adapter folders


@dataclass(frozen=True)
class Change:
    """A change of one file of an adapter's folder: of its bytes, or of a value in its JSON.

    Attributes:
        file: Name of the file.
        edits: Changes of its bytes, if it is not changed as JSON.
        path: Draws of the entries that lead to a value in the JSON.
        value: The value that takes its place; `ABSENT` for none.
        sealed: Whether the record's own checksum is made anew, as no fault does, so that loading gets further.
    """

    file: str
    edits: list[Edit]
    path: list[float]
    value: Any
    sealed: bool


ABSENT = "(absent)"


def adapters(stage: Stage) -> st.SearchStrategy[Change]:
    """Changes of the folder of the stage's run."""
    json_value = st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.just(ABSENT)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=2)),
        max_leaves=4,
    )
    names = st.sampled_from(["adapter_model.safetensors", "adapter_config.json", "rlrr.json", "rlrr.json"])
    return st.builds(
        Change,
        names,
        st.one_of(st.just([]), st.lists(edits(), max_size=3)),
        st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=4),
        json_value,
        st.booleans(),
    )


def read_adapter(stage: Stage, example: Change, scratch: Path) -> str:
    """Load a changed adapter: refused, or, unless the checksum was made anew, with the very logits it had."""
    folder, expected = scratch / "run", _logits(stage)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(stage.root / "run", folder, ignore=shutil.ignore_patterns("tensorboard", "evaluation"))
    path = folder / example.file
    if example.edits or path.suffix != ".json":
        path.write_bytes(_edited(path.read_bytes(), example.edits))
    else:
        content = _replaced(json.loads(path.read_text()), example.path, example.value)
        path.write_text(json.dumps(content))
    if example.sealed:
        _seal(folder)
    with torch.inference_mode():
        logits = load(folder).model(_pixels())
    return "" if example.sealed or torch.equal(logits, expected) else "it loads, with other logits"


def _seal(folder: Path) -> None:
    """Write the checksums anew, so that they fit a changed folder."""
    path = folder / "rlrr.json"
    try:
        content = json.loads(path.read_text())
        content.pop(SEAL, None)
        content["tensors_sha256"] = file_checksum(folder / "adapter_model.safetensors")
        content["files_sha256"] = {"adapter_config.json": file_checksum(folder / "adapter_config.json")}
    except (AttributeError, TypeError, ValueError):  # it is no JSON any more, or no object
        return
    write_sealed(path, content)


def _replaced(content: Any, path: list[float], value: Any) -> Any:
    """Replace the value to which draws lead, each the choice of an entry; `ABSENT` deletes it."""
    if not path or not isinstance(content, (dict, list)) or not content:
        return None if value == ABSENT else value
    keys = list(content) if isinstance(content, dict) else list(range(len(content)))
    key = keys[int(path[0] * len(keys))]
    if value == ABSENT and len(path) == 1:
        del content[key]
    else:
        content[key] = _replaced(content[key], path[1:], value)
    return content


@cache
def _pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@cache
def _logits(stage: Stage) -> torch.Tensor:
    with torch.inference_mode():
        return load(stage.root / "run").model(_pixels())
