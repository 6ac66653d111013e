from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlrr.data import decode, load_data
from rlrr.data.benchmarks.convert import Converted, convert
from rlrr.data.benchmarks.vtab import load_vtab
from rlrr.data.digest import data_digest
from rlrr.errors import RLRRError, UsageError

pytestmark = pytest.mark.slow

SIZES = {"train800": 5, "val200": 4, "test": 6}
NAMES = ("train800", "val200", "train800val200", "test")


def encoded(number: int, kind: str = "PNG") -> bytes:
    """A grey image of that number."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 251, number // 251, 0)).save(buffer, kind)
    return buffer.getvalue()


def noah(task: Path, joined: bool = True) -> Path:
    """Write a task of four classes in the usual layout; image number n of a split has the label n % 4."""
    both: list[bytes] = []
    for start, (split, size) in enumerate(SIZES.items()):
        contents = [encoded(10 * start + index, "JPEG") for index in range(size)]
        write_list(task, split, contents)
        both += contents if split != "test" else []
    if joined:
        write_list(task, "train800val200", both)
    return task


def write_list(task: Path, split: str, contents: list[bytes]) -> None:
    folder = task / "images" / split
    folder.mkdir(parents=True)
    for index, content in enumerate(contents):
        (folder / f"{index:06d}.jpg").write_bytes(content)
    lines = (f"images/{split}/{index:06d}.jpg {index % 4}\n" for index in range(len(contents)))
    (task / f"{split}.txt").write_text("".join(lines))


def labelled(task: Path, sizes: dict[str, int]) -> Path:
    """Write `task/train/img_12-label_0.png`; image number n has the label n % 4."""
    for start, (split, size) in enumerate(sizes.items()):
        (task / split).mkdir(parents=True)
        for index in range(size):
            (task / split / f"img_{index}-label_{index % 4}.png").write_bytes(encoded(1000 * start + index))
    return task


def zipped(folder: Path, archive: Path, top: str = "") -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, Path(top) / path.relative_to(folder))
    return archive


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def convert_all(*arguments: object, **options: object) -> list[Converted]:
    return list(convert(*arguments, **options))


def refused(source: object, output: Path, message: str, **options: object) -> None:
    """The source is refused, and nothing is left in or of `output`."""
    before = files(output) if output.exists() else None
    with pytest.raises(RLRRError, match=f"(?s){message}"):
        convert_all(source, output, **options)
    assert (files(output) if output.exists() else None) == before


def test_a_copy_in_the_usual_layout_stays_what_it_is(tmp_path: Path) -> None:
    source = noah(tmp_path / "source" / "deep" / "kitti")
    (done,) = convert_all(tmp_path / "source", tmp_path / "out")
    assert done == Converted("kitti", tmp_path / "out" / "kitti", {**SIZES, "train800val200": 9})
    assert files(done.folder) == files(source)
    assert os.listdir(tmp_path / "out") == ["kitti"]
    assert not any(path.stat().st_nlink > 1 for path in source.rglob("*.jpg"))  # the user's files stay the user's
    assert data_digest(load_vtab(done.folder).test) == data_digest(load_vtab(source).test)


def test_the_joined_list_is_made_of_links_if_there_is_none(tmp_path: Path) -> None:
    source = noah(tmp_path / "kitti", joined=False)
    (done,) = convert_all(source, tmp_path / "out")
    whole = files(noah(tmp_path / "whole" / "kitti"))
    assert {name: content for name, content in files(done.folder).items() if name.endswith("jpg")} == {
        name: content for name, content in whole.items() if name.endswith("jpg")
    }
    # Of the joined list, the labels go on being those of the images.
    lines = (done.folder / "train800val200.txt").read_text().splitlines()
    assert lines[4:6] == ["images/train800val200/000004.jpg 0", "images/train800val200/000005.jpg 0"]
    images = done.folder / "images"
    assert os.path.samefile(images / "train800val200/000005.jpg", images / "val200/000000.jpg")


def test_without_links_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    noah(tmp_path / "kitti", joined=False)
    (done,) = convert_all(tmp_path / "kitti", tmp_path / "out")
    assert len(files(done.folder)) == 5 + 4 + 9 + 6 + 4


@pytest.mark.parametrize("top", ["", "kitti", "vtab-1k/kitti"])
def test_a_zip_is_unpacked(tmp_path: Path, top: str) -> None:
    source = noah(tmp_path / "source")
    archive = zipped(source, tmp_path / "kitti.zip", top)
    (done,) = convert_all(archive, tmp_path / "out")
    assert files(done.folder) == files(source)
    assert files(tmp_path / "out").keys() == {f"kitti/{name}" for name in files(source)}


def test_zips_may_lie_anywhere_and_inside_one_another(tmp_path: Path) -> None:
    source = noah(tmp_path / "source")
    for task in ("kitti", "dtd"):
        zipped(source, tmp_path / "all" / "parts" / f"{task}.zip")
    zipped(source, tmp_path / "all" / "__MACOSX" / "svhn.zip")
    outer = zipped(tmp_path / "all", tmp_path / "again" / "vtab.zip")
    for place in (tmp_path / "all", outer, outer.parent):
        out = tmp_path / f"out of {place.name}"
        assert sorted(done.task for done in convert_all(place, out)) == ["dtd", "kitti"]
        assert sorted(os.listdir(out)) == ["dtd", "kitti"]


def test_one_task_of_many_can_be_chosen(tmp_path: Path) -> None:
    for task in ("kitti", "dtd"):
        noah(tmp_path / "all" / task)
    assert [done.task for done in convert_all(tmp_path / "all", tmp_path / "out", task="dtd")] == ["dtd"]
    assert os.listdir(tmp_path / "out") == ["dtd"]
    refused(tmp_path / "all", tmp_path / "out", "holds dtd, kitti, and not svhn", task="svhn")


def test_a_task_whose_name_does_not_tell_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    noah(tmp_path / "all" / "mine")
    refused(tmp_path / "all", tmp_path / "out", "holds mine, .* say with `task` which it is, of cifar, caltech101,")
    assert [done.task for done in convert_all(tmp_path / "all", tmp_path / "out", task="kitti")] == ["kitti"]
    noah(tmp_path / "all" / "VTAB_dtd")
    assert [done.task for done in convert_all(tmp_path / "all", tmp_path / "out")] == ["dtd"]
    assert "not converted, since no task of VTAB-1k is called so: mine" in caplog.text


def test_labelled_files_keep_their_bytes_and_the_order_of_their_numbers(tmp_path: Path) -> None:
    source = labelled(tmp_path / "VTAB_kitti_closest_vehicle_distance", {"train800": 12, "val200": 4, "test": 5})
    (done,) = convert_all(source, tmp_path / "out")
    assert (done.task, done.images) == ("kitti", {"train800": 12, "val200": 4, "test": 5, "train800val200": 16})
    assert (done.folder / "images/train800/000010.png").read_bytes() == encoded(10)
    assert (done.folder / "train800.txt").read_text().splitlines()[10] == "images/train800/000010.png 2"
    assert load_vtab(done.folder).val.labels == [0, 1, 2, 3]


def test_of_more_labelled_files_the_rule_takes_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labelled(tmp_path / "kitti", {"train": 803, "val": 201, "test": 711})
    (done,) = convert_all(tmp_path / "kitti", tmp_path / "out")
    assert done.images == {"train800": 800, "val200": 200, "test": 711, "train800val200": 1000}
    assert (done.folder / "images/train800/000799.png").read_bytes() == encoded(799)
    assert (done.folder / "images/train800val200/000800.png").read_bytes() == encoded(1000)
    assert "first 800 images of train" in caplog.text
    assert len(load_data(done.folder).train) == 800


def test_folders_may_be_called_by_labels(tmp_path: Path) -> None:
    for split in ("train800", "val200", "test"):
        for label in range(4):
            (tmp_path / "kitti" / split / str(label)).mkdir(parents=True)
            (tmp_path / "kitti" / split / str(label) / "x.png").write_bytes(encoded(label))
    (done,) = convert_all(tmp_path / "kitti", tmp_path / "out")
    assert (done.folder / "test.txt").read_text().splitlines()[3] == "images/test/000003.png 3"
    assert (done.folder / "images/test/000003.png").read_bytes() == encoded(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train/0001.png", "kitti/train/0001.png has no label in its name, as img_0-label_5.png has"),
        ("train/img_3-label_1.png", "kitti/train/img_3-label_3.png: another image has the same number"),
        ("train/cat/x.png", "kitti/train/cat: a folder of images must be called by its label, as .*kitti/train/5"),
        ("train/3/x.png", "kitti/train has 802 images sorted by class, so that its first 800 cannot be told"),
        ("train/img_9999-label_4.png", "kitti has test, train. VTAB-1k's splits of kitti need train, val and test"),
    ],
)
def test_labelled_files_that_do_not_tell_are_refused(tmp_path: Path, change: str, message: str) -> None:
    source = labelled(tmp_path / "kitti", {"train": 801, "test": 1})
    (source / change).parent.mkdir(exist_ok=True)
    (source / change).write_bytes(encoded(0))
    refused(source, tmp_path / "out", message)


# Data sets of the package `datasets`


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Save a data set of encoded images, whose number n has the label n % 4."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def save(folder: Path, sizes: dict[str, int], label: object = None, contents: list[bytes] | None = None) -> Path:
        label = label or datasets.ClassLabel(names=["z", "y", "x", "w"])
        features = datasets.Features({"image": datasets.Image(), "label": label})
        made = {
            key: datasets.Dataset.from_dict(
                {
                    "image": [{"bytes": content, "path": None} for content in contents or map(encoded, range(size))],
                    "label": [index % 4 for index in range(size)],
                },
                features=features,
            )
            for key, size in sizes.items()
        }
        if folder.suffix == ".parquet":
            for key, part in made.items():
                path = folder.with_suffix("") / "data" / f"{key}-00000-of-00001.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                part.to_parquet(path)
            return folder.with_suffix("")
        datasets.DatasetDict(made).save_to_disk(folder)
        return folder

    return save


@pytest.mark.parametrize("name", ["kitti", "kitti.parquet"])
@pytest.mark.parametrize("prefix", ["", "hub:"])
def test_a_saved_data_set_keeps_its_files_and_labels(tmp_path: Path, saved, name: str, prefix: str) -> None:
    source = saved(tmp_path / name, {**SIZES, "train800val200": 9})
    (done,) = convert_all(f"{prefix}{source}", tmp_path / "out")
    assert done.images == {**SIZES, "train800val200": 9}
    assert (done.folder / "test.txt").read_text().splitlines()[5] == "images/test/000005.png 1"
    assert (done.folder / "images/test/000005.png").read_bytes() == encoded(5)


def test_images_are_written_as_they_are_encoded_and_others_without_loss(tmp_path: Path, saved) -> None:
    random = Image.fromarray(np.random.RandomState(0).randint(0, 256, (9, 9, 3), np.uint8))
    contents = []
    for kind in ("JPEG", "PNG", "WEBP"):
        random.save(buffer := io.BytesIO(), kind)
        contents.append(buffer.getvalue())
    source = saved(tmp_path / "kitti", dict.fromkeys(SIZES, 3), contents=contents)
    (done,) = convert_all(source, tmp_path / "out")
    found = sorted((done.folder / "images" / "val200").iterdir())
    assert [path.name for path in found] == ["000000.jpg", "000001.png", "000002.png"]
    assert [path.read_bytes() for path in found[:2]] == contents[:2]
    assert found[2].read_bytes() != contents[2]
    assert np.array_equal(decode(found[2]), decode(contents[2]))


def test_of_a_whole_saved_data_set_the_rule_takes_its_own(
    tmp_path: Path, saved, caplog: pytest.LogCaptureFixture
) -> None:
    import datasets

    source = saved(tmp_path / "x", {"train": 805, "validation": 203, "test": 711}, datasets.Value("int64"))
    (done,) = convert_all(source, tmp_path / "out", task="kitti")
    assert done.images == {"train800": 800, "val200": 200, "test": 711, "train800val200": 1000}
    assert (done.folder / "train800val200.txt").read_text().splitlines()[999].endswith("000999.png 3")
    assert "order of TensorFlow Datasets" in caplog.text


def test_a_bad_image_of_a_data_set_is_named_and_nothing_stays(tmp_path: Path, saved) -> None:
    source = saved(tmp_path / "kitti", dict.fromkeys(SIZES, 2), contents=[encoded(1), b"text"])
    refused(source, tmp_path / "out", "kitti, train800/1: not an image")


def test_a_test_without_labels_counts_as_none(tmp_path: Path, saved) -> None:
    import datasets

    source = saved(tmp_path / "clevr_count", {"train": 5, "validation": 5, "test": 1})
    one = datasets.load_from_disk(source)
    one["test"] = one["test"].map(lambda row: {"label": -1})
    one.save_to_disk(tmp_path / "new" / "clevr_count")
    refused(tmp_path / "new", tmp_path / "out", "train has 4 images")  # 90 % of 5: test is the validation
    one["train"] = one["test"]
    one.save_to_disk(tmp_path / "bad" / "clevr_count")
    refused(tmp_path / "bad", tmp_path / "out", "clevr_count: labels are missing in train")


# The Hub: what it would give is put in its place, since there is no network here.


def test_zips_of_a_hub_data_set_are_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def snapshot(name: str, **options: object) -> str:
        assert (name, options) == ("owner/vtab", {"repo_type": "dataset", "allow_patterns": "*.zip"})
        return str(tmp_path / "snapshot")

    zipped(noah(tmp_path / "source"), tmp_path / "snapshot" / "zips" / "kitti.zip")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert [done.task for done in convert_all("hub:owner/vtab", tmp_path / "out")] == ["kitti"]


def test_configurations_of_a_hub_data_set_are_tasks(tmp_path: Path, saved, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    source = saved(tmp_path / "any", SIZES)
    asked = []

    def load(name: str, config: str) -> object:
        asked.append((name, config))
        if config == "svhn":
            raise ConnectionError("no route")
        return datasets.load_from_disk(source)

    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path / "empty"))
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["dtd", "svhn", "pets"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    (done,) = convert_all("hub:owner/vtab", tmp_path / "out", task="oxford_iiit_pet")
    assert (done.task, asked) == ("oxford_iiit_pet", [("owner/vtab", "pets")])
    refused("hub:owner/vtab", tmp_path / "out", r"Cannot load hub:owner/vtab \(svhn\) \(no route\)", task="svhn")


def test_without_a_network_the_hub_is_answered_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nto the host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset", fail)
    refused("hub:owner/kitti", tmp_path / "out", r"^Cannot load the data set 'owner/kitti' \(no route\)[^\n]*folder")


# What is refused


def test_a_task_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    noah(tmp_path / "all" / "kitti")
    noah(tmp_path / "all" / "dtd")
    (tmp_path / "out" / "kitti").mkdir(parents=True)
    (tmp_path / "out" / "kitti" / "mine").touch()
    for options in ({}, {"task": "kitti"}):
        refused(tmp_path / "all", tmp_path / "out", "out already has kitti: give another", **options)
    assert [done.task for done in convert_all(tmp_path / "all", tmp_path / "out", task="dtd")] == ["dtd"]
    assert sorted(os.listdir(tmp_path / "out")) == ["dtd", "kitti"]


def test_a_task_that_is_named_must_not_be_unpacked_to_be_refused(tmp_path: Path) -> None:
    (tmp_path / "out" / "kitti").mkdir(parents=True)
    (tmp_path / "bad.zip").write_text("text")
    refused(tmp_path / "bad.zip", tmp_path / "out", "already has kitti", task="kitti")


def test_tasks_before_a_broken_one_stay_and_nothing_of_it(tmp_path: Path) -> None:
    noah(tmp_path / "all" / "dtd")
    broken = noah(tmp_path / "all" / "kitti")
    (broken / "images/test/000005.jpg").unlink()
    done = convert(tmp_path / "all", tmp_path / "out")
    assert next(done).task == "dtd"
    with pytest.raises(RLRRError, match=r"kitti/test.txt, line 6: there is no file images/test/000005.jpg\. Mend"):
        next(done)
    assert os.listdir(tmp_path / "out") == ["dtd"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("val200.txt", None, r"kitti/val200.txt is missing"),
        ("test.txt", "images/test/000000.jpg cat\n", "kitti/test.txt, line 1: the label must be a whole number"),
        ("test.txt", "../secret.jpg 1\n", "kitti lists ../secret.jpg, which is not inside it"),
        (
            "test.txt",
            "images/train800/000000.jpg 1\n",
            "kitti/test.txt, line 1: .* is listed in train800.txt, line 1 too",
        ),
        (
            "test.txt",
            "images/test/000000.jpg 7\n",
            "kitti/test.txt, line 1: label 7 is out of range: kitti has 4 classes",
        ),
    ],
)
def test_lists_that_cannot_be_followed_are_refused(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    source = noah(tmp_path / "kitti")
    (tmp_path / "secret.jpg").write_bytes(encoded(0))
    if text is None:
        (source / file).unlink()
    else:
        (source / file).write_text(text)
    archive = zipped(source, tmp_path / "zips" / "kitti.zip")
    refused(source, tmp_path / "out", message)
    if not message.startswith("kitti lists"):  # in there, that file is none
        refused(archive, tmp_path / "out", message.replace("kitti/", "kitti.zip/"))


@pytest.mark.parametrize("name", ["../../evil.txt", "/tmp/evil.txt", "a/../../../evil.txt", "..\\evil.txt"])
def test_a_zip_with_a_path_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "kitti.zip", "w") as file:
        file.writestr("kitti/train800.txt", "")
        file.writestr(name, "evil")
    refused(tmp_path / "kitti.zip", tmp_path / "out", "kitti.zip is not safe to unpack: it holds the path .*evil")
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize("damage", ["text", "short", "content"])
def test_a_damaged_zip_is_named(tmp_path: Path, damage: str) -> None:
    archive = zipped(noah(tmp_path / "source"), tmp_path / "kitti.zip")
    content = archive.read_bytes()
    at = content.index(b"\xff\xd8")  # a JPEG, which is stored as it is
    changed = {"text": b"text", "short": content[:-40], "content": content[:at] + b"????" + content[at + 4 :]}
    archive.write_bytes(changed[damage])
    refused(archive, tmp_path / "out", r"kitti.zip cannot be unpacked \(.*\): .* Download it again")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("kiti.zip", r"There is no .*kiti.zip. Did you mean kitti.zip\? A source is a folder, a zip or hub:OWNER/NAME"),
        ("pictures", "pictures holds no copy of VTAB-1k: no folder with train800.txt"),
        ("twice", "twice has kitti twice, in .*twice/a/kitti and .*twice/b/kitti.zip: give one of them"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path: Path, source: str, message: str) -> None:
    task = noah(tmp_path / "twice" / "a" / "kitti")
    zipped(task, tmp_path / "twice" / "b" / "kitti.zip")
    shutil.copy(tmp_path / "twice" / "b" / "kitti.zip", tmp_path)
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / "x.png").write_bytes(encoded(0))
    refused(tmp_path / source, tmp_path / "out", message)


def test_an_unknown_task_is_met_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RLRRError, match=r"no task 'kiti' in VTAB-1k. Did you mean kitti\?") as caught:
        convert_all(tmp_path, tmp_path / "out", task="kiti")
    assert isinstance(caught.value, UsageError)


def test_a_full_disk_is_said_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    noah(tmp_path / "kitti")
    monkeypatch.setattr(Path, "write_bytes", full)
    refused(tmp_path / "kitti", tmp_path / "out", "No space left on the disk to write .*out: free some space")


def test_a_conversion_that_is_stopped_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    noah(tmp_path / "kitti")
    monkeypatch.setattr("rlrr.data.benchmarks.convert.vtab_splits", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_all(tmp_path / "kitti", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_output_may_lie_in_the_source(tmp_path: Path) -> None:
    noah(tmp_path / "a" / "kitti")
    zipped(noah(tmp_path / "b"), tmp_path / "zips" / "dtd.zip")
    shutil.rmtree(tmp_path / "b")
    assert sorted(done.task for done in convert_all(tmp_path, tmp_path / "out")) == ["dtd", "kitti"]
