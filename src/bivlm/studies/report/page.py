"""The report as one HTML file: text, figures and pictures inside, nothing fetched, no script needed to
read it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bivlm.checkpoint.durable import write_errors_explained, write_text
from bivlm.studies.cells import interval, number, size
from bivlm.studies.report.evaluated import Evaluated
from bivlm.studies.report.figures import figures
from bivlm.studies.report.flips import Asked, asked_by

PAGE, TEMPLATE = "report.html", "report.html.jinja"
MOST_QUESTIONS = 200  # of those on which the models differ; the page says how many more there are
ORDER = ("lost", "gained", "words")
KINDS = {
    "lost": "right under the first model, wrong under another",
    "gained": "wrong under the first model, right under another",
    "words": "other words, the same score",
}


@dataclass(frozen=True)
class Shown:
    """A question as the page shows it: how the models differ, its picture as a data URI or "", and for every
    model its name, answer, score and confidence.
    """

    asked: Asked
    picture: str
    answers: tuple[Mapping[str, Any], ...]


def write_report(several: Sequence[Evaluated], folder: Path) -> Path:
    """Write the page into `folder`, and return it. Raises InputError if it cannot be written."""
    text = report_html(several)
    with write_errors_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / PAGE, text)
    return folder / PAGE


def report_html(several: Sequence[Evaluated]) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("bivlm.studies.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    differing = [asked for kind in ORDER for asked in asked_by(several) if asked.kind == kind]
    return environment.get_template(TEMPLATE).render(
        title=" · ".join(evaluated.name for evaluated in several),
        rows=[_row(evaluated) for evaluated in several],
        figures=[(head, words, Markup(svg)) for head, words, svg in figures(several)],
        shown=[_shown(asked, several) for asked in differing[:MOST_QUESTIONS]],
        more=max(0, len(differing) - MOST_QUESTIONS),
        kinds=[(kind, KINDS[kind]) for kind in ORDER if any(asked.kind == kind for asked in differing)],
        questions=max(len(evaluated.records) for evaluated in several),
        first=several[0].name,
    )


def _row(evaluated: Evaluated) -> dict[str, str]:
    """The cells of a model in the table; empty where a number was not measured."""
    result = evaluated.result
    seconds, kl = evaluated.number("seconds"), evaluated.number("kl")
    return {
        "model": evaluated.name,
        "true bits": f"{evaluated.bits:.2f}",
        "weights": size(evaluated.weight_bytes),
        "score": f"{result['accuracy']:.1%}",
        "95 % interval": interval(tuple(result["interval"])),
        "KL": number(kl, ".4f"),
        "geometric KL": number(evaluated.number("kl_geometric") if kl else kl, ".2g"),
        "same answer": number(evaluated.number("greedy_agreement"), ".1%"),
        "ECE": number(evaluated.number("calibration", "ece"), ".3f"),
        "AUROC": number(evaluated.number("calibration", "auroc"), ".3f"),
        "s per question": number(None if seconds is None else seconds / result["n"], ".3f"),
    }


def _shown(asked: Asked, several: Sequence[Evaluated]) -> Shown:
    picture = next((found.pictures[asked.image] for found in several if asked.image in found.pictures), None)
    answers = tuple(
        {
            "model": evaluated.name,
            "answer": record.answer or "(nothing)",
            "score": record.score,
            "confidence": number(record.confidence, ".0%"),
        }
        for evaluated, record in zip(several, asked.records, strict=True)
        if record is not None
    )
    return Shown(asked, "" if picture is None else _data_uri(picture), answers)


def _data_uri(picture: Path) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture.read_bytes()).decode()}"
