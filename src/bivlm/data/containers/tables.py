"""Tables of texts: CSV and TSV, with a line of names. Every value is read as the text that it is."""

from __future__ import annotations

import csv
from pathlib import Path

from bivlm.data.containers.arrow import load_files, rows_of
from bivlm.data.containers.base import WHOLE, Container, Opened, Rows
from bivlm.errors import InputError, cut

SUFFIXES = (".csv", ".tsv")
SEPARATORS = (",", ";", "\t")
HEADER_BYTES = 1 << 20


def table_of(path: Path, name: str = "") -> Rows:
    """The rows of a CSV or TSV file. Raises InputError for one that is empty, not UTF-8, or has lines of
    different lengths.
    """
    shown = name or path.name
    try:
        with path.open("rb") as file:
            header, rest = file.readline(HEADER_BYTES), file.read(HEADER_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if not header.strip() or not rest.strip():
        raise InputError(
            f"{shown} holds no samples; it needs a line with the names of the columns, and one for each"
            " record"
        )
    import datasets

    text = header.decode("utf-8-sig", errors="replace")
    separator = "\t" if path.suffix.lower() == ".tsv" else max(SEPARATORS, key=text.count)
    names = next(csv.reader([text], delimiter=separator))
    if len(set(names)) < len(names):
        raise InputError(
            f"{shown}: two columns have the same name ({cut(', '.join(names), 200)}); rename one"
        )
    texts = datasets.Features({name: datasets.Value("string") for name in names})
    table = load_files(
        "csv",
        [path],
        shown,
        sep=separator,
        features=texts,
        keep_default_na=False,
        encoding="utf-8-sig",
    )
    return rows_of(
        table,
        shown,
        path.parent,
        lambda row: f"{shown} row {row + 1}",
        empty_is_null=True,
        bare_base64=True,
    )


TABLE = Container(
    name="CSV or TSV",
    what="a line of names, then one record a line; images by path, as data URIs or base64",
    reads=lambda path: path.suffix.lower() in SUFFIXES and path.is_file(),
    open=lambda path: Opened("CSV or TSV", {WHOLE: lambda: table_of(path)}),
)
