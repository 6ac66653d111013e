"""What many tests need: a tiny backbone in a folder, and small folders of images that can be told apart."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from rlrr.interop.timm_folder import write_timm_folder

CLASSES = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Tests of tiny models are faster on one thread, and equal to the bit whatever the machine."""
    torch.set_num_threads(1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


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
    from rlrr.training.recipe import Recipe
    from rlrr.training.run import train

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "finished run"
    train(Recipe(data=str(images), model=tiny_backbone, epochs=4, batch_size=8, precision="fp32"), folder)
    return folder
