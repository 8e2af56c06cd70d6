"""Vectors in a file: safetensors with "queries" (n, d) and "documents" (m, d), float32, and their ids, as
JSON, in its metadata.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bivlm.data.retrieval import RetrievalSet
from bivlm.errors import InputError

KINDS = ("queries", "documents")


@dataclass(frozen=True)
class Vectors:
    """Vectors of length one, (n, d) and (m, d), and what each is called."""

    queries: Tensor
    documents: Tensor
    query_ids: tuple[str, ...]
    document_ids: tuple[str, ...]


def check_new(path: Path) -> None:
    """InputError, before anything long, for a file that is there already or whose folder is not."""
    if path.exists():
        raise InputError(f"{path} is there already; give a new file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path.absolute().parent} is no folder; make it first, or give another file")


def write_vectors(path: Path, vectors: Tensor, data: RetrievalSet, made_by: dict[str, str]) -> None:
    """Write vectors (n, d), queries first, then documents; `made_by` goes into the metadata. The file has its
    name only when it is complete. Raises InputError if it cannot be written.
    """
    queries, documents = vectors.split([len(data.queries), len(data.documents)])
    ids = {"query_ids": data.queries, "document_ids": data.documents}
    metadata = {name: json.dumps([entry.id for entry in entries]) for name, entries in ids.items()}
    part = path.with_name(f"{path.name}.part")
    tensors = {"queries": queries.contiguous(), "documents": documents.contiguous()}
    try:
        save_file(tensors, part, metadata | made_by)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be written ({error}); choose another place") from error
    finally:
        part.unlink(missing_ok=True)


def read_vectors(path: Path) -> Vectors:
    """The vectors that `write_vectors` wrote. Raises InputError for another file."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = [file.get_tensor(name) for name in KINDS]
            ids = [tuple(json.loads(metadata[name])) for name in ("query_ids", "document_ids")]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} holds no vectors of `bivlm embed` ({error})") from error
    if any(len(tensor) != len(own) for tensor, own in zip(tensors, ids, strict=True)):
        raise InputError(f"{path} has not one id for each vector; embed again")
    return Vectors(tensors[0], tensors[1], ids[0], ids[1])
