from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def picture() -> Callable[..., Path]:
    """Write a small image whose pixels depend on its path."""

    def write(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.RandomState(sum(path.name.encode()) + sum(path.parent.name.encode()))
        Image.fromarray(random.randint(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
        return path

    return write


@pytest.fixture
def pictures(tmp_path: Path, picture: Callable[..., Path]) -> Callable[..., Path]:
    """Write `{"cat": 3, "train/dog": 2}`, that many images per folder, below one root."""

    def write(counts: dict[str, int]) -> Path:
        root = tmp_path / "pets"
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                picture(root / folder / f"{index}.png")
        return root

    return write
