"""How many visual tokens a model can do without: accuracy, fidelity, time and memory for each pruner, block
and share that stays.

    reference answers, once ─► the model with all tokens ─► for each pruning:  prune
        ─► evaluate, time, measure the cache ─► OUT/runs/<pruning>.json ─► PruningStudy

The reference is the same model without pruning, or another model (full precision). With `ranking` the choice
of another model is tried too: the study measures the overlap of the kept tokens of both models, and the
answers of the model with the tokens that the other one keeps. A cell is not repeated if its record is from
the same files, data and settings. `page.write_page` makes the tables and the heat map of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bivlm.checkpoint.complete import check_model_folder
from bivlm.checkpoint.hub import resolve_model
from bivlm.checkpoint.shards import read_json
from bivlm.errors import InputError
from bivlm.eval.answer import inference, prepare
from bivlm.eval.fidelity import ReferenceAnswers
from bivlm.eval.run import check_answers, in_batches
from bivlm.families import family_of
from bivlm.families.last_logits import keeping
from bivlm.families.remote_code import read_config
from bivlm.loading import load
from bivlm.machine import machine, machine_line
from bivlm.pruning.apply import TokenPruning, prune
from bivlm.pruning.settings import Pruning
from bivlm.studies.folder import RunFolder, digests, joined, model_files
from bivlm.studies.prune.choices import Heard, Replay, overlap
from bivlm.studies.prune.result import PruningCell, PruningStudy
from bivlm.studies.prune.table import cell_line
from bivlm.studies.prune.timing import prefill, prefill_ratios, whole_prefill
from bivlm.studies.study import DEFAULT_SETTINGS, RunSettings, Study
from bivlm.types import Sample

WHOLE = "no pruning"


class PruningFolder(RunFolder):
    """OUT of a pruning study."""

    kind = "pruning study"
    mark_name = ".bivlm-prune"


def study_pruning(
    model: str | Path,
    prunings: Sequence[Pruning],
    out: str | Path,
    *,
    samples: Sequence[Sample],
    reference: str | Path | None = None,
    ranking: bool = False,
    settings: RunSettings = DEFAULT_SETTINGS,
) -> PruningStudy:
    """Measure `model` under every pruning on `samples`; the finished cells are kept in the folder `out`.

    `reference` is the model that KL and agreement are measured against, the same one without pruning when
    None; `ranking` tries its choice of tokens too. Raises InputError, before any long work, for every mistake
    that the user has to correct.
    """
    _check(prunings, samples, reference, ranking)
    folder = PruningFolder(Path(out))
    trusted = settings.trust_remote_code
    places = [resolve_model(place, trusted) for place in (model, reference) if place is not None]
    how: dict[str, Any] = {
        "device": settings.device,
        "expand": True,
        "pruning": None,
        "trust_remote_code": trusted,
    }
    loaded, processor = load(places[0], **how)
    other = None if reference is None else load(places[1], **how)[0]
    for pruning in prunings:
        TokenPruning(loaded, pruning)  # refuses what this model cannot do
    fingerprint = {
        "models": [model_files(place) for place in places],
        "samples": joined(digests(samples)),
        **settings.fingerprint(),
        "ranking": ranking,
    }
    with folder:
        work = _Sweep(folder, samples, fingerprint, settings, loaded, processor, other)
        answers = work.reference()
        if not ranking:
            other, work = None, replace(work, other=None)  # its answers are kept, its weights need not be
        whole = work.whole(answers)
        cells = tuple(work.cell(pruning, answers) for pruning in prunings)
    return PruningStudy(
        model=places[0].resolve().name,
        reference=places[-1].resolve().name if reference is not None else WHOLE,
        questions=len(samples),
        cells=cells,
        machine=machine_line(machine()),
        command=settings.command,
        **whole,
    )


def default_layers(model: str | Path, trust_remote_code: bool = False) -> list[int]:
    """Six blocks over the depth of a model's language model, or all if there are fewer: the first ones, where
    most can be gained, and every quarter.

    Raises InputError if the folder is not that of a supported model, or needs code that is not trusted.
    """
    folder = resolve_model(model, trust_remote_code)
    check_model_folder(folder, trust_remote_code=trust_remote_code)
    config = read_config(folder, read_json(folder / "config.json"), trust_remote_code)
    depth = config.get_text_config().num_hidden_layers
    return sorted({layer for layer in (0, 1, 2, depth // 4, depth // 2, 3 * depth // 4) if layer < depth})


def _check(
    prunings: Sequence[Pruning], samples: Sequence[Sample], reference: str | Path | None, ranking: bool
) -> None:
    if not prunings:
        raise InputError("no pruning is given; name a pruner, a layer and a share that stays")
    if not samples:
        raise InputError("a pruning study needs questions, each with an answer to compare with")
    check_answers(samples)
    if ranking and reference is None:
        raise InputError("comparing rankings needs the other model; give it as the reference")


@dataclass(frozen=True)
class _Sweep(Study):
    """A pruning study at work. `other` is the reference model, None where it is the model itself or is not
    needed any more.
    """

    model: Any
    processor: Any
    other: Any

    def reference(self) -> ReferenceAnswers:
        """The reference's answers and logits, on the disk: those of an earlier call when they are whole and
        were made from the same.
        """
        known = self.folder.finished("reference", self.fingerprint)
        present = self.folder.open_reference()
        if known is not None and present is not None:
            return present
        model = self.model if self.other is None else self.other
        answers = self.collect_reference("reference", model, self.processor)
        self.folder.write_run("reference", {"fingerprint": self.fingerprint})
        return answers

    def whole(self, answers: ReferenceAnswers) -> dict[str, Any]:
        """The model with all its tokens."""
        known = self.folder.finished("whole", self.fingerprint)
        if known is None:
            prune(self.model, None)
            result = self.evaluate(WHOLE, self.model, self.processor, answers)
            inputs = self.one_prompt()
            visual_tokens = _visual_tokens(self.model, inputs)
            seconds, size = whole_prefill(self.model, inputs)
            row = {
                "metric": result.metric,
                "accuracy": result.accuracy,
                "interval": list(result.interval),
                "kl": result.kl,
                "visual_tokens": visual_tokens,
                "prefill_seconds": seconds,
                "cache_bytes": size,
            }
            known = {"fingerprint": self.fingerprint, "row": row}
            self.folder.write_run("whole", known)
        return {**known["row"], "interval": tuple(known["row"]["interval"])}

    def cell(self, pruning: Pruning, answers: ReferenceAnswers) -> PruningCell:
        """One pruning: from its record where there is one, measured otherwise."""
        name, fingerprint = str(pruning).replace(":", "@"), {**self.fingerprint, "pruning": pruning.to_dict()}
        known = self.folder.finished(name, fingerprint)
        if known is None:
            try:
                cell = self.measure(pruning, answers)
            finally:
                prune(self.model, None)
            known = {"fingerprint": fingerprint, "row": asdict(cell)}
            self.folder.write_run(name, known)
        cell = PruningCell.from_dict(known["row"])
        self.say(cell_line(cell))
        return cell

    def measure(self, pruning: Pruning, answers: ReferenceAnswers) -> PruningCell:
        """Ask, time, and where there is another model, let that one choose as well."""
        heard = Heard()
        prune(self.model, pruning, on_decision=heard)
        result = self.evaluate(str(pruning), self.model, self.processor, answers)
        seconds, cache = prefill_ratios(self.model, self.one_prompt(), pruning)
        others: dict[str, Any] = {}
        if self.other is not None and pruning.keep < 1:
            others = self.by_others_choice(pruning, heard, answers)
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
            kept_tokens=heard.kept_tokens,
            prefill=seconds,
            cache=cache,
            **others,
        )

    def by_others_choice(
        self, pruning: Pruning, heard: Heard, answers: ReferenceAnswers
    ) -> dict[str, float | None]:
        """How far the other model's choice is the model's, and what the model answers when it keeps that."""
        chosen = self.choices_of_other(pruning, answers)
        prune(self.model, pruning, pruner=Replay([stay for stay, offered in chosen if len(stay) < offered]))
        label = f"{pruning}, the other's ranking"
        result = self.evaluate(label, self.model, self.processor, answers)
        return {
            "overlap": overlap(heard.choices, chosen),
            "accuracy_by_other": result.accuracy,
            "kl_by_other": result.kl,
        }

    def choices_of_other(self, pruning: Pruning, answers: ReferenceAnswers) -> list[tuple[Tensor, int]]:
        """What the other model would keep of the same prompts."""
        heard = Heard()
        prune(self.other, pruning, on_decision=heard)
        try:
            with inference(self.other):
                for batch in in_batches(self.samples, 1, answers):
                    inputs = prepare(self.other, self.processor, family_of(self.other.config), batch)
                    self.other(**inputs, use_cache=False, **keeping(self.other, 1))
        finally:
            prune(self.other, None)
        return heard.choices

    def one_prompt(self) -> dict[str, Tensor]:
        """The first question, as the model takes it."""
        return prepare(self.model, self.processor, family_of(self.model.config), self.samples[:1])


def _visual_tokens(model: Any, inputs: dict[str, Tensor]) -> int:
    """How many visual tokens a prompt offers to a pruner: those in it, or those that cross-attention looks
    at.
    """
    heard = Heard()
    prune(model, Pruning("grid", keep=0.5), on_decision=heard)
    prefill(model, inputs)
    prune(model, None)
    return heard.choices[0][1] if heard.choices else 1  # half of one token is one: nothing to decide
