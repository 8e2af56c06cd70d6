"""What bivlm can do with every model type that `AutoModelForImageTextToText` of the installed transformers
builds: the table of docs/families.md.

    python benchmarks/family_table.py [--only TYPE,TYPE] [--json F] [--markdown docs/families.md]

Rows that the JSON file has already are not made again, unless `--only` names them.

Each type is tried with a small seeded random model: its default config (family_configs.py where the default
makes no model that runs), shrunk as bivlm shrinks a model to find its structure. No weights of the hub and no
processors are used; the inputs are made up. For each type:

    found      the structure was found by three forward passes of the small model
    replayed   the model's forward pass, paused at every block, gives the same logits, bit for bit
    packed     `bivlm.quantize` packs the saved model to 2 bits (round to nearest); loaded again, with the
               packed weights decoded, it gives the logits of the model with the decoded weights, bit for bit
    pruned     a forward pass drops half of the visual tokens before the second language block; the tokens
               that stay have the logits of the whole model with the dropped tokens masked (rounding apart)
    tower      the same, where half of the patches leave the vision tower before its second block
    share      weights that can be packed, of all weights of the config (not of the small copy)
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import re
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import bivlm
from bivlm import families
from bivlm.calibration.streams import replay
from bivlm.cli.shared import quiet_libraries
from bivlm.errors import InputError, cut
from bivlm.eval.structure import count_weights
from bivlm.families import family_of
from bivlm.families.base import block_paths
from bivlm.families.experts import split_experts
from bivlm.families.found.find import auto_class_of, small_model, structure_of
from bivlm.families.found.structure import Structure
from bivlm.families.found.tracing import run
from bivlm.packed.module import expand_weights, packed_modules
from bivlm.quantizers import RTN
from family_configs import FITTED, SMALL_IMAGES, SPECIAL
from masked_model import pruning_differs

SECONDS, MEMORY = 300, 8 << 30  # of processor time, for one type; bytes of address space
PRUNING, IN_TOWER = "attention:layer=1,keep=0.5", "attention:site=vision,layer=1,keep=0.5"
STEPS = ("found", "replayed", "packed", "pruned", "tower")


@dataclass
class Row:
    """One model type: whether each step went well, what stopped it, and the share of weights packed."""

    model_type: str
    declared: bool
    default: bool
    found: bool = False
    replayed: bool | None = None
    packed: bool | None = None
    pruned: bool | None = None
    tower: bool | None = None
    share: float | None = None
    experts: bool = False
    reason: str = ""


class OutOfTime(Exception):
    """One type took too long."""


def try_type(model_type: str) -> Row:
    """Every step for one type, in a process of its own with limits of time and memory. A step that fails says
    why, and the later ones are left out.
    """
    forking = multiprocessing.get_context("fork")
    ours, theirs = forking.Pipe(duplex=False)
    process = forking.Process(target=_try_here, args=(model_type, theirs))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return replace(_row(model_type), reason=f"the process ended: more than {MEMORY >> 30} GiB of memory?")
    finally:
        process.join()


def _row(model_type: str) -> Row:
    return Row(model_type, model_type in families.FAMILIES, model_type not in SPECIAL)


def config_of(model_type: str) -> Any:
    """The default config, with parts that fit together; or the special one."""
    fields = FITTED.get(model_type, SPECIAL.get(model_type, {}))
    return transformers.CONFIG_MAPPING[model_type](**fields)


def _try_here(model_type: str, answer: Connection) -> None:
    row = _row(model_type)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _steps(row, Path(folder))
    except Exception as error:  # a model may raise anything; the table says what
        kind = "" if isinstance(error, InputError) else f"{type(error).__name__}: "
        row.reason = cut(f"{kind}{error}".strip().partition("\n")[0], 240)
    answer.send(row)


def _ring(*_: object) -> None:
    raise OutOfTime(f"more than {SECONDS} seconds of processor time")


def _steps(row: Row, folder: Path) -> None:
    config, shrunk = config_of(row.model_type), config_of(row.model_type)
    for part, name, value in SMALL_IMAGES.get(row.model_type, ()):
        setattr(getattr(shrunk, part), name, value)
    auto_model = getattr(transformers, auto_class_of(row.model_type))
    small = small_model(shrunk, auto_model, None)
    structure = structure_of(small, config)
    row.found = True
    row.share, row.experts = _share(config, structure)
    model, inputs = small.model, small.three.question
    row.replayed = _replays(model, inputs, structure)
    if not row.replayed:
        row.reason = "the paused forward pass gives other logits"
    model.save_pretrained(folder / "model")
    row.packed = False
    bivlm.quantize(
        folder / "model", folder / "packed", recipe=RTN(bits=2, group_size=32), allow_kept_experts=True
    )
    loaded = auto_model.from_pretrained(folder / "packed", dtype=torch.float32).eval()
    expand_weights(loaded)
    row.packed = _is_exact(model, loaded, inputs)
    if not row.packed:
        row.reason = "the loaded model gives other logits than its decoded weights"
    row.pruned = False
    why = pruning_differs(loaded, inputs, PRUNING)
    row.pruned = not why
    row.reason, row.tower = row.reason or why, False
    if family_of(loaded.config).patch_tokens is not None:
        why = pruning_differs(loaded, inputs, IN_TOWER)
        row.reason, row.tower = row.reason or why, not why


def _share(config: Any, structure: Structure) -> tuple[float, bool]:
    """The share of the weights that can be packed, and whether there are experts among the others."""
    with torch.device("meta"):
        full = getattr(transformers, structure.auto_class).from_config(config, dtype=torch.bfloat16)
    split_experts(full)
    rows, _ = count_weights(full, structure)
    return sum(row.share for row in rows if not row.reason), any(row.what == "experts" for row in rows)


def _replays(model: Any, inputs: Mapping[str, Any], structure: Structure) -> bool:
    """Whether the forward pass, paused at every block, gives the same logits, and comes to all of them."""
    paths = [block for stack in structure.stacks for block in block_paths(model, stack.path)]
    found, ran = replay(lambda: run(model, inputs), {path: model.get_submodule(path) for path in paths})
    return _equal(run(model, inputs), found) and {*ran} == {*paths}


def _is_exact(model: Any, loaded: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether the loaded model gives the logits of `model` with the decoded weights in it."""
    split_experts(model)
    with torch.no_grad():
        for name, module in packed_modules(loaded).items():
            model.get_submodule(name).weight.copy_(module.dequantize())
    for parameter in loaded.parameters():  # as they lie in the file they may be rounded in another order
        parameter.data = parameter.data.clone()
    return _equal(run(model, inputs), run(loaded, inputs))


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    """Whether both are tensors, and the same."""
    return one is not None and other is not None and bool(torch.equal(one, other))


