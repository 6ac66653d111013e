"""`rlrr reproduce`, on generated data."""

import json
import shutil

import pytest

from rlrr.compare import protocol


@pytest.fixture(scope="module")
def vtab(tmp_path_factory, make_vtab):
    return make_vtab(tmp_path_factory.mktemp("vtab"), "patch_camelyon", "eurosat", "kitti", test=20)


@pytest.fixture
def reproduce(rlrr, tiny_backbone, tmp_path):
    """Call it, quickly."""

    def call(benchmark, root, *arguments, seeds=("--seeds", 2, "--rates", 1)):
        quick = ("--model", tiny_backbone, "--image-size", 32, "--epochs", 1, "--cooldown", 0, "--precision", "fp32")
        return rlrr("reproduce", benchmark, root, *quick, *seeds, "--output", tmp_path / "out", *arguments)

    return call


@pytest.fixture
def trained(monkeypatch):
    seen, train = [], protocol.train
    monkeypatch.setattr(protocol, "train", lambda *args, **options: seen.append(args[0]) or train(*args, **options))
    return seen


def test_a_table_is_printed_and_written(reproduce, vtab, tmp_path, trained):
    result = reproduce("vtab1k", vtab, "--tasks", "eurosat", "kitti")
    assert result.code == 0, result.err
    assert result.out == (tmp_path / "out" / "results.md").read_text()
    assert "not the paper's recipe: image_size=32, epochs=1, cooldown=0, precision=fp32" in result.out
    assert "| Natural, mean of 7 (0 of them there)" in result.out
    assert [line for line in result.err.splitlines() if "seed" in line] == [
        f"rlrr: {task}: seed {seed}, {seed + 1} of 2" for task in ("eurosat", "kitti") for seed in (0, 1)
    ]
    assert (tmp_path / "out" / "results.png").exists()
    again = json.loads(reproduce("vtab1k", vtab, "--json", "--tasks", "patch_camelyon").out)
    assert list(again["results"]) == ["patch_camelyon", "eurosat", "kitti"]  # with what was there
    assert len(trained) == 6


def test_it_is_stopped_and_goes_on_without_repeating_a_training(reproduce, vtab, monkeypatch, trained):
    counted = protocol.train

    def stops(*args, **options):
        if len(trained) == 3:
            raise KeyboardInterrupt
        return counted(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "train", stops)
        stopped = reproduce("vtab1k", vtab, "--tasks", "eurosat", "kitti")
    assert stopped.code == 1
    assert "rlrr: Stopped: run the same command again to go on." in stopped.err
    assert reproduce("vtab1k", vtab, "--tasks", "eurosat", "kitti").code == 0
    assert [(one.data.split("/")[-1], one.seed) for one in trained] == [
        *(("eurosat", 0), ("eurosat", 1)),
        *(("kitti", 0), ("kitti", 1)),
    ]


def test_a_task_that_fails_is_named_and_the_table_has_a_gap(reproduce, vtab, tmp_path):
    shutil.copytree(vtab, tmp_path / "vtab")
    (tmp_path / "vtab" / "eurosat" / "train800.txt").unlink()
    result = reproduce("vtab1k", tmp_path / "vtab", "--tasks", "eurosat", "kitti")
    assert result.code == 1
    assert "rlrr: 1 of 2 failed" in result.err
    assert "eurosat: " in result.err.splitlines()[-1]
    assert "train800.txt" in result.err
    assert next(line for line in result.out.splitlines() if "EuroSAT" in line).count(" - ") == 4


def test_the_papers_protocol_is_labelled(reproduce, make_fgvc, tmp_path, trained):
    root = make_fgvc(tmp_path / "fgvc", "cub")
    result = reproduce(
        "fgvc", root, "--tasks", "cub", "--protocol", "paper", "--variant", "aug", "--batch-size", 2, seeds=()
    )
    assert result.code == 0, result.err
    assert result.out.startswith("# FGVC with aug, rlrr: best test epoch\n")
    assert "ours (best test epoch), %" in result.out
    assert [(one.seed, one.protocol) for one in trained] == [(42, "paper")]


def test_missing_folders_are_named_before_anything_runs(reproduce, vtab, trained):
    result = reproduce("vtab1k", vtab, "--tasks", "kitti", "cifar", "dtd")
    assert result.code == 2
    assert "has no folder of cifar, dtd: put what is missing there" in result.err
    assert not trained


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("vtab1k", "--tasks", "kiti"), "VTAB-1k has no task 'kiti'"),
        (("vtab1k", "--variant", "aug"), "VTAB-1k has no variant 'aug'; it has none."),
        (("vtab1k", "--protocol", "paper", "--seeds", 3), "Leave --seeds out with --protocol paper"),
        (("vtab1k", "--protocol", "paper", "--rates", 1), "Leave --rates out with --protocol paper"),
        (("vtab1k", "--seeds", 0), "--seeds must be 1 or more"),
        (("vtab1k", "--rates", 1, 1), "--rates must be different"),
        (("vtab1k", "--jobs", 0), "--jobs must be 1 or more"),
        (("vtab1k", "--epochs", 0), "--epochs must be 1 or more"),
        (("imagenet",), "must be one of vtab1k, fgvc, not 'imagenet'"),
    ],
)
def test_a_wrong_call_is_one_sentence(refused, vtab, tmp_path, arguments, named):
    benchmark, *rest = arguments
    rest = rest if "--tasks" in rest else [*rest, "--tasks", "kitti"]
    assert named in refused("reproduce", benchmark, vtab, *rest, "--output", tmp_path / "out", code=2)
