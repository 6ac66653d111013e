from __future__ import annotations

import pytest

from rlrr.data import load_data
from rlrr.data.load import data_source
from rlrr.errors import RLRRError


def test_the_lists_in_a_folder_tell_how_it_is_read(make_vtab, make_fgvc, images, tmp_path):
    make_vtab(tmp_path, "kitti")
    make_fgvc(tmp_path, "dogs")
    assert "train800.txt" in load_data(tmp_path / "kitti").split_origin
    assert "train.json" in load_data(tmp_path / "Stanford-dogs").split_origin
    assert "folder val/" in load_data(images).split_origin


@pytest.mark.parametrize("left", ["train800.txt", "val200.txt", "train800val200.txt"])
def test_one_list_is_enough_to_be_told_what_is_missing(make_vtab, tmp_path, left):
    folder = make_vtab(tmp_path, "kitti") / "kitti"
    for file in folder.glob("*.txt"):
        if file.name != left:
            file.unlink()
    with pytest.raises(RLRRError, match=r"\.txt is missing"):
        load_data(folder)


def test_a_folder_of_tasks_is_refused_with_the_names_to_choose_from(make_vtab, make_fgvc, tmp_path):
    root = make_vtab(tmp_path / "vtab-1k", "cifar", "kitti", "svhn", "eurosat")
    with pytest.raises(RLRRError) as error:
        load_data(root)
    assert str(error.value) == (
        f"{root} holds tasks of VTAB-1k (cifar, eurosat, kitti and 1 more): name one, as {root}/cifar."
    )
    root = make_fgvc(tmp_path / "fgvc", "dogs", "cars", trainval=True)
    with pytest.raises(RLRRError, match=r"holds tasks of FGVC \(Stanford-cars, Stanford-dogs\): name one"):
        load_data(root)


def test_a_class_may_have_the_name_of_a_task(make_images, tmp_path):
    make_images(tmp_path, 2, classes=("cifar", "dogs"))
    assert load_data(tmp_path).classes == ("cifar", "dogs")


def test_a_list_that_has_nothing_to_do_with_it_changes_nothing(make_images, tmp_path):
    make_images(tmp_path, 2)
    (tmp_path / "test.txt").write_text("a b\n")
    (tmp_path / "train.json").write_text("{}")
    assert len(load_data(tmp_path).classes) == 3


def test_a_task_is_the_same_data_however_its_folder_is_written(make_vtab, tmp_path, monkeypatch):
    folder = make_vtab(tmp_path, "kitti") / "kitti"
    monkeypatch.chdir(folder)
    assert data_source(".") == data_source(folder)
    assert load_data(".").name == "kitti"
