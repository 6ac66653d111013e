from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlrr.data import decode, load_data
from rlrr.data.benchmarks.fgvc import SETS, find_set, load_fgvc, set_of
from rlrr.errors import RLRRError, UsageError


@pytest.fixture(scope="module")
def all_sets(make_fgvc, tmp_path_factory) -> Path:
    """Read only."""
    return make_fgvc(tmp_path_factory.mktemp("data") / "fgvc")


@pytest.fixture
def dogs(make_fgvc, tmp_path) -> Path:
    return make_fgvc(tmp_path, "dogs") / "Stanford-dogs"


@pytest.fixture
def forked(make_fgvc, tmp_path) -> Path:
    """With trainval.json instead of train.json and val.json."""
    return make_fgvc(tmp_path, "dogs", train=20, trainval=True) / "Stanford-dogs"


def change(file: Path, **changes: object) -> None:
    """Change the values of the first keys."""
    content = json.loads(file.read_text())
    first = next(iter(content))
    if "key" in changes:
        content = {changes["key"]: content[first], **{k: v for k, v in content.items() if k != first}}
    if "value" in changes:
        content[first] = changes["value"]
    file.write_text(json.dumps(content))


def refusal(folder: Path) -> str:
    with pytest.raises(RLRRError) as error:
        load_fgvc(folder, val_fraction=0.2, seed=0)
    message = str(error.value)
    assert message.startswith(f"{folder}/")
    return message.removeprefix(f"{folder}/").partition(". `rlrr")[0]


@pytest.mark.parametrize("name", SETS)
def test_every_set_loads(all_sets, name):
    folder = find_set(all_sets, name)
    data = load_data(folder)
    assert data.test is not None
    assert data.name == folder.name
    assert (len(data.train), len(data.val), len(data.test)) == (4, 2, SETS[name].classes)
    assert len(data.classes) == len(set(data.classes)) == SETS[name].classes
    assert set(data.test.labels) == set(range(SETS[name].classes))
    assert list(data.train.labels) == [0, 1, 2, 3]
    assert all(decode(image).size == (24, 24) for image in (*data.train.images, data.test.images[-1]))
    assert data.split_origin == "train: from train.json; val: from val.json; test: from test.json"


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("cub", ("Bird_1", "Bird_2")),  # of folders such as 001.Black_footed_Albatross
        ("dogs", ("Dog-0", "Dog-1")),  # of folders such as n02085620-Chihuahua
        ("nabirds", ("0001", "0003")),
        ("flowers", ("pink primrose", "hard-leaved pocket orchid")),
        ("cars", ("AM General Hummer SUV 2000", "Acura RL Sedan 2012")),
    ],
)
def test_classes_have_the_names_of_their_folders_or_of_the_set(all_sets, name, classes):
    assert load_data(find_set(all_sets, name)).classes[:2] == classes


def test_the_names_of_the_set_itself_come_first(make_fgvc, tmp_path):
    folder = make_fgvc(tmp_path, "nabirds") / "nabirds"
    (folder / "classes.txt").write_text("".join(f"{i} Bird, kind {i}\n" for i in range(1500)))
    assert load_data(folder).classes[:2] == ("Bird, kind 1", "Bird, kind 3")


def test_classes_of_flowers_are_numbered_if_their_ids_are_not_the_known_ones(make_fgvc, tmp_path):
    folder = make_fgvc(tmp_path, "flowers") / "OxfordFlower"
    for file in folder.glob("*.json"):
        file.write_text(json.dumps({path: 2 * id_ for path, id_ in json.loads(file.read_text()).items()}))
    assert load_data(folder).classes[:3] == ("0", "1", "2")


def test_class_ids_are_numbered_over_all_lists(dogs):
    (dogs / "train.json").write_text(json.dumps({key: 119 for key in json.loads((dogs / "train.json").read_text())}))
    data = load_fgvc(dogs, val_fraction=None, seed=0)
    assert set(data.train.labels) == {119}
    assert list(data.val.labels) == [0, 1]


def test_val_is_held_out_of_the_list_of_both_where_there_is_no_other(forked):
    data = load_data(forked, val_fraction=0.5, seed=3)
    assert (len(data.train), len(data.val)) == (20, 2)  # two classes have two images
    assert data.split_origin == "val: 50 % of trainval.json, stratified, seed 3; test: from test.json"
    assert data.val.names == load_data(forked, val_fraction=0.5, seed=3).val.names
    assert not set(data.train.names) & set(data.val.names)


def test_nothing_is_held_out_if_nothing_is_trained(forked):
    data = load_data(forked, val_fraction=None)
    assert (len(data.train), len(data.val)) == (22, 0)
    assert data.split_origin == "train: from trainval.json; test: from test.json"


def test_own_val_wins_over_the_list_of_both(dogs):
    (dogs / "trainval.json").write_text("not looked at")
    assert len(load_data(dogs).val) == 2


