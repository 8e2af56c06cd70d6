"""Whether a correction of the routers brings a packed mixture nearer to the full-precision model.

    make easy-llava-experts
    python benchmarks/bench_routers.py [--presets trellis-1,trellis-2] [--draws 3] [--samples 32]
        [--questions 200] [--json F] [--markdown F]

A packed model's router sees other inputs than the full-precision model's, and chooses other experts. Its
weights are kept in full precision, so correcting them costs no bits. The model is packed with several draws
of calibration questions, and each draw's own questions correct it, one router after the other:

as packed     nothing is corrected
bias          a constant for every expert: its logits have the full-precision model's mean
refitted      the weight W' with the smallest Σ ‖W' x - W x₀‖² + λ ‖W' - W‖², with x₀ the router's inputs in
              the full-precision model, x those in the packed one, and λ a tenth of the mean square of x
full routing  every token goes to the experts that the full-precision model chooses: what a correction could
              bring at best

Judged on test questions with the full-precision model's answers: the share of all tokens whose set of experts
differs, mean over the layers (with full routing: of the sets that its own routers ask for), and the KL
divergence. The means of all draws, and of the KL also the lowest
and the highest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bivlm
from bivlm.data.samples import read_samples
from bivlm.errors import InputError
from bivlm.eval.fidelity import ReferenceAnswers, collect_reference
from bivlm.types import Sample
from machine import describe
from preset_tables import closing, command_of, markdown_table, positive
from routing import Asked, Routing, drift, expert_layers, marks, means
from script import run_script

MODEL = Path(__file__).parent.parent / "build" / "easy-llava-experts"
BATCH, ANSWER, RIDGE = 32, 4, 0.1
WAYS = ("as packed", "bias", "refitted", "full routing")
COLUMNS = ("preset", "routers", " sets", " KL", " lowest", " highest", " geometric KL")
PAGE = """\
# Correcting routers

The embedded model's sister with experts, its language model packed; what is tried, and how it is judged,
stands in `benchmarks/bench_routers.py`. {draws} draws of {samples} calibration questions, {questions} test
questions. Sets: the share of the tokens whose set of experts differs; with full routing, of the sets that the
model's own routers ask for.
"""


class Judge:
    """The full-precision model, its answers to some questions, and its routing on the way."""

    def __init__(self, folder: Path, samples: Sequence[Sample]) -> None:
        self.model, self.processor = bivlm.load(folder, dtype=torch.float32)
        self.samples, self.reference, self.own = samples, self.answers(samples), Routing()
        self.asked(self.model, samples, self.reference).divergences(self.own)
        self.layers = expert_layers(self.model)

    def answers(self, samples: Sequence[Sample]) -> ReferenceAnswers:
        return collect_reference(self.model, self.processor, samples, batch_size=BATCH, max_new_tokens=ANSWER)

    def asked(self, model: Any, samples: Sequence[Sample], reference: ReferenceAnswers) -> Asked:
        return Asked(model, self.processor, samples, reference)

    def found(self, model: Any, given: Routing | None = None) -> dict[str, float]:
        """Of a packed model: sets that differ, and divergences, with its own routing or with a given one."""
        seen = Routing()
        mean, geometric = means(self.asked(model, self.samples, self.reference).divergences(seen, given))
        sets = [
            drift(self.own, seen, path, layer.num_experts).tokens  # pyright: ignore[reportArgumentType]
            for path, layer in self.layers.items()
        ]
        return {"sets": statistics.fmean(sets), "kl": mean, "geometric": geometric}


def routers(model: nn.Module) -> dict[str, nn.Module]:
    """The routers by path, in the order of the layers."""
    return {
        name: module for name, module in model.named_modules() if type(module).__name__.endswith("Router")
    }


def inputs_of(asked: Asked, names: Sequence[str]) -> dict[str, Tensor]:
    """What every router sees (tokens, in), float64, padding left out."""
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    seen, own = Routing(), routers(asked.model)
    with ExitStack() as hooks:
        for name in names:

            def keep(_module: nn.Module, args: tuple[Any, ...], name: str = name) -> None:
                found[name].append(args[0].detach().flatten(0, -2))

            hooks.callback(own[name].register_forward_pre_hook(keep).remove)
        asked.divergences(seen)
    real = marks(seen, "all")
    return {name: torch.cat(parts)[real].double() for name, parts in found.items()}


def refit(weight: Tensor, inputs: Tensor, exact: Tensor) -> Tensor:
    """The router's weight (experts, in) whose logits on `inputs` come nearest to the old ones on `exact`."""
    moment = inputs.T @ inputs / len(inputs)
    ridge = RIDGE * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    aim = weight @ (exact.T @ inputs / len(inputs) + ridge)
    return torch.linalg.solve(moment + ridge, aim.T).T


