"""`rlrr predict`."""

from __future__ import annotations

from typing import Any

from rlrr.cli.parser import Parser

USAGE = "RUN IMAGE [IMAGE ...] [options]"
EXAMPLE = "rlrr predict run photo.jpg holiday/*.jpg --top-k 3"


def add_arguments(parser: Parser) -> None:
    """Take the run, and the images."""
    parser.add_run()
    parser.add_argument("images", metavar="IMAGE", type=str, nargs="+", help="Images to classify.")
    parser.add_argument("--top_k", type=int, default=5, help="Number of most likely classes to print for each image.")
    parser.add_argument("--json", type=bool, default=False, help="Print the result as JSON.")


def run(options: Any) -> None:
    """Classify the images, and print a line for each."""
    from rlrr.cli.show import print_json
    from rlrr.errors import UsageError
    from rlrr.inference.predict import load

    if options.top_k < 1:
        raise UsageError(f"--top-k must be 1 or more, not {options.top_k}.")
    predictions = load(options.run, weights=options.weights).predict(options.images, options.top_k)
    tops = [list(zip(image.classes, image.probabilities, strict=True)) for image in predictions]
    if options.json:
        print_json(
            [
                {"image": image.image, "top": [{"class": name, "probability": p} for name, p in top]}
                for image, top in zip(predictions, tops, strict=True)
            ]
        )
        return
    for image, top in zip(predictions, tops, strict=True):
        print(f"{image.image}: " + ", ".join(f"{name} {p:.1%}" for name, p in top))
