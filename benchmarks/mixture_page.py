"""The page of bench_mixture.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from bivlm.studies.cells import divergence, escaped, made_by, markdown_table
from bivlm.studies.compare.result import Comparison
from bivlm.studies.compare.table import cells, columns_of, remarks

HIDDEN = (" ECE", " AUROC", " paper bits", " pack s", " peak memory", "parts", " top-1 agreement", " folder")
ROUTING = (
    *("preset", " sets", " visual", " text", " mass", " load", " KL"),
    *(" KL, routing of full precision", " KL of full precision, routing of this"),
)
PROFILE = ("entropy", "fewest", "most", "apart")


def page(comparisons: Mapping[str, Comparison], content: Mapping[str, Any], command: str) -> str:
    """The text: the comparisons, what the experts got, and the routing."""
    lines = ["# A mixture of experts at 1 to 3 bits", "", *_model(content)]
    for bits, found in comparisons.items():
        columns = {name: cell for name, cell in columns_of(found).items() if name not in HIDDEN}
        rows = (cells(row, columns) for row in found.rows)
        lines += [f"## About {bits} bits", "", *markdown_table(list(columns), rows), ""]
    told = remarks(next(iter(comparisons.values())))
    lines += [*(line for remark in told for line in (escaped(remark), "")), *_experts(content)]
    lines += [*_routing(content), *made_by(content["machine"], command)]
    return "\n".join(lines) + "\n"


def _model(content: Mapping[str, Any]) -> list[str]:
    """What the model is, and how it routes."""
    full = content["full_precision"]
    heads = ("layer", " entropy of the loads", " smallest load", " largest load", " visual and text apart")
    rows = [
        (str(number), *(f"{one[name]:.2f}" for name in PROFILE)) for number, one in enumerate(full["layers"])
    ]
    return [
        (
            "The embedded model's sister with experts (`bivlm/zoo/train_experts.py`): a Mixtral of four"
            " blocks in a LLaVA, 16 experts in every block, of which a token gets 2. Its routing, on the test"
            " questions with its own answers:"
        ),
        "",
        *markdown_table(heads, rows),
        "",
        (
            "Entropy: as a share of the largest possible. Loads: in units of the mean. Apart: half the sum"
            " of the differences between the loads of visual and text tokens, 0 for the same experts, 1 for"
            " others. The experts are no copies: with their names exchanged at random its own answers are"
            f" {full['kl_renamed']:.2f} nats away."
        ),
        "",
    ]


def _experts(content: Mapping[str, Any]) -> list[str]:
    """Bits and tokens of the experts where each has its own."""
    heads = ("about", "layer", " bits", " fewest", " most", " tokens, fewest", " median", " most")
    rows = [
        (bits, str(number), *(f"{row[name]:.2f}" for name in ("bits_per_weight", "fewest_bits", "most_bits")),
         *(f"{row[name]:.0f}" for name in ("fewest_tokens", "median_tokens", "most_tokens")))
        for bits, layers in content["experts"].items()
        for number, row in enumerate(layers)
    ]  # fmt: skip
    return [
        "## Bits of the experts",
        "",
        (
            "Where the budget is predicted from gradients every expert has bits of its own; where it is"
            " measured the experts of a layer share them. The linears of the experts with the fewest and the"
            " most bits, first draw, and the calibration tokens of an expert:"
        ),
        "",
        *markdown_table(heads, rows),
        "",
    ]


def _routing(content: Mapping[str, Any]) -> list[str]:
    """What quantizing does to the routing, and what that costs."""
    layers = len(content["full_precision"]["layers"])
    by_layer = ("preset", *(f" layer {number}" for number in range(layers)))
    by_preset: dict[str, list[Mapping[str, Any]]] = {}
    for row in content["routing"]:
        by_preset.setdefault(row["preset"], []).append(row)
    return [
        "## Routing",
        "",
        (
            "Of the tokens of all layers: sets, the share whose set of experts differs from full precision's"
            " (of all, of the visual, of the text tokens); mass, the share of the weight that full precision"
            " gives to experts that are no longer chosen; load, how far the experts' shares of the choices"
            " moved. Then the KL divergence of the packed model, of the packed model with the routing of full"
            " precision, and of the full-precision model with the packed one's routing. Means over the draws."
        ),
        "",
        *markdown_table(ROUTING, ((preset, *_drift(rows)) for preset, rows in by_preset.items())),
        "",
        "The share of the tokens whose set differs, by layer:",
        "",
        *markdown_table(by_layer, ((preset, *_sets(rows, layers)) for preset, rows in by_preset.items())),
        "",
    ]


def _drift(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    kept = list(rows)

    def mean(which: str, name: str) -> float:
        return fmean(layer[name] for row in kept for layer in row["drift"][which])

    shares = [mean(which, "tokens") for which in ("all", "visual", "text")]
    shares += [mean("all", "mass"), mean("all", "load")]
    costs = [fmean(row[name]["kl"] for row in kept) for name in ("free", "held", "moved")]
    return [*(f"{share:.1%}" for share in shares), *map(divergence, costs)]


def _sets(rows: Iterable[Mapping[str, Any]], layers: int) -> list[str]:
    kept = list(rows)
    return [f"{fmean(row['drift']['all'][n]['tokens'] for row in kept):.1%}" for n in range(layers)]
