"""What `bivlm recount` says of the embedded model in three forms: docs/results/recount.md and .png.

    python benchmarks/recount_results.py

Packed by two presets, and as GGUF the way small releases are made: language linears ternary, the rest in
eight and sixteen bits, the tower in a file of its own. Needs the packages gguf and matplotlib.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from bivlm.cli.shared import quiet_libraries
from bivlm.data.samples import read_samples
from bivlm.job.run import quantize
from bivlm.recount.plot import recount_plot
from bivlm.recount.result import PartRow, Recount
from bivlm.recount.run import recount
from bivlm.studies.cells import markdown_table, number, size
from bivlm.zoo import embedded_model

RESULTS = Path(__file__).parent.parent / "docs" / "results"
NAME, SAMPLES = "easy-llava", 32
HEADS = ("", " weights", " bytes", " bits per weight", " packed", " bits of the packed", "stored as")
# the embedded model's names, as GGUF has them
RULES = (
    (r"language_model\.model\.embed_tokens\.", "token_embd."),
    (r"language_model\.model\.norm\.", "output_norm."),
    (r"language_model\.model\.layers\.(\d+)\.", r"blk.\1."),
    (r"self_attn\.(q|k|v)_proj\.", r"attn_\1."),
    (r"self_attn\.(?:o|out)_proj\.", "attn_output."),
    (r"mlp\.(gate|up|down)_proj\.", r"ffn_\1."),
    (r"mlp\.fc1\.", "ffn_up."),
    (r"mlp\.fc2\.", "ffn_down."),
    (r"input_layernorm\.", "attn_norm."),
    (r"post_attention_layernorm\.", "ffn_norm."),
    (r"vision_tower\.encoder\.layers\.(\d+)\.", r"v.blk.\1."),
    (r"vision_tower\.embeddings\.(patch|position)_embedding\.", r"v.\1_embd."),
    (r"vision_tower\.post_layernorm\.", "v.post_ln."),
    (r"layer_norm(\d)\.", r"ln\1."),
    (r"multi_modal_projector\.linear_(\d)\.", r"mm.\1."),
)


def gguf_name(name: str) -> str:
    for pattern, ours in RULES:
        name = re.sub(pattern, ours, name)
    return name


def write_gguf(tensors: dict[str, Tensor], path: Path, architecture: str) -> None:
    """The tensors as GGUF: matrices of blocks ternary, tables in eight bits, the tower in sixteen, norms and
    biases in 32.
    """
    import gguf

    writer = gguf.GGUFWriter(path, architecture)
    for name, tensor in tensors.items():
        kind = gguf.GGMLQuantizationType.F32
        if tensor.dim() > 1:
            kind = (
                gguf.GGMLQuantizationType.TQ1_0 if name.startswith("blk.") else gguf.GGMLQuantizationType.F16
            )
            kind = gguf.GGMLQuantizationType.Q8_0 if name.startswith("token_embd.") else kind
        writer.add_tensor(name, gguf.quants.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_gguf(folder: Path) -> Path:
    """The embedded model as a text file and a tower file in the folder."""
    tensors = {
        gguf_name(key): tensor for key, tensor in load_file(embedded_model() / "model.safetensors").items()
    }
    towers = {key: tensor for key, tensor in tensors.items() if key.startswith(("v.", "mm."))}
    folder.mkdir()
    write_gguf({k: t for k, t in tensors.items() if k not in towers}, folder / f"{NAME}-TQ1_0.gguf", "llama")
    write_gguf(towers, folder / f"mmproj-{NAME}-F16.gguf", "clip")
    return folder


def page(found: list[Recount]) -> list[str]:
    lines = ["# The embedded model, recounted", "", "![bits of every part](recount.png)", ""]
    for one in found:
        files = PartRow("files", one.total.weights, one.file_bytes, 0, None, 0, {})
        rows = [cells(row) for row in (*one.rows, one.total, files)]
        lines += [f"## {one.name}", "", *markdown_table(HEADS, rows), ""]
        told = [f"{claim.where}: {claim.words}, that is {claim.bits:g}" for claim in one.claims]
        lines += [f"- {line}" for line in (*told, *one.remarks)] + [""]
    return [
        *lines,
        "Made by `make results` (`benchmarks/recount_results.py`); nothing here depends on the machine.",
    ]


def cells(row: PartRow) -> list[str]:
    kinds = ", ".join(f"{kind} {nbytes / row.nbytes:.0%}" for kind, nbytes in row.stored_as.items())
    packed = (str(row.packed), number(row.packed_bits, ".3f")) if row.packed else ("", "")
    return [row.name, f"{row.weights:,}", size(row.nbytes), number(row.bits, ".3f"), *packed, kinds]


def main() -> None:
    quiet_libraries()
    with tempfile.TemporaryDirectory() as work:
        places = [make_gguf(Path(work) / "gguf")]
        for preset in ("rtn-2", "trellis-2"):
            data = read_samples("easy-vqa", split="train", limit=SAMPLES) if preset == "trellis-2" else ()
            places.append(
                quantize(embedded_model(), Path(work) / f"{NAME}-{preset}", recipe=preset, data=data)
            )
        found = [renamed(one) for place in places for one in recount(place)]
        recount_plot(found, RESULTS / "recount.png")
    (RESULTS / "recount.md").write_text("\n".join(page(found)) + "\n")


def renamed(found: Recount) -> Recount:
    """Without the folder that this script works in."""
    return replace(found, name=Path(found.name).name)


if __name__ == "__main__":
    main()
