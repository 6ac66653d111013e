"""`rlrr ablate`, on generated data."""

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def ablate(rlrr, tiny_backbone, tmp_path):
    """Call it, quickly."""

    def call(*arguments, seeds=("--seeds", 0)):
        quick = ("--model", tiny_backbone, "--epochs", 1, "--batch-size", 8, "--precision", "fp32")
        return rlrr("ablate", *arguments, *quick, *seeds, "--output", tmp_path / "out")

    return call


def test_a_table_is_printed_and_what_is_there_is_not_run_again(ablate, images, tmp_path, trained):
    result = ablate(images, "--tables", "table11")
    assert result.code == 0, result.err
    assert result.out == (tmp_path / "out" / "results.md").read_text()
    assert [one.settings for one in trained] == [{"multiply_weight": False}, {}]
    assert f"rlrr: {images.name}, no-weight: seed 0, 1 of 1" in result.err
    assert (tmp_path / "out" / images.name / "no-weight" / "result.json").exists()
    content = json.loads(ablate(images, "--tables", "table11", "fig2", "--json").out)
    assert list(content["tables"]) == ["table11", "fig2"]
    assert [value for one in trained[2:] for value in one.settings.values()] == [
        *(["attn"], ["mlp"], ["norm"]),
        *(["attn", "mlp"], ["attn", "norm"], ["mlp", "norm"]),
        [0],
    ]


def test_several_data_sets_have_a_mean(ablate, images, tmp_path, make_images):
    for seed, split in enumerate(("train", "val", "test")):
        make_images(tmp_path / "more" / split, 2, seed)
    result = ablate(images, tmp_path / "more", "--tables", "table11")
    columns = next(line for line in result.out.splitlines() if line.startswith("| variant"))
    assert f"{images.name}, % |" in columns
    assert "more, % |" in columns
    assert "mean, % |" in columns


def test_a_recipe_file_or_a_packaged_recipe_is_what_is_varied(ablate, images, tmp_path, trained):
    (tmp_path / "base.yaml").write_text("data: elsewhere\nweight_decay: 0.01\nlearning_rate: 0.002\n")
    assert ablate(images, "--tables", "table11", "--config", tmp_path / "base.yaml").code == 0
    assert {(one.weight_decay, one.learning_rate) for one in trained} == {(0.01, 0.002)}
    refused = ablate(images, "--tables", "table11", "--config", "vtab1k/cifar")
    assert refused.code == 1
    assert "was made with other options" in refused.err
    assert "weight-decay: 0.01 -> 5e-05" in refused.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "Missing: DATA"),
        (("sample:lfw", "--tables", "table7"), "There is no table 'table7'"),
        (("sample:lwf", "--tables", "table6"), "There is no sample 'lwf'"),
        (("sample:lfw", "--tables", "table6", "--config", "vtab1k/cifer"), "Did you mean vtab1k/cifar"),
        (("sample:lfw", "--tables", "table6", "--epoch", 3), "There is no option --epoch. Did you mean --epochs"),
    ],
)
def test_a_wrong_call_is_one_sentence(rlrr, tmp_path, arguments, named):
    result = rlrr("ablate", *arguments, "--output", tmp_path / "out")
    assert result.code in (1, 2)
    assert result.out == ""
    assert named in result.err
    assert "Traceback" not in result.err


def test_a_folder_of_a_benchmark_is_varied_by_its_own_recipe_of_the_paper(ablate, images, make_fgvc, tmp_path, trained):
    root = make_fgvc(tmp_path / "fgvc", "cub", "cars")
    data = (root / "CUB_200_2011", root / "Stanford-cars", images)
    result = ablate(*data, "--tables", "table11", "--protocol", "paper", "--image-size", 32, "--cooldown", 0, seeds=())
    assert result.code == 0, result.err
    assert [(one.seed, one.protocol) for one in trained] == [(42, "paper")] * 6
    assert {one.data: (one.schedule, one.weight_decay) for one in trained} == {
        str(data[0]): ("restarts", 0.05),
        str(data[1]): ("paper", 0.05),
        str(images): ("cosine", 1e-4),
    }
    assert "- recipe: CUB_200_2011, Stanford-cars: not the paper's recipe: image_size=32, epochs=1" in result.out
    assert f"; {images.name}: learning_rate 0.005, epochs 1" in result.out
    assert result.out.splitlines()[0].endswith(": best test epoch")
