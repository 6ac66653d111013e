"""`rlrr export`."""

from __future__ import annotations

from typing import Any

from rlrr.cli.parser import Parser

USAGE = "RUN --output FILE [options]"
EXAMPLE = "rlrr export run --output flowers.onnx"


def add_arguments(parser: Parser) -> None:
    """Add the run, the file and the options of the export."""
    parser.add_run()
    parser.add_argument("--output", metavar="FILE", type=str, required=True, help="File to write; it must not exist.")
    parser.add_images_to_compare()
    parser.add_argument(
        "--opset", type=int | None, default=None, help="Version of the ONNX operators; by default torch's choice."
    )
    parser.add_json()


def run(options: Any) -> None:
    """Export the run to ONNX, and print the difference between the file and PyTorch."""
    from dataclasses import asdict

    from rlrr.cli.show import print_json
    from rlrr.interop.onnx import export_onnx
    from rlrr.words import counted

    parity = export_onnx(
        options.run, options.output, images=options.images, opset=options.opset, weights=options.weights
    )
    if options.json:
        print_json({"file": options.output} | asdict(parity))
        return
    sizes = " and ".join(map(str, parity.batch_sizes))
    print(f"ONNX model in {options.output} (opset {parity.opset})")
    if not parity.merged:
        print("the file holds the adapted model: the method's update cannot be written into the weights")
    print(f"compared with PyTorch on {counted(parity.images, 'image')} ({parity.compared_on}), in batches of {sizes}:")
    print(
        f"largest logit difference {parity.difference:.1e} ({parity.relative_difference:.1e} of the largest logit), "
        f"same class for {parity.same_class} of {parity.images}"
    )
    print(f"written beside it: {options.output}.parity.json")
