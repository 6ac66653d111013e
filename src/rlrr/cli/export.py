"""`rlrr export`."""

from __future__ import annotations

from typing import Any, Literal

from rlrr.cli.parser import Parser
from rlrr.errors import UsageError

USAGE = "RUN --output FILE [options]"
EXAMPLE = "rlrr export run --output flowers.onnx"


def add_arguments(parser: Parser) -> None:
    """Which run, as what, and where to."""
    parser.add_run()
    parser.add_argument("--output", metavar="FILE", type=str, required=True, help="File to write; it must not exist.")
    parser.add_argument(
        "--format",
        type=Literal["onnx", "official"],
        default="onnx",
        help="ONNX, merged and compared with PyTorch; or the .pth file that the paper's trainer would save.",
    )
    parser.add_images_to_compare()
    parser.add_argument(
        "--opset", type=int | None, default=None, help="Version of the ONNX operators; torch's choice if not given."
    )


def run(options: Any) -> None:
    """Export; of ONNX, say how far it is from PyTorch."""
    if options.format == "official":
        if options.images or options.opset:
            raise UsageError("--images and --opset are options of --format onnx: leave them out.")
        from rlrr.interop.paper_file import export_official

        path = export_official(options.run, options.output, weights=options.weights)
        print(f"checkpoint of the paper's code in {path}")
        return
    from rlrr.interop.onnx import export_onnx

    parity = export_onnx(
        options.run, options.output, images=options.images, opset=options.opset, weights=options.weights
    )
    sizes = " and ".join(map(str, parity.batch_sizes))
    print(f"ONNX model in {options.output} (opset {parity.opset})")
    print(f"compared with PyTorch on {parity.images} images ({parity.compared_on}), in batches of {sizes}:")
    print(
        f"largest logit difference {parity.difference:.1e} ({parity.relative_difference:.1e} of the largest logit), "
        f"same class for {parity.same_class} of {parity.images}"
    )
    print(f"written beside it: {options.output}.parity.json")
