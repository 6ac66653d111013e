"""What many tests need: a tiny backbone in a folder, and small folders of images that can be told apart."""

import gc
import json
import os
from pathlib import Path

# Before torch is imported: each worker, and each process that a test starts, has one thread, which never spins.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from rlrr.interop.timm_folder import write_timm_folder

CLASSES = ("red", "green", "blue")


def pytest_collection_finish():
    """A collection of garbage, of which each training makes some, passes over what the imports have made."""
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Tests of tiny models are faster on one thread, and equal to the bit whatever the machine."""
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory):
    """Decoded images are kept here, and not in the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLRR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory) -> str:
    """A ViT of two blocks on 32 pixels, with random weights, as a local timm folder."""
    folder = tmp_path_factory.mktemp("backbone") / "tiny"
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **sizes)
    config = timm.data.resolve_model_data_config(model, {"img_size": 32})
    write_timm_folder(model, folder, ["a", "b"], config)
    return str(folder)


def write_images(folder: Path, per_class: int, seed: int = 0, classes=CLASSES) -> None:
    """Noise with one bright channel for each class."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.integers(0, 120, (40, 36, 3), dtype=np.uint8)
            pixels[..., label % 3] += 100
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of images with train (24), val (9) and test (9)."""
    folder = tmp_path_factory.mktemp("images")
    for seed, (split, per_class) in enumerate((("train", 8), ("val", 3), ("test", 3))):
        write_images(folder / split, per_class, seed)
    return folder


@pytest.fixture(scope="session")
def flat_images(tmp_path_factory) -> Path:
    """A folder of class folders without splits, 30 images."""
    folder = tmp_path_factory.mktemp("flat images")
    write_images(folder, 10, seed=7)
    return folder


@pytest.fixture(scope="session")
def make_images():
    """`write_images`, for tests that need a folder of their own."""
    return write_images


@pytest.fixture(scope="session")
def finished_run(tiny_backbone, images, tmp_path_factory) -> Path:
    """A run of RLRR on `images` that tells the three classes apart. Read only."""
    from rlrr.recipes.recipe import Recipe
    from rlrr.training.run import train

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "finished run"
    train(Recipe(data=str(images), model=tiny_backbone, epochs=4, batch_size=8, precision="fp32"), folder)
    return folder


@pytest.fixture
def without_pictures(monkeypatch) -> None:
    """Let `rlrr.analyze` draw none, which takes seconds."""
    monkeypatch.setattr("rlrr.spectral.analyze.write_page", lambda *args, **options: None)