MARKS: Mapping[bool | None, str] = {True: "yes", False: "no", None: ""}


def _why(row: Row) -> str:
    """What stopped a type, without what every row would say, and without paths of this machine."""
    if not row.reason:
        return "stacked experts stay" if row.experts else ""
    said = re.sub(r"the structure of '.*?' could not be found: ", "", row.reason)
    said = said.partition("; a decl")[0]
    return re.sub(r"/\S+/model\S*?(?=:? )", "the saved model", said).replace("|", "/")


def page(rows: Sequence[Row], command: str) -> str:
    """docs/families.md."""
    lines = [
        "# Which models can be packed",
        "",
        (
            f"Every model type that `AutoModelForImageTextToText` of transformers {transformers.__version__}"
            f" builds: {len(rows)}. Found: {sum(row.found for row in rows)}. Packed and loaded again,"
            f" exactly: {sum(bool(row.packed) for row in rows)}. This page is the output of"
        ),
        "",
        f"    {command}",
        "",
        (
            "A declared family is written down in `src/bivlm/families`; the structure of every other model is"
            " found when it is packed ([adding](adding.md)). The table is made with small random models,"
            " without the hub's weights and processors:"
        ),
        "",
        "- **found**: forward passes of a small copy show the stacks of blocks, their parts and what stays.",
        "- **replayed**: the forward pass, paused at every block, gives the same logits, bit for bit.",
        "- **packed**: packed to 2 bits and loaded again, the model computes exactly with these weights.",
        (
            "- **pruned**: a forward pass drops half of the visual tokens after the first language block, and"
            " the tokens that stay have the logits of the whole model with the dropped tokens masked."
        ),
        "- **tower**: the same, where half of the patches leave the vision tower after its first block.",
        (
            "- **share**: the weights that can be packed, of all weights of the default config. A star: of a"
            " small config, because the type's default config makes no model that runs. Experts that are"
            " stacked in one parameter count as packed where transformers marks them (`SplitExperts`)."
        ),
        "",
        (
            "Models that see and do not speak (SAM, vision towers alone) are not built by that class:"
            " [vision](vision.md) lists them."
        ),
        "",
        (
            "A small copy that does not run speaks of default configs and made-up inputs alone: a real folder"
            " brings its own config and its own processor, and may be found. A model with code of its own, of"
            " which transformers has no class, is found in the same way with `--trust-remote-code`"
            " ([trust](trust.md))."
        ),
        "",
        "| model type | declared | found | replayed | packed | pruned | tower | share | why not |",
        "|---|:-:|:-:|:-:|:-:|:-:|:-:|--:|---|",
    ]
    for row in rows:
        share = "" if row.share is None else f"{row.share:.0%}{'' if row.default else '*'}"
        marks = " | ".join(MARKS[getattr(row, step)] for step in STEPS)
        declared = "yes" if row.declared else ""
        lines.append(f"| {row.model_type} | {declared} | {marks} | {share} | {_why(row)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", default="", help="model types, separated by commas")
    parser.add_argument("--json", type=Path, help="also write the rows as JSON")
    parser.add_argument("--markdown", type=Path, help="write the page")
    options = parser.parse_args(arguments)
    quiet_libraries()
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    known = list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    kept = json.loads(options.json.read_text()) if options.json and options.json.exists() else []
    rows = {row["model_type"]: Row(**row) for row in kept}
    for model_type in options.only.split(",") if options.only else known:
        if model_type not in rows or options.only:
            rows[model_type] = try_type(model_type)
            print(rows[model_type], flush=True)
        if options.json:
            content = json.dumps([asdict(row) for row in rows.values()], indent=1)
            options.json.write_text(content + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(
            page(
                [rows[name] for name in known if name in rows],
                "python benchmarks/family_table.py --markdown docs/families.md",
            )
        )


if __name__ == "__main__":
    main(sys.argv[1:])
