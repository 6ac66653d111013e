"""A ViT of the golden one's sizes, and a Hub and a server that are out of reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "mlp_ratio": 2}


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A timm folder without weights: by default the golden ViT's sizes."""

    def make(
        name: str = "tiny", architecture: str = "vit_tiny_patch16_224", classifier: str = "head", **changes
    ) -> Path:
        (tmp_path / name).mkdir()
        sizes = {**TINY, **changes} if architecture.startswith("vit") else changes
        config = {
            "architecture": architecture,
            "num_classes": 5,
            "model_args": sizes,
            "pretrained_cfg": {
                "input_size": [3, 32, 32],
                "fixed_input_size": "img_size" in sizes,
                "classifier": classifier,
            },
        }
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        return tmp_path / name

    return make


@pytest.fixture
def tiny(make_folder: Callable[..., Path]) -> Path:
    return make_folder()


@pytest.fixture
def tiny_model() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **TINY).eval()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither network nor anything in a cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
