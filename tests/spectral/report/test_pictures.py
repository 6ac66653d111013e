"""Pictures show the numbers they are given, alike for every run, and fit a phone."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from rlrr.report.colours import RUNS
from rlrr.report.figures import WIDTH
from rlrr.spectral.analysis import Analysis, measure
from rlrr.spectral.report import heatmaps, learned, pictures
from rlrr.spectral.tuned import Pair

SHAPES = {"q": (16, 16), "proj": (16, 16), "fc1": (32, 16)}
LONG = "a run whose name is longer than any line of a legend could be, with 猫 and $x_1$"


@cache
def runs(*labels: str, blocks: int = 3, outside: bool = True) -> list[Analysis]:
    """Runs that rescale at random; the first makes all weights larger by a tenth."""
    generator = torch.Generator().manual_seed(0)
    weights = {(f"blocks.{i}.mlp.{kind}", i, kind): shape for i in range(blocks) for kind, shape in SHAPES.items()}
    if outside:
        weights = {("patch_embed.proj", None, "patch_embed"): (16, 12)} | weights
    before = {key: torch.randn(shape, generator=generator) for key, shape in weights.items()}
    analyses = []
    for number, label in enumerate(labels):
        rows = []
        for key, weight in before.items():
            noise = torch.randn(weight.shape, generator=generator)
            rows.append(measure(Pair(*key, weight, weight * (1.1 if number == 0 else 1 + 0.1 * noise)), directions=4))
        vectors = {
            f"blocks.{i}.mlp.fc1": {"scale_out": torch.full((32, 1), 0.1 * i), "shift": torch.zeros(32)}
            for i in range(blocks)
        }
        vectors |= {"norm": {"scale": torch.ones(16), "shift": torch.zeros(16)}}
        records = [
            {"epoch": float(epoch), "deviation": 0.1 * epoch}
            | {f"deviation_{block}": 0.01 * epoch * (block + 1) for block in range(blocks)}
            for epoch in range(4)
        ]
        changes = [
            {
                "layer": i,
                "name": f"blocks.{i}",
                "cka": 1 - 0.1 * i,
                "subspace_angle": 5.0 * i,
                "relative_change": 0.1 * i,
            }
            for i in range(blocks)
        ]
        neutral = {module: {"scale_out": 0.0, "shift": 0.0} for module in vectors} | {
            "norm": {"scale": 1.0, "shift": 0.0}
        }
        analyses.append(Analysis(label, "rlrr", 10, 0.9, "test", 4, rows, vectors, neutral, records, changes))
    return analyses


@pytest.fixture(scope="module")
def three() -> list[Analysis]:
    return runs("even", "noise", "other")


ALL = {
    "overview": pictures.overview,
    "change": lambda analyses: heatmaps.heat_maps(analyses, "relative_change", whole=False),
    "share": lambda analyses: heatmaps.heat_maps(analyses, "rotation_share", whole=True),
    "ratios": pictures.ratios,
    "spectra": pictures.spectra,
    "energies": pictures.energies,
    "angles": lambda analyses: pictures.by_block(analyses, "{side}_angle_mean", "Mean angle"),
    "scalings": pictures.scalings,
    "learned": lambda analyses: learned.learned_tensors(analyses[0]),
    "deviations": learned.deviations,
    "deviations by block": learned.deviations_by_block,
    "features": learned.features,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_no_letter_is_cut_off_and_no_picture_is_wider_than_its_page(name) -> None:
    figure = ALL[name](runs("even", LONG, *"cdefghijk", LONG + "!"))
    assert figure.get_figwidth() <= WIDTH
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()
    assert (drawn.x0 > -0.01, drawn.y0 > -0.01) == (True, True)
    assert (drawn.x1 < figure.get_figwidth() + 0.01, drawn.y1 < figure.get_figheight() + 0.01) == (True, True)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"change", "share", "learned", "deviations by block"}))
def test_a_run_has_the_same_colour_whoever_is_shown_beside_it(name, three) -> None:
    first = replace(three[0], rows=[], deviations=[], features=[])
    figure = ALL[name]([first, *three[1:]])
    legend = figure.legends[0]
    keys = {text.get_text(): line for text, line in zip(legend.texts, legend.legend_handles, strict=True)}
    if name == "scalings":
        assert figure.axes[0].lines[0].get_color() == RUNS[1]
    else:
        assert keys["noise"].get_color() == RUNS[1]
        assert "even" not in keys


def test_a_heat_map_holds_the_percent_of_each_weight_and_what_is_outside_the_blocks_fills_its_line(three) -> None:
    figure = heatmaps.heat_maps(three, "relative_change", whole=False)
    first = figure.axes[0]
    np.testing.assert_allclose(first.collections[0].get_array(), np.full((4, 3), 10), rtol=1e-5)
    assert [label.get_text() for label in first.get_xticklabels()] == ["q", "proj", "fc1"]
    assert sorted(label.get_text() for label in first.get_yticklabels()) == ["0", "1", "2", "patch_embed"]
    assert [text.get_text() for text in first.texts] == ["10"] * 10
    field = figure.axes[1].collections[0].get_array()
    row = next(row for row in three[1].rows if row.name == "blocks.2.mlp.proj")
    assert field[3, 1] == pytest.approx(100 * row.relative_change)
    assert field[0].tolist() == pytest.approx([100 * three[1].rows[0].relative_change] * 3)


def test_all_runs_share_the_colours_of_a_heat_map(three) -> None:
    figure = heatmaps.heat_maps(three, "relative_change", whole=False)
    assert len({image.get_clim() for axes in figure.axes[:3] for image in axes.collections[:1]}) == 1
    assert heatmaps.heat_maps(three, "rotation_share", whole=True).axes[0].collections[0].get_clim() == (0, 100)


def test_a_weight_that_is_not_there_is_left_blank(three) -> None:
    without = replace(three[0], rows=[row for row in three[0].rows if row.name != "blocks.1.mlp.fc1"])
    figure = heatmaps.heat_maps([without, three[1]], "relative_change", whole=False)
    assert np.isnan(np.ma.filled(figure.axes[0].collections[0].get_array(), np.nan)[2, 2])
    assert len(figure.axes[0].texts) == 9


def test_models_without_blocks_have_a_line_for_each_weight() -> None:
    analyses = runs("one", blocks=0)
    figure = heatmaps.heat_maps(analyses, "relative_change", whole=False)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["patch_embed"]
    assert pictures.kinds_of(analyses) == ["patch_embed"]


def test_weights_that_all_grew_by_a_tenth_have_a_level_ratio(three) -> None:
    figure = pictures.ratios(three[:1])
    for axes in figure.axes:
        np.testing.assert_allclose(axes.lines[1].get_ydata(), 1.1, rtol=1e-5)
    assert [axes.get_title("left") for axes in figure.axes] == ["q", "proj", "fc1"]


def test_a_change_along_the_weight_lies_where_the_weight_does(three) -> None:
    for axes in pictures.energies(three[:1]).axes:
        _, own, change = axes.lines
        np.testing.assert_allclose(change.get_ydata(), own.get_ydata(), atol=1e-6)
        assert change.get_ydata()[-1] == pytest.approx(100)


def test_the_change_is_drawn_beside_the_weight_on_its_own_scale(three) -> None:
    before, after, change = pictures.spectra(three[:1]).axes[0].lines
    assert before.get_ydata()[0] == pytest.approx(1)
    np.testing.assert_allclose(after.get_ydata(), 1.1 * before.get_ydata(), rtol=1e-5)
    np.testing.assert_allclose(change.get_ydata(), 0.1 * before.get_ydata(), rtol=1e-4)


def test_each_side_and_kind_has_a_panel_over_the_blocks(three) -> None:
    figure = pictures.by_block(three, "{side}_angle_mean", "Mean angle")
    panels = {axes.get_title("left"): axes for axes in figure.axes}
    assert set(panels) == {f"{kind}, {side}" for kind in SHAPES for side in ("outputs", "inputs")}
    line = panels["proj, inputs"].lines[1]
    rows = [row for row in three[1].rows if row.kind == "proj"]
    assert list(line.get_xdata()) == [0, 1, 2]
    assert list(line.get_ydata()) == pytest.approx([row.right_angle_mean for row in rows])


def test_learned_tensors_are_grouped_by_what_they_are_and_where(three) -> None:
    groups = learned.tensors_by_kind(three[0])
    assert {key: list(values) for key, values in groups.items()} == {
        ("scale_out", "fc1"): [0, 1, 2],
        ("shift", "fc1"): [0, 1, 2],
        ("shift", learned.OUTSIDE): ["norm"],
        ("scale", learned.OUTSIDE): ["norm"],
    }
    assert groups["scale_out", "fc1"][2].tolist() == pytest.approx([0.2] * 32)


def test_a_line_marks_the_value_that_leaves_a_module_as_it_was_where_it_is_known(three) -> None:
    lora = {"blocks.0.mlp.fc1": {"lora_A.weight": torch.ones(2, 16), "lora_B.weight": torch.ones(16, 2)}}
    run = replace(three[0], vectors=lora, neutral={"blocks.0.mlp.fc1": {"lora_B.weight": 0.0}})
    down, up = learned.learned_tensors(run).axes[:2]
    assert (down.get_title("left"), up.get_title("left")) == ("lora_A.weight, fc1", "lora_B.weight, fc1")
    assert [list(line.get_ydata()) for line in up.lines] == [[0, 0], [1]]
    assert [list(line.get_ydata()) for line in down.lines] == [[1]]


def test_blocks_of_a_staged_model_are_counted_through(three) -> None:
    row = three[0].rows[1]
    rows = [replace(row, name=f"layers.{i}.blocks.{j}.attn.qkv.q", layer=2 * i + j) for i in (0, 1) for j in (0, 1)]
    shift = {"shift": torch.zeros(4)}
    vectors = {"layers.1.blocks.0.norm1": shift, "layers.1.downsample.norm": shift}
    groups = learned.tensors_by_kind(replace(three[0], rows=rows, vectors=vectors))
    assert [list(values) for values in groups.values()] == [[2], ["layers.1.downsample.norm"]]


def test_deviations_are_percent_over_epochs_whole_and_by_block(three) -> None:
    line = learned.deviations(three).axes[0].lines[0]
    assert list(line.get_xdata()) == [0, 1, 2, 3]
    assert list(line.get_ydata()) == pytest.approx([0, 10, 20, 30])
    epochs, field = learned.deviation_field(three[0])
    assert epochs == [0, 1, 2, 3]
    np.testing.assert_allclose(field[:, 3], [3, 6, 9])


def test_a_run_of_one_epoch_has_its_deviation_drawn_too(three) -> None:
    figure = learned.deviations_by_block([replace(three[0], deviations=three[0].deviations[1:2])])
    np.testing.assert_allclose(figure.axes[0].collections[0].get_array().ravel(), [1, 2, 3])


@pytest.mark.parametrize(
    ("percent", "text"),
    [(0, "0"), (0.0432, "0.043"), (0.6, "0.60"), (0.999, "1.0"), (4.23, "4.2"), (9.96, "10"), (142.3, "142")],
)
def test_numbers_are_as_short_as_they_can_be(percent, text) -> None:
    assert heatmaps.in_short(percent) == text
