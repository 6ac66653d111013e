"""`rlrr reproduce`, on generated data."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from rlrr.compare import protocol

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vtab(tmp_path_factory, make_vtab):
    return make_vtab(tmp_path_factory.mktemp("vtab"), "patch_camelyon", "eurosat", "kitti", test=20)


@pytest.fixture
def reproduce(rlrr, tiny_backbone, tmp_path):
    """Call it, quickly."""

    def call(benchmark, root, *arguments, seeds=("--seeds", 0, 1, "--rates", 1)):
        quick = ("--model", tiny_backbone, "--image-size", 32, "--epochs", 1, "--cooldown", 0, "--precision", "fp32")
        return rlrr("reproduce", benchmark, root, *quick, *seeds, "--output", tmp_path / "out", *arguments)

    return call


def test_a_table_is_printed_and_written(reproduce, vtab, tmp_path, trained):
    result = reproduce("vtab1k", vtab, "--tasks", "eurosat", "kitti")
    assert result.code == 0, result.err
    assert result.out == (tmp_path / "out" / "results.md").read_text()
    assert "not the paper's recipe: image_size=32, epochs=1, cooldown=0, precision=fp32" in result.out
    assert "| Natural, mean of 7 (0 measured)" in result.out
    assert [line for line in result.err.splitlines() if "seed" in line] == [
        f"rlrr: {task}: seed {seed}, {seed + 1} of 2" for task in ("eurosat", "kitti") for seed in (0, 1)
    ]
    assert (tmp_path / "out" / "results.png").exists()
    again = json.loads(reproduce("vtab1k", vtab, "--json", "--tasks", "patch_camelyon").out)
    assert list(again["results"]) == ["patch_camelyon", "eurosat", "kitti"]  # with what was there
    assert len(trained) == 6


def measured(folder):
    """Accuracies in percent, by task, of each seed."""
    found = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")}
    return {name: [100 * accuracy for accuracy in result["accuracies"]] for name, result in found.items()}


def mean_rows(folder):
    lines = json.loads((folder / "results.json").read_text())["lines"]
    return {line["title"]: line["ours"] for line in lines if line["is_mean"]}


def test_the_mean_over_fgvc_is_that_of_its_five_sets(reproduce, make_fgvc, tmp_path):
    root = make_fgvc(tmp_path / "fgvc")
    result = reproduce("fgvc", root, "--normalization", "imagenet", "--batch-size", 2)
    assert result.code == 0, result.err
    of = measured(tmp_path / "out")
    first, second = (
        (of["cub"][i] + of["nabirds"][i] + of["flowers"][i] + of["dogs"][i] + of["cars"][i]) / 5 for i in (0, 1)
    )
    assert first > 0
    (mean,) = mean_rows(tmp_path / "out").values()
    assert mean["mean"] == pytest.approx((first + second) / 2)
    assert mean["deviation"] == pytest.approx(abs(first - second) / 2**0.5)
    expected = f"{(first + second) / 2:.1f} ± {abs(first - second) / 2**0.5:.1f}"
    row = next(line for line in result.out.splitlines() if line.startswith("| mean of the 5 "))
    assert [cell.strip() for cell in row.split("|")[2:4]] == [expected, "2"]
    assert "- normalization: imagenet, by the recipe; " in result.out
    assert "was trained with mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5" in result.out


@pytest.mark.soak
def test_the_means_over_vtab_are_those_of_its_groups_of_its_tasks_and_of_the_groups(reproduce, make_vtab, tmp_path):
    root = make_vtab(tmp_path / "vtab")
    result = reproduce("vtab1k", root, seeds=("--seeds", 0, "--rates", 1))
    assert result.code == 0, result.err
    of = {name: accuracies[0] for name, accuracies in measured(tmp_path / "out").items()}
    natural = sum(of[n] for n in ("cifar", "caltech101", "dtd", "oxford_flowers102", "oxford_iiit_pet", "svhn")) / 7
    natural += of["sun397"] / 7
    specialized = (of["patch_camelyon"] + of["eurosat"] + of["resisc45"] + of["diabetic_retinopathy"]) / 4
    structured = (of["clevr_count"] + of["clevr_dist"] + of["dmlab"] + of["kitti"]) / 8
    structured += (of["dsprites_loc"] + of["dsprites_ori"] + of["smallnorb_azi"] + of["smallnorb_ele"]) / 8
    means = {title: ours["mean"] for title, ours in mean_rows(tmp_path / "out").items()}
    assert means == pytest.approx(
        {
            "Natural, mean of 7": natural,
            "Specialized, mean of 4": specialized,
            "Structured, mean of 8": structured,
            "mean of the 19": (7 * natural + 4 * specialized + 8 * structured) / 19,
            "mean of the 3 groups": (natural + specialized + structured) / 3,
        }
    )
    assert len({round(mean, 6) for mean in means.values()}) == 5


def test_a_task_is_run_whatever_became_of_those_not_asked_for(reproduce, vtab, tmp_path, trained):
    assert reproduce("vtab1k", vtab, "--tasks", "eurosat").code == 0
    shutil.copytree(vtab, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "eurosat")
    result = reproduce("vtab1k", tmp_path / "moved", "--tasks", "kitti", "--json")
    assert result.code == 0, result.err
    assert list(json.loads(result.out)["results"]) == ["eurosat", "kitti"]
    (tmp_path / "out" / "eurosat" / "result.json").write_text("{}")
    result = reproduce("vtab1k", tmp_path / "moved", "--tasks", "kitti", "--json")
    assert list(json.loads(result.out)["results"]) == ["kitti"]


def test_a_number_after_seeds_is_the_seed_itself(reproduce, vtab, trained):
    assert reproduce("vtab1k", vtab, "--tasks", "kitti", seeds=("--seeds", 42, "--rates", 1)).code == 0
    assert [one.seed for one in trained] == [42]


def test_other_weights_print_no_table_of_the_old_ones(reproduce, vtab, tmp_path, tiny_backbone, trained):
    assert reproduce("vtab1k", vtab, "--tasks", "kitti").code == 0
    table = (tmp_path / "out" / "results.md").read_text()
    tensors = load_file(f"{tiny_backbone}/model.safetensors")
    save_file({name: -tensor for name, tensor in tensors.items()}, tmp_path / "other.safetensors")
    result = reproduce("vtab1k", vtab, "--tasks", "kitti", "--weights", tmp_path / "other.safetensors")
    assert (result.code, result.out, len(trained)) == (1, "", 2)
    assert "kitti was made with other options (weights of the backbone: " in result.err
    assert (tmp_path / "out" / "results.md").read_text() == table


def test_it_is_stopped_and_goes_on_without_repeating_a_training(reproduce, vtab, monkeypatch, trained):
    counted = protocol.train

    def stops(*args, **options):
        if len(trained) == 3:
            raise KeyboardInterrupt
        return counted(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(protocol, "train", stops)
        stopped = reproduce("vtab1k", vtab, "--tasks", "eurosat", "kitti")
    assert stopped.code == 130
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
    assert "rlrr: 1 failed" in result.err
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


def test_another_method_takes_the_benchmarks_part_and_its_own_defaults(reproduce, vtab, trained):
    result = reproduce("vtab1k", vtab, "--tasks", "kitti", "--method", "lora", "--set", "r=4")
    assert result.code == 0, result.err
    recipe = trained[0]
    assert (recipe.flip, recipe.crop_mode, recipe.settings) == (True, "squash", {"r": 4})
    assert (recipe.drop_path, recipe.weight_decay, recipe.schedule, recipe.learning_rate) == (0.0, 1e-4, "cosine", 1e-3)
    assert "- recipe: the benchmark's images and training budget, and lora's own defaults" in result.out
    assert "settings={'r': 4}" in result.out


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
        (("vtab1k", "--seeds", 1, 1), "--seeds must be different"),
        (("vtab1k", "--rates", 1, 1), "--rates must be different"),
        (("vtab1k", "--jobs", 0), "must be 1 or more, not 0"),
        (("vtab1k", "--epochs", 0), "--epochs must be 1 or more"),
        (("vtab1k", "--set", "rnak=2"), "rlrr has no setting rnak. Did you mean rank"),
        (("imagenet",), "must be one of vtab1k, fgvc, not 'imagenet'"),
    ],
)
def test_a_wrong_call_is_one_sentence(refused, vtab, tmp_path, arguments, named):
    benchmark, *rest = arguments
    rest = rest if "--tasks" in rest else [*rest, "--tasks", "kitti"]
    assert named in refused("reproduce", benchmark, vtab, *rest, "--output", tmp_path / "out", code=2)
