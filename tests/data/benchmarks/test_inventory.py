from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rlrr.data.benchmarks.fgvc import SETS
from rlrr.data.benchmarks.inventory import take_inventory
from rlrr.data.benchmarks.vtab import TASKS
from rlrr.errors import RLRRError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole_kitti(make_vtab, tmp_path_factory) -> Path:
    """With as many images as the original. Read only."""
    return make_vtab(tmp_path_factory.mktemp("whole"), "kitti", train=800, val=200, test=711) / "kitti"


@pytest.fixture
def kitti(make_vtab, tmp_path) -> Path:
    return make_vtab(tmp_path, "kitti", test=8) / "kitti"


@pytest.fixture
def dogs(make_fgvc, tmp_path) -> Path:
    return make_fgvc(tmp_path, "dogs") / "Stanford-dogs"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def faults(folder: Path) -> list[tuple[str, str]]:
    """All but the counts, which are small here by design."""
    (task,) = take_inventory(folder).tasks
    return [tuple(fault) for fault in (*task.problems, *task.notes) if fault.kind != "count"]


def test_a_whole_task_is_clean(whole_kitti):
    found = take_inventory(whole_kitti)
    assert found.clean
    assert (found.benchmark, found.missing) == ("vtab1k", ())
    (task,) = found.tasks
    assert task.faults == ()
    assert task.images == {"train": (800, 800), "val": (200, 200), "test": (711, 711), "trainval": (1000, 1000)}
    assert task.classes == (4, 4)


def test_all_tasks_are_found_in_the_order_of_the_papers_and_lack_nothing_but_images(make_vtab, make_fgvc, tmp_path):
    found = take_inventory(make_vtab(tmp_path / "v"))
    assert [task.name for task in found.tasks] == list(TASKS)
    assert found.missing == ()
    assert {fault.kind for task in found.tasks for fault in task.faults} == {"count"}
    found = take_inventory(make_fgvc(tmp_path / "f"))
    assert [task.name for task in found.tasks] == [one.folders[0] for one in SETS.values()]
    assert {fault.kind for task in found.tasks for fault in task.faults} == {"count"}


def test_missing_tasks_are_named(make_vtab, make_fgvc, tmp_path):
    found = take_inventory(make_vtab(tmp_path / "v", "svhn", "cifar"))
    assert [task.name for task in found.tasks] == ["cifar", "svhn"]
    assert found.missing == tuple(name for name in TASKS if name not in ("cifar", "svhn"))
    assert not found.clean
    assert take_inventory(make_fgvc(tmp_path / "f", "cub")).missing == ("nabirds", "flowers", "dogs", "cars")


def test_a_task_without_any_list_is_one_whose_lists_are_missing(kitti):
    (kitti.parent / "svhn" / "images").mkdir(parents=True)
    _, svhn = sorted(take_inventory(kitti.parent).tasks, key=lambda task: task.name)
    assert [fault.kind for fault in svhn.faults] == ["missing list"] * 4


def test_counts_are_compared_with_the_original(kitti):
    (task,) = take_inventory(kitti).tasks
    assert [fault.message for fault in task.problems] == [
        "train800.txt lists 4 images, the original 800",
        "val200.txt lists 2 images, the original 200",
        "test.txt lists 8 images, the original 711",
        "train800val200.txt lists 6 images, the original 1000",
    ]


@pytest.mark.parametrize("name", ["train800.txt", "val200.txt", "test.txt", "train800val200.txt"])
def test_missing_lists_are_named(kitti, name):
    (kitti / name).unlink()
    assert [(kind, message.split(":")[0]) for kind, message in faults(kitti) if kind != "unlisted"] == [
        ("missing list", f"{name} is missing")
    ]


def test_all_bad_labels_are_named(kitti):
    edit(kitti / "test.txt", "000004.jpg 0", "000004.jpg 9")
    edit(kitti / "test.txt", "000006.jpg 2", "000006.jpg x")
    found = dict(faults(kitti))
    assert found["label"] == "test.txt, line 5: label 9 is out of range: kitti has 4 classes, 0 to 3"
    assert found["bad line"] == "test.txt, line 7: the label must be a whole number below a million, not 'x'"
    assert found["unlisted"] == "images/test holds 1 image that no list has, as 000006.jpg"
    assert len(found) == 3


def test_absent_classes_are_named(kitti):
    for name in ("train800", "train800val200", "test", "test"):
        edit(kitti / f"{name}.txt", " 3\n", " 2\n")
    ((kind, message),) = faults(kitti)
    assert kind == "classes"
    assert "hold 3 classes, without 3 (no vehicle), and kitti has 4" in message


def test_all_missing_files_are_named(kitti):
    for i in (3, 5):
        (kitti / f"images/test/00000{i}.jpg").unlink()
    assert faults(kitti) == [
        ("missing file", "test.txt, line 4: there is no file images/test/000003.jpg"),
        ("missing file", "test.txt, line 6: there is no file images/test/000005.jpg"),
    ]


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty file"), (b"<html>404</html>", "not an image"), (None, "truncated")]
)
def test_corrupt_images_are_named_with_the_reason(kitti, content, reason):
    file = kitti / "images/test/000003.jpg"
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    assert faults(kitti) == [("corrupt", f"test.txt, line 4: images/test/000003.jpg: {reason}")]


def test_corrupt_images_are_not_duplicates_of_each_other(kitti):
    for i in (3, 5):
        (kitti / f"images/test/00000{i}.jpg").write_bytes(b"")
    assert [kind for kind, _ in faults(kitti)] == ["corrupt", "corrupt"]


