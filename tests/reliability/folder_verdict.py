"""The verdict on a changed model folder: loaded and asked one question.

    refused     InputError, in the words of the user
    same        the logits of the original
    different   other logits, from a folder whose checksums were made to fit

Anything else is a fault: another exception, other logits although the checksums do not fit.
"""

from __future__ import annotations

import logging
import tempfile
import traceback
import warnings
from functools import cache
from pathlib import Path

import torch
import transformers

import bivlm
from bivlm.checkpoint.verify import verify_folder
from bivlm.errors import InputError
from bivlm.eval.answer import inference, prepare
from bivlm.families import family_of
from reliability.folder_mutants import FolderMutant, make_folder_mutant, original
from reliability.tensor_verdict import Fault
from tiny import tiny_samples


def check_folder(seed: int) -> str:
    """The verdict on the mutant of a seed; raises Fault."""
    with tempfile.TemporaryDirectory(prefix="bivlm-mutant-") as work:
        folder = Path(work) / "model"
        made = make_folder_mutant(seed, folder)
        return verdict(folder, made)


def prepare_folders() -> None:
    """Make the folder that is changed, and the logits that it gives. The libraries say nothing from now
    on.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.CRITICAL)
    _expected()


def describe_folder(seed: int) -> str:
    with tempfile.TemporaryDirectory(prefix="bivlm-mutant-") as work:
        made = make_folder_mutant(seed, Path(work) / "model")
    return f"{made.kind}{' (checksums fit)' if made.sealed else ''}: {'; '.join(made.changes)}"


def verdict(folder: Path, made: FolderMutant) -> str:
    expected = _expected()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the libraries say about broken folders
            _verified(folder)
            found = _logits(folder)
    except InputError:
        return "refused"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = str(error).splitlines() or [""]
        raise Fault(
            f"{type(error).__name__}: {words[0][:150]} ({Path(last.filename).name}:{last.lineno})"
        ) from error
    if found.shape == expected.shape and torch.equal(found, expected):
        return "same"
    if not made.sealed:
        raise Fault("other logits, and no checksum told")
    return "different"


def _verified(folder: Path) -> None:
    """`bivlm verify` may refuse what loads (a folder without config of its own); it must not fail
    otherwise.
    """
    try:
        verify_folder(folder)
    except InputError:
        return


def _logits(folder: Path) -> torch.Tensor:
    """The logits after one question, and an answer to it."""
    model, processor = bivlm.load(folder)
    [sample] = tiny_samples(1)
    bivlm.answer(model, processor, sample.image, sample.question, max_new_tokens=2)
    with inference(model):
        inputs = prepare(model, processor, family_of(model.config), [sample])
        return model(**inputs).logits[0, -1].float()


@cache
def _expected() -> torch.Tensor:
    return _logits(original())