def test_the_list_of_both_is_taken_if_one_of_the_two_is_missing(dogs):
    (dogs / "train.json").rename(dogs / "trainval.json")
    assert load_data(dogs).split_origin.startswith("val: 20 % of trainval.json")


@pytest.mark.parametrize("where", [".", "images", "Images"])
def test_images_are_found_with_or_without_their_folder(dogs, where):
    (dogs / "Images").rename(dogs / "moved")
    if where == ".":
        for folder in (dogs / "moved").iterdir():
            folder.rename(dogs / folder.name)
    else:
        (dogs / "moved").rename(dogs / where)
    data = load_data(dogs)
    assert decode(data.train.images[0])
    assert data.classes[1] == "Dog-1"


@pytest.mark.parametrize("name", ["val.json", "test.json"])
def test_a_missing_list_is_named(dogs, name):
    (dogs / name).unlink()
    assert refusal(dogs) == f"{name} is missing: take it from the splits that VPT published"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"a.jpg": 1,\n "b.jpg": }',
            "val.json, line 2: this is not JSON (Expecting value)",
        ),
        ("[1, 2]", "val.json is not a JSON object of image paths and class ids"),
        ("{}", "val.json lists no images: take it from the splits that VPT published"),
        ('{"a.jpg": "dog"}', "val.json, key 'a.jpg': the label must be a whole number below a million, not 'dog'"),
        ('{"a.jpg": true}', "val.json, key 'a.jpg': the label must be a whole number below a million, not True"),
        (
            '{"a.jpg": {"b": 1}}',
            "val.json, key 'a.jpg': the label must be a whole number below a million, not [('b', 1)]",
        ),
        ('{"a.jpg": 1}', "val.json, key 'a.jpg': there is no file a.jpg"),
    ],
)
def test_a_damaged_list_is_said_with_line_or_key(dogs, text, said):
    (dogs / "val.json").write_text(text)
    assert refusal(dogs) == said


def test_missing_files_are_counted(dogs):
    for file in (dogs / "Images").rglob("train*.jpg"):
        file.unlink()
    said = refusal(dogs)
    assert said.startswith("train.json, key 'n00000000-Dog-0/train0.jpg': there is no file n00000000-Dog-0/train0.jpg")
    assert said.endswith("(and 3 more like it)")


def test_an_image_in_two_splits_is_refused(dogs):
    shared = next(iter(json.loads((dogs / "train.json").read_text())))
    change(dogs / "test.json", key=shared)
    assert "test.json, key" in refusal(dogs)
    assert f"Images/{shared} is listed in train.json, key '{shared}' too" in refusal(dogs)


def test_other_numbers_of_classes_than_the_set_has_are_refused(dogs):
    change(dogs / "train.json", value=500)
    said = "train.json, val.json, test.json hold 121 classes, and Stanford Dogs has 120"
    assert refusal(dogs) == said


def test_an_unknown_folder_has_the_classes_it_lists(dogs):
    change(dogs / "train.json", value=500)
    assert len(load_data(dogs.rename(dogs.parent / "wolves")).classes) == 121


def test_no_image_is_opened(dogs):
    for file in dogs.rglob("*.jpg"):
        file.write_bytes(b"")
    assert len(load_data(dogs).train) == 4


def test_other_sizes_than_the_original_are_said_in_one_line(dogs, caplog):
    load_data(dogs)
    assert [record.getMessage() for record in caplog.records] == [
        f"{dogs}: train/val/test hold 4/2/120 images, 10800/1200/8580 in the original: see `rlrr data check`"
    ]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("CUB_200_2011", "cub"),
        ("cub-200-2011", "cub"),
        ("NABirds", "nabirds"),
        ("oxford_flowers102", "flowers"),
        ("stanford_dogs", "dogs"),
        ("StanfordCars", "cars"),
        ("cifar", None),
    ],
)
def test_common_spellings_of_the_folders_are_known(tmp_path, folder, name):
    found = set_of(tmp_path / folder)
    assert (found and found.name) == name
    (tmp_path / folder).mkdir()
    if name:
        assert find_set(tmp_path, name) == tmp_path / folder


def test_a_set_without_a_folder_is_refused_with_the_names_it_may_have(tmp_path):
    (tmp_path / "dogs").touch()  # no folder
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(
            RLRRError, match=r"has no folder of Stanford Dogs: put it there, called Stanford-dogs, dogs\."
        ):
            find_set(root, "dogs")


def test_an_unknown_set_is_refused(tmp_path):
    with pytest.raises(
        RLRRError, match=r"FGVC has no set 'bird'; it has cub, nabirds.*Did you mean nabirds\?"
    ) as error:
        find_set(tmp_path, "bird")
    assert isinstance(error.value, UsageError)
