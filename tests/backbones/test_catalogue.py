"""The list of backbones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import timm

from rlrr.backbones import BackboneInfo, backbones
from rlrr.backbones.releases import RELEASES


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, BackboneInfo]]:
    """The list on a machine that has MoCo v3 in torch's cache, and nothing in that of the Hub."""
    folder: Path = tmp_path_factory.mktemp("caches")
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    (folder / "hub" / "checkpoints" / "vit-b-300ep.pth.tar").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder / "empty"))
        patch.setenv("TORCH_HOME", str(folder))
        yield {info.name: info for info in backbones()}


def test_the_list_starts_with_the_packaged_one_and_takes_its_numbers_from_timm(listed: dict[str, BackboneInfo]) -> None:
    assert next(iter(listed)) == "vit_small_focus"
    assert listed["vit_small_focus"].image_size == 224
    original = listed["vit_base_patch16_224.orig_in21k"]
    assert (original.parameters, original.mean, original.image_size) == (85.8, (0.5, 0.5, 0.5), 224)
    assert listed.keys() - RELEASES.keys() <= set(timm.list_pretrained())


def test_weights_in_a_cache_are_available(listed: dict[str, BackboneInfo]) -> None:
    found = [info.name for info in listed.values() if info.available]
    assert found == ["vit_small_focus", "vit_base_patch16_224.moco_v3"]


@pytest.mark.parametrize(
    ("name", "file", "user"),
    [
        ("vit_base_patch16_224.orig_in21k", "ViT-B_16.npz", "VPT"),
        ("vit_huge_patch14_224.orig_in21k", "ViT-H_14.npz", "RLRR"),
        (
            "vit_base_patch16_224.augreg_in21k",
            "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0.npz",
            "SSF",
        ),
        ("swin_base_patch4_window7_224.ms_in22k", "swin_base_patch4_window7_224_22k.pth", "HTA"),
        ("vit_base_patch16_224.mae", "mae_pretrain_vit_base.pth", "MoPPA"),
        ("vit_base_patch16_224.moco_v3", "vit-b-300ep.pth.tar", "SPT"),
        ("vit_base_patch14_dinov2.lvd142m", "dinov2_vitb14_pretrain.pth", "APLA"),
    ],
)
def test_the_list_names_the_file_of_the_release_and_who_used_it(
    name: str, file: str, user: str, listed: dict[str, BackboneInfo]
) -> None:
    assert listed[name].file == file
    assert user in listed[name].used_by