def write_jpeg(file: Path, label: int, generator: np.random.Generator) -> None:
    """Noise of 24 pixels, with one bright channel by label."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = generator.integers(0, 120, (24, 24, 3), dtype=np.uint8)
    pixels[..., label % 3] += 100
    Image.fromarray(pixels).save(file, quality=75)


def write_vtab(root: Path, *names: str, train: int = 4, val: int = 2, test: int | None = None) -> Path:
    """Tasks of VTAB-1k (by default all 19) with few images; every class is in the test list, if that is not cut."""
    from rlrr.data.benchmarks.vtab import TASKS

    for seed, name in enumerate(names or TASKS):
        classes, generator = TASKS[name].classes, np.random.default_rng(seed)
        lines: dict[str, list[str]] = {}
        for key, count in (("train800", train), ("val200", val), ("test", classes if test is None else test)):
            lines[key] = [f"images/{key}/{i:06}.jpg {i % classes}\n" for i in range(count)]
            for line in lines[key]:
                path, label = line.split()
                write_jpeg(root / name / path, int(label), generator)
        lines["train800val200"] = []  # copies, as in the copies that people have
        (root / name / "images" / "train800val200").mkdir()
        for i, line in enumerate(lines["train800"] + lines["val200"]):
            path, label = line.split()
            copy = f"images/train800val200/{i:06}.jpg"
            (root / name / copy).write_bytes((root / name / path).read_bytes())
            lines["train800val200"].append(f"{copy} {label}\n")
        for key, content in lines.items():
            (root / name / f"{key}.txt").write_text("".join(content))
    return root


def write_fgvc(root: Path, *names: str, train: int = 4, val: int = 2, trainval: bool = False) -> Path:
    """Sets of FGVC (by default all 5) with few images, in their own layouts; every class is in the test list.

    Args:
        names: keys of `SETS`.
        trainval: write trainval.json in place of train.json and val.json.
    """
    from rlrr.data.benchmarks.fgvc import SETS

    layouts = {  # folder of the images, path and class id for a label, a split and a number
        "cub": ("images", lambda c, s, i: (f"{c + 1:03}.Bird_{c + 1}/{s}_{i}.jpg", f"{c + 1:03}")),
        "nabirds": ("images", lambda c, s, i: (f"{2 * c + 1:04}/{s}{i}.jpg", 2 * c + 1)),
        "flowers": (".", lambda c, s, i: (f"jpg/image_{s}{i:05}.jpg", c + 1)),
        "dogs": ("Images", lambda c, s, i: (f"n{c:08}-Dog-{c}/{s}{i}.jpg", c)),
        "cars": (".", lambda c, s, i: (f"cars_{'test' if s == 'test' else 'train'}/{s}{i:05}.jpg", c + 1)),
    }
    for seed, name in enumerate(names or SETS):
        (images, entry), one = layouts[name], SETS[name]
        folder, generator = root / one.folders[0], np.random.default_rng(seed)
        lists: dict[str, dict[str, int | str]] = {}
        for split, count in (("train", train), ("val", val), ("test", one.classes)):
            lists[split] = dict(entry(i % one.classes, split, i) for i in range(count))
            for i, path in enumerate(lists[split]):
                write_jpeg(folder / images / path, i % one.classes, generator)
        if trainval:
            lists["trainval"] = lists.pop("train") | lists.pop("val")
        for split, content in lists.items():
            (folder / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def make_vtab():
    """`write_vtab`."""
    return write_vtab


@pytest.fixture(scope="session")
def make_fgvc():
    """`write_fgvc`."""
    return write_fgvc


@pytest.fixture(scope="session")
def official_backbones(tmp_path_factory) -> dict[str, str]:
    """The small ViT and Swin of tests/golden before training, as local timm folders."""
    from safetensors import safe_open

    from rlrr.interop.paper_names import from_official

    timm_names = {"vit": "vit_tiny_patch16_224", "swin": "swin_tiny_patch4_window7_224"}
    own = {"vit": ("hidden_size", "num_layers", "mlp_dim"), "swin": ("embed_dim", "depths", "window_size")}
    folders = {}
    for kind, name in timm_names.items():
        with safe_open(Path(__file__).parent / "golden" / f"official_{kind}.safetensors", "pt") as file:
            sizes = {key: json.loads(value) for key, value in file.metadata().items()}
            base = {key[5:]: file.get_tensor(key) for key in file.keys() if key.startswith("base.")}  # noqa: SIM118
        arguments = {key: sizes[key] for key in ("img_size", "patch_size", "num_heads", *own[kind])}
        if kind == "vit":
            width, depth, hidden = (arguments.pop(key) for key in own["vit"])
            arguments |= {"embed_dim": width, "depth": depth, "mlp_ratio": hidden / width}
        model = timm.create_model(name, num_classes=sizes["num_classes"], **arguments)
        assert not model.load_state_dict(from_official(base)[0], strict=False).unexpected_keys
        folder = tmp_path_factory.mktemp("official") / kind
        config = timm.data.resolve_model_data_config(model, {"img_size": sizes["img_size"]})
        write_timm_folder(model, folder, [str(i) for i in range(sizes["num_classes"])], config)
        folders[kind] = str(folder)
    return folders


@pytest.fixture(scope="session")
def make_adapter(tiny_backbone):
    """Write a run as if trained: all that is trained is random, so that each tensor has its part in the logits."""
    from peft import get_peft_model

    from rlrr.adapters.folder import save_adapter
    from rlrr.adapters.record import Record
    from rlrr.backbones import load_backbone
    from rlrr.methods.apply import apply_method
    from rlrr.tuners import RLRRConfig

    def make(
        folder: Path,
        *,
        backbone=tiny_backbone,
        method="rlrr",
        seed=0,
        classes=CLASSES,
        size=None,
        config=None,  # of a tuner of PEFT that has no row in our table
        **settings,
    ):
        found = load_backbone(backbone, num_classes=len(classes), image_size=size)
        ours = method == "rlrr"
        if config or ours:
            model = get_peft_model(found.model, config or RLRRConfig(**settings))
        else:
            model = apply_method(found.model, method)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        described = {key: getattr(found, key) for key in ("name", "architecture", "tag", "image_size", "fingerprint")}
        described["weights"] = None
        data = {"source": None, "splits": "none", "skipped": []}
        save_adapter(folder, model, Record(method, described, list(classes), found.data_config, {}, data))
        return folder

    return make