def test_images_that_no_list_has_are_counted_and_no_problem(whole_kitti, tmp_path):
    folder = Path(shutil.copytree(whole_kitti, tmp_path / "kitti"))
    for name in ("a.jpg", "b.PNG", "notes.txt"):
        (folder / "images/test" / name).write_bytes(b"x")
    assert take_inventory(folder).clean
    assert faults(folder) == [("unlisted", "images/test holds 2 images that no list has, as a.jpg")]


def test_the_same_image_in_train_and_test_is_a_note(whole_kitti, tmp_path):
    folder = Path(shutil.copytree(whole_kitti, tmp_path / "kitti"))
    shutil.copy(folder / "images/train800/000001.jpg", folder / "images/test/000002.jpg")
    assert take_inventory(folder).clean
    assert faults(folder) == [
        (
            "duplicate",
            "test.txt, line 3: images/test/000002.jpg is the same image as images/train800/000001.jpg "
            "(train800.txt, line 2)",
        )
    ]


def test_the_same_image_twice_in_a_list_is_a_note(kitti):
    shutil.copy(kitti / "images/test/000001.jpg", kitti / "images/test/000002.jpg")
    ((kind, message),) = faults(kitti)
    assert kind == "duplicate"
    assert message.startswith("test.txt, line 3: images/test/000002.jpg is the same image as images/test/000001.jpg")


def test_the_same_path_twice_is_a_problem(kitti):
    edit(kitti / "test.txt", "test/000002", "test/000001")
    edit(kitti / "test.txt", "test/000004", "train800/000000")
    assert [fault for fault in faults(kitti) if fault[0] != "unlisted"] == [
        (
            "shared",
            "test.txt, line 5: images/train800/000000.jpg is listed in train800.txt, line 1 too: "
            "it may be in one split only",
        ),
        ("repeated", "test.txt, line 3: images/test/000001.jpg is listed in test.txt, line 2 already"),
    ]


def test_train_and_val_together_may_be_copies_or_the_same_files(kitti):
    assert faults(kitti) == []
    both = (kitti / "train800.txt").read_text() + (kitti / "val200.txt").read_text()
    (kitti / "train800val200.txt").write_text(both)
    assert faults(kitti) == []


@pytest.mark.parametrize("how", ["label", "image"])
def test_train_and_val_together_must_be_that(kitti, how):
    if how == "label":
        edit(kitti / "train800val200.txt", "000001.jpg 1", "000001.jpg 2")
    else:
        shutil.copy(kitti / "images/test/000000.jpg", kitti / "images/train800val200/000001.jpg")
    assert faults(kitti) == [
        (
            "union",
            "train800val200.txt is not train800.txt and val200.txt together: 1 of its images, with their labels, "
            "are in neither, and 1 of theirs are not in it",
        )
    ]


def test_a_set_of_fgvc_is_checked_in_the_same_way(dogs):
    (dogs / "Images/n00000003-Dog-3/test3.jpg").write_bytes(b"")
    (dogs / "Images/n00000004-Dog-4/test4.jpg").unlink()
    lists = [json.loads((dogs / f"{key}.json").read_text()) for key in ("train", "val")]
    both = {**lists[0], **lists[1]}
    both.popitem()
    (dogs / "trainval.json").write_text(json.dumps(both))
    assert [kind for kind, _ in faults(dogs)] == ["missing file", "corrupt", "union"]
    assert take_inventory(dogs).tasks[0].images["test"] == (120, 8580)


def test_a_key_that_is_twice_in_json_is_told(dogs):
    content = (dogs / "val.json").read_text()
    (dogs / "val.json").write_text(content[:-1] + ", " + content[1:])
    assert [kind for kind, _ in faults(dogs)] == ["repeated"] * 2


def test_json_without_the_two_lists_is_checked_by_the_list_of_both(make_fgvc, tmp_path):
    folder = make_fgvc(tmp_path, "cars", trainval=True) / "Stanford-cars"
    assert faults(folder) == []
    assert take_inventory(folder).tasks[0].images == {"trainval": (6, 8144), "test": (196, 8041)}


def test_a_folder_of_both_needs_a_word(kitti, dogs):
    with pytest.raises(RLRRError, match="both VTAB-1k and FGVC: choose with") as error:
        take_inventory(kitti.parent)
    assert isinstance(error.value, UsageError)
    assert [task.name for task in take_inventory(kitti.parent, "fgvc").tasks] == [dogs.name]
    assert [task.name for task in take_inventory(kitti.parent, "vtab1k").tasks] == [kitti.name]


def test_flowers_of_vtab_are_not_those_of_fgvc(make_vtab, make_fgvc, tmp_path):
    make_vtab(tmp_path, "oxford_flowers102")
    make_fgvc(tmp_path, "dogs")
    found = take_inventory(tmp_path, "fgvc")
    assert [task.name for task in found.tasks] == ["Stanford-dogs"]
    assert "flowers" in found.missing


@pytest.mark.parametrize("benchmark", [None, "vtab1k"])
def test_a_folder_without_tasks_is_refused(images, benchmark):
    with pytest.raises(RLRRError, match="holds no task of VTAB-1k"):
        take_inventory(images, benchmark)
    with pytest.raises(RLRRError, match=r"Cannot list .*gone \(No such file or directory\)"):
        take_inventory(images / "gone", benchmark)
