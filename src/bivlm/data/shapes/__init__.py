"""The shapes of records, in the order in which they are tried, and the samples of a file of one shape."""

from __future__ import annotations

from bivlm.data.fields import SYNONYMS, Record, listed
from bivlm.data.shapes import captions, choices, marks, mmmu, numbered, plain, texts, turns
from bivlm.data.shapes.base import Row, Shape
from bivlm.errors import InputError
from bivlm.types import Sample

SHAPES = (
    turns.CONVERSATIONS,
    turns.MESSAGES,
    turns.PAIRS,
    mmmu.SHAPE,
    choices.SHAPE,
    numbered.SHAPE,
    plain.SHAPE,
    marks.SHAPE,
    captions.CAPTION,
    captions.IMAGE,
    texts.QUESTION,
    texts.TEXT,
)
FIELDS = frozenset(name for shape in SHAPES for names in (*shape.fields, shape.more) for name in names)


def find_shape(record: Record, origin: str) -> Shape:
    """The shape of a record. Raises InputError, with the two nearest shapes, if there is none."""
    found = next((shape for shape in SHAPES if shape.matches(record)), None)
    if found is not None:
        return found
    lacking = [shape for shape in reversed(SHAPES) if shape.lacks(record)]
    near = sorted(
        lacking, key=lambda one: (len(one.lacks(record)) / len(one.fields), one is not plain.SHAPE)
    )[:2]
    told = "; ".join(f"{one.name}, which lacks {' and '.join(map(repr, one.lacks(record)))}" for one in near)
    raise InputError(
        f"{origin}: no shape that is known ({listed(record)}). The nearest: {told}{_advice(record)}"
    )


def _advice(record: Record) -> str:
    """How --columns would make the shape of this record known; "" if no other name is recognised."""
    renamed = [
        f"{name}={other}"
        for name, others in SYNONYMS.items()
        if record.get(name) is None
        for other in [next((other for other in others if record.get(other) is not None), None)]
        if other is not None
    ]
    return f". If these names mean the same: --columns {','.join(renamed)}" if renamed else ""


def samples_of(
    shape: Shape, fields: frozenset[str], row: Row, *, answers_required: bool = False
) -> list[Sample]:
    """The samples of a record in a file whose first record has this shape and these fields. A record with the
    same fields may be of another shape (some questions with choices, others without). Raises InputError,
    naming the row, for anything that is missing, empty or of a wrong type, and for other fields of another
    shape.
    """
    own = next((one for one in SHAPES if one.matches(row.record)), None)
    if own in (None, shape) or fields == row.record.keys() or not row.look.wanted:
        found = list((own or shape).samples(row))
    else:
        mixed = f"the rows before are of the shape {shape.name}, and this one is of {own.name}"
        try:
            list(shape.samples(row))
        except InputError as error:
            raise InputError(f"{error}; {mixed}") from error
        raise InputError(f"{row.origin}: {mixed} ({listed(row.record)}); make two files of them")
    if answers_required and not all(sample.answers for sample in found):
        raise InputError(
            f"{row.origin}: neither 'answer' nor 'answers' is there; accuracy needs one of them"
            f" ({listed(row.record)}){_advice(row.record)}"
        )
    return found


__all__ = ["FIELDS", "SHAPES", "Row", "Shape", "find_shape", "samples_of"]
