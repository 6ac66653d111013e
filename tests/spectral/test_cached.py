"""Decompositions of frozen weights come from the disk the second time, and nothing that happens there stops a run."""

import pytest
import torch

from rlrr.spectral import cached
from rlrr.spectral.cached import cached_decomposition
from rlrr.spectral.decompose import decompose


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RLRR_CACHE", str(tmp_path / "cache"))
    cached._warn.cache_clear()
    return tmp_path / "cache" / "svd"


@pytest.fixture
def matrix():
    return torch.randn(20, 8, generator=torch.Generator().manual_seed(0))


def files(folder):
    return sorted(folder.iterdir()) if folder.is_dir() else []


def is_that_of(matrix, found):
    expected = decompose(matrix)
    for name in ("left", "values", "right"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wide", [False, True])
def test_the_second_time_it_comes_from_the_disk(folder, matrix, monkeypatch, wide):
    matrix = matrix.mT if wide else matrix
    is_that_of(matrix, cached_decomposition(matrix))
    with monkeypatch.context() as patch:
        patch.setattr(cached, "short_basis", None)
        found = cached_decomposition(matrix)
    is_that_of(matrix, found)
    assert [path.suffix for path in files(folder)] == [".safetensors"]


def test_another_number_or_shape_is_another_file(folder, matrix):
    other = matrix.clone()
    other[3, 4] += 1e-6
    for one in (matrix, other, matrix.view(8, 20)):
        is_that_of(one, cached_decomposition(one))
    assert len(files(folder)) == 3


@pytest.mark.parametrize("damage", [lambda content: content[:50], lambda content: b"", lambda content: b"\xff" * 99])
def test_a_damaged_file_is_made_again(folder, matrix, damage):
    cached_decomposition(matrix)
    (path,) = files(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    is_that_of(matrix, cached_decomposition(matrix))
    assert path.read_bytes() == whole


def test_nothing_is_kept_where_the_limit_is_0(folder, matrix, monkeypatch, caplog):
    monkeypatch.setenv("RLRR_CACHE_GIB", "0")
    is_that_of(matrix, cached_decomposition(matrix))
    assert not files(folder)
    assert not caplog.records


def test_a_place_that_cannot_be_written_to_costs_one_warning(folder, matrix, caplog):
    folder.parent.write_text("in the way")
    for one in (matrix, matrix.mT):
        is_that_of(one, cached_decomposition(one))
    assert len(caplog.records) == 1
    assert "cannot be cached in" in caplog.text
    assert "RLRR_CACHE names" in caplog.text


def test_without_a_home_folder_there_is_one_warning(matrix, monkeypatch, caplog):
    cached._warn.cache_clear()
    monkeypatch.delenv("RLRR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home(path):
        raise RuntimeError("there is none")

    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    is_that_of(matrix, cached_decomposition(matrix))
    assert "the home folder" in caplog.text
