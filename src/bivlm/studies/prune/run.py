"""How many visual tokens a model can do without: accuracy, fidelity, time and memory for each pruner, block
and share that stays.

    reference answers, once ─► the model with all tokens ─► for each pruning:  prune
        ─► evaluate, time, measure the cache ─► OUT/runs/<pruning>.json
        ─► OUT/pruning.md, .json, .png

The reference is the same model without pruning, or another model (full precision). With `ranking` another
model's choice is tried too: how many of the tokens that the two models keep are the same, and what the model
answers when it keeps those that the other one would. A cell whose record was made from the same files, data
and settings is not made again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

from bivlm import __version__
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.shards import write_atomically
from bivlm.errors import InputError
from bivlm.eval.answer import inference, prepare
from bivlm.eval.fidelity import ReferenceAnswers, collect_reference
from bivlm.eval.metrics import METRICS_VERSION
from bivlm.eval.run import EvalResult, evaluate, in_batches
from bivlm.families import family_of
from bivlm.loading import check_model_folder, load
from bivlm.machine import machine, machine_line
from bivlm.pruning.apply import TokenPruning, prune
from bivlm.pruning.base import Candidates, Pruner, Queries
from bivlm.pruning.dropping.cache import cache_argument, cache_bytes
from bivlm.pruning.dropping.state import Decision
from bivlm.pruning.settings import Pruning
from bivlm.studies.compare.plot import require_matplotlib
from bivlm.studies.folder import RunFolder, digests, joined, model_files
from bivlm.studies.prune.plot import pruning_plot
from bivlm.studies.prune.table import PruningCell, PruningStudy, cell_line, pruning_markdown
from bivlm.types import Sample

OnProgress = Callable[[str, int, int], None]  # what is going on, how much of it is done, of how much
WHOLE = "no pruning"
ROUNDS, SECONDS = 5, 1.0  # a prefill is timed this often at least, and for this long


class PruningFolder(RunFolder):
    """OUT of a pruning study."""

    kind = "pruning study"
    mark_name = ".bivlm-prune"


@dataclass
class _Work:
    """What all cells of a study share."""

    model: Any
    processor: Any
    other: Any
    samples: Sequence[Sample]
    reference: ReferenceAnswers
    folder: PruningFolder
    fingerprint: dict[str, Any]
    max_new_tokens: int
    on_progress: OnProgress

    def evaluated(self, label: str) -> EvalResult:
        return evaluate(
            self.model,
            self.processor,
            self.samples,
            max_new_tokens=self.max_new_tokens,
            reference=self.reference,
            on_progress=lambda done, total: self.on_progress(f"{label}: questions", done, total),
        )


def study_pruning(
    model: str | Path,
    prunings: Sequence[Pruning],
    out: str | Path,
    *,
    samples: Sequence[Sample],
    reference: str | Path | None = None,
    ranking: bool = False,
    batch_size: int = 32,
    max_new_tokens: int = 16,
    command: str = "",
    say: Callable[[str], None] = lambda line: None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> PruningStudy:
    """Measure `model` under every pruning on `samples`; table, numbers and heat map go into the folder `out`.

    `reference` is the model that KL and agreement are measured against, the same one without pruning when
    None; `ranking` tries its choice of tokens too. Raises InputError, before anything long, for what the user
    has to mend.
    """
    _check(prunings, samples, reference, ranking)
    require_matplotlib()
    folder = PruningFolder(Path(out))
    places = [resolve_model(model), *([] if reference is None else [resolve_model(reference)])]
    on_progress("loading", 0, 1)
    loaded, processor = load(places[0], expand=True, pruning=None)
    other = load(places[1], expand=True, pruning=None)[0] if reference is not None else None
    for pruning in prunings:
        TokenPruning(loaded, pruning)  # refuses what this model cannot do
    fingerprint = {
        "models": [model_files(place) for place in places],
        "samples": joined(digests(samples)),
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
        "metrics": METRICS_VERSION,
        "ranking": ranking,
        "bivlm": __version__,
    }
    with folder:
        answers = _reference(
            folder,
            fingerprint,
            loaded if other is None else other,
            processor,
            samples,
            batch_size,
            max_new_tokens,
            on_progress,
        )
        if not ranking:
            other = None
        work = _Work(
            loaded, processor, other, samples, answers, folder, fingerprint, max_new_tokens, on_progress
        )
        whole = _whole(work)
        cells = []
        for pruning in prunings:
            cells.append(_cell(work, pruning))
            say(cell_line(cells[-1]))
        found = PruningStudy(
            model=places[0].resolve().name,
            reference=places[-1].resolve().name if reference is not None else WHOLE,
            questions=len(samples),
            cells=tuple(cells),
            machine=machine_line(machine()),
            command=command,
            **whole,
        )
        write_study(found, folder.out, "pruning")
    return found


def default_layers(model: str | Path) -> list[int]:
    """Six blocks over the depth of a model's language model, or all of fewer: the first ones, where most is
    to be won, and every quarter.

    Raises InputError for what is no folder of a supported model.
    """
    folder = resolve_model(model)
    check_model_folder(folder)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    depth = config.get_text_config().num_hidden_layers
    return sorted({layer for layer in (0, 1, 2, depth // 4, depth // 2, 3 * depth // 4) if layer < depth})


def write_study(found: PruningStudy, folder: Path, name: str) -> None:
    """`name`.json, `name`.png and `name`.md."""
    write_atomically(
        folder / f"{name}.json", json.dumps(found.to_dict(), indent=1, ensure_ascii=False) + "\n"
    )
    pruning_plot(found, folder / f"{name}.png")
    write_atomically(folder / f"{name}.md", pruning_markdown(found, picture=f"{name}.png"))


def _check(
    prunings: Sequence[Pruning], samples: Sequence[Sample], reference: str | Path | None, ranking: bool
) -> None:
    if not prunings:
        raise InputError("no pruning is given; name a pruner, a layer and a share that stays")
    if not samples or any(not sample.answers for sample in samples):
        raise InputError("a pruning study needs questions, each with an answer to compare with")
    if ranking and reference is None:
        raise InputError("comparing rankings needs the other model; give it as the reference")


def _reference(
    folder: PruningFolder,
    fingerprint: dict[str, Any],
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    batch_size: int,
    max_new_tokens: int,
    on_progress: OnProgress,
) -> ReferenceAnswers:
    """The reference's answers and logits, on the disk: those of an earlier call when they are whole and were
    made from the same.
    """
    known, present = folder.finished("reference", fingerprint), folder.open_reference()
    if known is not None and present is not None:
        return present
    shutil.rmtree(folder.reference, ignore_errors=True)
    answers = collect_reference(
        model,
        processor,
        samples,
        folder.reference,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        on_progress=lambda done, total: on_progress("reference: questions", done, total),
    )
    folder.write_run("reference", {"fingerprint": fingerprint})
    return answers


def _whole(work: _Work) -> dict[str, Any]:
    """The model with all its tokens."""
    known = work.folder.finished("whole", work.fingerprint)
    if known is None:
        prune(work.model, None)
        result = work.evaluated(WHOLE)
        inputs = _one_prompt(work)
        row = {
            "metric": result.metric,
            "accuracy": result.accuracy,
            "interval": list(result.interval),
            "kl": result.kl,
            "visual_tokens": _visual_tokens(work.model, inputs),
            "prefill_seconds": median(_prefill(work.model, inputs)[0] for _ in range(ROUNDS)),
            "cache_bytes": _prefill(work.model, inputs)[1],
        }
        known = {"fingerprint": work.fingerprint, "row": row}
        work.folder.write_run("whole", known)
    return {**known["row"], "interval": tuple(known["row"]["interval"])}


def _cell(work: _Work, pruning: Pruning) -> PruningCell:
    name, fingerprint = str(pruning).replace(":", "@"), {**work.fingerprint, "pruning": pruning.to_dict()}
    known = work.folder.finished(name, fingerprint)
    if known is None:
        try:
            cell = _measured(work, pruning)
        finally:
            prune(work.model, None)
        known = {"fingerprint": fingerprint, "row": asdict(cell)}
        work.folder.write_run(name, known)
    return PruningCell.from_dict(known["row"])


def _measured(work: _Work, pruning: Pruning) -> PruningCell:
    label = str(pruning)
    heard = _Heard()
    prune(work.model, pruning, on_decision=heard)
    result = work.evaluated(label)
    seconds, cache = _ratios(work.model, _one_prompt(work), pruning)
    others: dict[str, Any] = {}
    if work.other is not None and pruning.keep < 1:
        chosen = _choices_of_other(work, pruning)
        prune(work.model, pruning, pruner=_Replay([stay for stay, offered in chosen if len(stay) < offered]))
        by_other = work.evaluated(f"{label}, the other's ranking")
        others = {
            "overlap": _overlap(heard.choices, chosen),
            "accuracy_by_other": by_other.accuracy,
            "kl_by_other": by_other.kl,
        }
    return PruningCell(
        pruner=pruning.name + "".join(f",{key}={value}" for key, value in pruning.own_settings.items()),
        site=pruning.site,
        layer=pruning.layer,
        keep=pruning.keep,
        tokens=pruning.tokens,
        accuracy=result.accuracy,
        interval=result.interval,
        kl=result.kl,
        top1_agreement=result.top1_agreement,
        kept_tokens=fmean([len(stay) for stay, _ in heard.choices]) if heard.choices else None,
        prefill=seconds,
        cache=cache,
        **others,
    )


@dataclass
class _Heard:
    """Collects what a pruning chose, prompt by prompt: which candidates stay, and of how many."""

    choices: list[tuple[Tensor, int]] = field(default_factory=list)

    def __call__(self, decision: Decision) -> None:
        self.choices += zip(decision.chosen, decision.offered, strict=True)


@dataclass
class _Replay(Pruner):
    """Chooses what was chosen before, in the same order of prompts."""

    name: ClassVar[str] = "replay"

    choices: list[Tensor]
    place: int = 0

    @property
    def queries(self) -> Queries | None:
        return None

    def select(self, candidates: Candidates, k: int) -> Tensor:
        chosen = self.choices[self.place]
        self.place += 1
        assert len(chosen) == k, (len(chosen), k)
        return chosen


def _choices_of_other(work: _Work, pruning: Pruning) -> list[tuple[Tensor, int]]:
    """What the other model would keep of the same prompts."""
    heard = _Heard()
    prune(work.other, pruning, on_decision=heard)
    try:
        with inference(work.other):
            for batch in in_batches(work.samples, 1, work.reference):
                work.other(
                    **prepare(work.other, work.processor, family_of(work.other.config), batch),
                    use_cache=False,
                    logits_to_keep=1,
                )
    finally:
        prune(work.other, None)
    return heard.choices


def _overlap(one: Sequence[tuple[Tensor, int]], other: Sequence[tuple[Tensor, int]]) -> float | None:
    """Mean share of the kept tokens that both keep; None when nothing was dropped."""
    shares = [
        torch.isin(mine, theirs).float().mean().item()
        for (mine, count), (theirs, _) in zip(one, other, strict=True)
        if len(mine) < count
    ]
    return fmean(shares) if shares else None


def _one_prompt(work: _Work) -> dict[str, Tensor]:
    return prepare(work.model, work.processor, family_of(work.model.config), work.samples[:1])


def _visual_tokens(model: Any, inputs: dict[str, Tensor]) -> int:
    """How many visual tokens a prompt offers to a pruner: those in it, or those that cross-attention looks
    at.
    """
    heard = _Heard()
    prune(model, Pruning("grid", keep=0.5), on_decision=heard)
    _prefill(model, inputs)
    prune(model, None)
    return heard.choices[0][1] if heard.choices else 1  # half of one token is one: nothing to decide


def _prefill(model: Any, inputs: dict[str, Tensor]) -> tuple[float, int]:
    """Seconds to the first token's logits, image encoding included, and the bytes of the cache that they
    leave.
    """
    cache = DynamicCache(config=model.config.get_text_config())
    with inference(model):
        start = time.perf_counter()
        model(**inputs, **cache_argument(model, cache), use_cache=True, logits_to_keep=1)
        return time.perf_counter() - start, cache_bytes(cache)


def _ratios(model: Any, inputs: dict[str, Tensor], pruning: Pruning) -> tuple[float, float]:
    """Time to first token and bytes of the cache, as ratios to no pruning, measured in turns: medians of at
    least ROUNDS.
    """
    times: dict[bool, list[float]] = {False: [], True: []}
    sizes: dict[bool, int] = {}
    started = time.perf_counter()
    while len(times[True]) < ROUNDS or time.perf_counter() - started < SECONDS:
        for cut in (False, True):
            prune(model, pruning if cut else None)
            seconds, sizes[cut] = _prefill(model, inputs)
            times[cut].append(seconds)
    return median(times[True]) / median(times[False]), sizes[True] / sizes[False]
