"""The benchmark of loading: every way gives all images of an epoch once, and every case comes into the table."""

import json

import pytest
import torch

from rlrr.data import PreparedImages, prepare_split
from rlrr.data.cache import cache_path
from rlrr.data.pipeline import preparation

pytestmark = pytest.mark.slow

CONFIG = {"input_size": (3, 32, 32), "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
NORMALIZATION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


@pytest.fixture
def loading(script, monkeypatch, tmp_path):
    monkeypatch.setenv("RLRR_CACHE", str(tmp_path))
    monkeypatch.setenv("RLRR_CACHE_GIB", "1")
    return script("loading")


def test_every_way_gives_each_image_once(loading, tmp_path):
    split, prepare = loading.write_jpegs(tmp_path, 5), preparation(CONFIG | NORMALIZATION)
    prepare_split(split, prepare)
    path = cache_path(split, prepare.description)
    expected = torch.stack([PreparedImages(split, prepare, **NORMALIZATION)[i]["pixel_values"] for i in range(5)])
    for way in loading.WAYS:
        images = PreparedImages(split, prepare, cache=loading.cached(way, path, (5, 3, 32, 32)), **NORMALIZATION)
        assert (images.pixels.cache is None) == (way == "decoded each time")
        for how in ("floats", "bytes") + ("bytes, one index",) * (images.pixels.cache is not None):
            found = torch.cat(list(loading.batches(images, how, 0, 2, "cpu")))
            order = [(image - expected).flatten(1).abs().sum(1).argmin().item() for image in found]
            assert sorted(order) == list(range(5))
            assert torch.equal(found, expected[order])


def test_all_cases_come_into_the_table(loading, tmp_path, capsys):
    loading.main(
        count=3, model="vit_tiny_patch16_224", batch_size=2, workers=1, repeats=1, device="cpu", output=tmp_path
    )
    results = json.loads((tmp_path / "loading.json").read_text())
    assert results["preparing_seconds"].keys() == {"decoded into memory", "decoded and written", "found"}
    assert len(results["loaded_per_second"]) == 4 * len(loading.WAYS) + 2
    table = capsys.readouterr().out
    assert table.strip() in (tmp_path / "loading.md").read_text()
    assert table.count("\n| mapped ") == 5
