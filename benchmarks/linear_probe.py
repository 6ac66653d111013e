"""How good can a linear probe be? Logistic regression on frozen features, regularised by the validation images.

    python benchmarks/linear_probe.py --data sample:mnist --model vit_small_focus --image_size 70

It solves the probe to the end, where `rlrr train --method linear` takes a few epochs of AdamW: a check that the
baseline is not made weak by its optimiser. Prints one JSON object.
"""

from __future__ import annotations

import json

import numpy as np
import torch
from jsonargparse import auto_cli
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from rlrr.backbones import Backbone, load_backbone
from rlrr.data import PreparedImages, Split, load_data
from rlrr.data.pipeline import preparation

STRENGTHS = (1e-3, 1e-2, 1e-1, 1, 10)


@torch.inference_mode()
def features(backbone: Backbone, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Features (images, width) and labels (images) of a split."""
    config = backbone.data_config
    images = PreparedImages(split, preparation(config), mean=config["mean"], std=config["std"])
    batches = torch.utils.data.DataLoader(images, 64)
    return torch.cat([backbone.model.eval()(batch["pixel_values"]) for batch in batches]).numpy(), np.array(
        split.labels
    )


def main(data: str, model: str, image_size: int | None = None, seed: int = 0) -> None:
    """Fit one probe for each strength of regularisation and test the one that validation chooses."""
    backbone = load_backbone(model, num_classes=0, image_size=image_size)
    content = load_data(data, seed=seed)
    assert content.test is not None, "data with test images is needed"
    train, val, test = (features(backbone, split) for split in (content.train, content.val, content.test))

    def fit(strength: float) -> Pipeline:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000)).fit(*train)

    probes = {strength: fit(strength) for strength in STRENGTHS}
    best = max(probes, key=lambda strength: probes[strength].score(*val))
    result = {"C": best, "val_accuracy": probes[best].score(*val), "test_accuracy": probes[best].score(*test)}
    print(json.dumps(result))


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
