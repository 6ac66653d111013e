"""`rlrr merge`."""

from __future__ import annotations

from typing import Any

from rlrr.cli.parser import Parser

USAGE = "RUN --output FOLDER [options]"
EXAMPLE = "rlrr merge run --output merged"


def add_arguments(parser: Parser) -> None:
    """Add the run and the folder."""
    parser.add_run()
    parser.add_argument(
        "--output", metavar="FOLDER", type=str, required=True, help="Folder for the plain model; it must not exist."
    )
    parser.add_images_to_compare()
    parser.add_json()


def run(options: Any) -> None:
    """Merge the run, and print the difference between the merged and the unmerged model."""
    from dataclasses import asdict

    from rlrr.cli.show import print_json
    from rlrr.interop.merge import merge
    from rlrr.words import counted

    merged = merge(options.run, options.output, images=options.images, weights=options.weights)
    if options.json:
        print_json(asdict(merged) | {"folder": str(merged.folder)})
        return
    print(f"merged model in {merged.folder}")
    if merged.difference is None:
        print("not compared with the unmerged model: there are no images, give some with --images")
    else:
        print(
            f"largest logit difference to the unmerged model on {counted(merged.images, 'image')}: "
            f"{merged.difference:.1e} (largest logit {merged.largest:.1f})"
        )
    folder = merged.folder.resolve()
    print(f'open it with timm.create_model("local-dir:{folder}", pretrained=True)')
    print(f'          or AutoModelForImageClassification.from_pretrained("{folder}")')