def measured(judge: Judge, packed: Path, calibration: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """The figures of every way, of one packed model."""
    model, _ = bivlm.load(packed, dtype=torch.float32)
    reference = judge.answers(calibration)
    names = list(routers(model))
    exact = inputs_of(judge.asked(judge.model, calibration, reference), names)
    found = {"as packed": judge.found(model), "full routing": judge.found(model, judge.own)}
    weights = {name: routers(judge.model)[name].weight.detach().double() for name in names}  # pyright: ignore

    def corrected(correct: Callable[[str, Tensor], None]) -> dict[str, float]:
        for name in names:
            correct(name, inputs_of(judge.asked(model, calibration, reference), [name])[name])
        return judge.found(model)

    with ExitStack() as hooks:

        def shift(name: str, inputs: Tensor) -> None:
            missing = weights[name] @ (exact[name] - inputs).mean(0)
            step = torch.linalg.lstsq(weights[name], missing[:, None]).solution[:, 0].float()
            own = routers(model)[name]
            hooks.callback(own.register_forward_pre_hook(lambda _m, args: (args[0] + step,)).remove)

        found["bias"] = corrected(shift)

    def replace(name: str, inputs: Tensor) -> None:
        weight: Any = routers(model)[name].weight
        weight.data.copy_(refit(weights[name], inputs, exact[name]))

    found["refitted"] = corrected(replace)
    return found


def report(options: argparse.Namespace) -> None:
    if not (options.model / "config.json").is_file():
        raise InputError(f"there is no model in {options.model}; run `make easy-llava-experts`")
    judge = Judge(options.model, read_samples("easy-vqa", split="test", limit=options.questions))
    rows: dict[str, list[dict[str, dict[str, float]]]] = {}
    for preset in options.presets.split(","):
        for draw in range(options.draws):
            samples = read_samples("easy-vqa", split="train", limit=options.samples, seed=draw)
            with tempfile.TemporaryDirectory() as folder:
                packed = bivlm.quantize(
                    options.model, Path(folder) / "out", recipe=preset, data=samples, parts=("language",)
                )
                rows.setdefault(preset, []).append(measured(judge, packed, samples))
            print(f"{preset}, draw {draw}", flush=True)
    table = [
        cells(preset, way, [one[way] for one in found]) for preset, found in rows.items() for way in WAYS
    ]
    text = "\n".join(markdown_table(COLUMNS, table))
    print(text)
    if options.json:
        kept = {"rows": rows, "machine": describe(), "command": command_of("bench_routers.py", sys.argv[1:])}
        options.json.write_text(json.dumps(kept), encoding="utf-8")
    if options.markdown:
        page = f"{PAGE.format(**vars(options))}\n{text}\n\n{closing('bench_routers.py')}"
        options.markdown.write_text(page, encoding="utf-8")


def cells(preset: str, way: str, found: Sequence[dict[str, float]]) -> list[str]:
    kl = [one["kl"] for one in found]
    sets, geometric = (statistics.fmean(one[what] for one in found) for what in ("sets", "geometric"))
    numbers = (statistics.fmean(kl), min(kl), max(kl), geometric)
    return [preset, way, f"{sets:.1%}", *(f"{value:.2e}" for value in numbers)]


def parse() -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model with experts")
    parser.add_argument("--presets", default="trellis-1,trellis-2", help="separated by commas")
    parser.add_argument("--draws", type=positive, default=3)
    parser.add_argument("--samples", type=positive, default=32, help="calibration questions of a draw")
    parser.add_argument("--questions", type=positive, default=200, help="test questions")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--markdown", type=Path, help="write the page here")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    return parser.parse_args()


def main() -> None:
    run_script("bench_routers", parse(), report)


if __name__ == "__main__":
    main()
