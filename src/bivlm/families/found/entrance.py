"""The family of a model in a folder: declared, recorded in its config.json, or found now."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from bivlm.errors import InputError
from bivlm.families import family_names, known_family, remember, remote_code
from bivlm.families.base import Family
from bivlm.families.found.asking import Asking
from bivlm.families.found.find import auto_class_of, find_structure
from bivlm.families.found.record import found_line
from bivlm.families.found.structure import Structure

logger = logging.getLogger(__name__)


def family_in(folder: Path, config: PretrainedConfig) -> Family:
    """The family of the model in a folder. One that has no declaration is found, and remembered for this
    process. Raises InputError if it cannot be found.
    """
    known = known_family(config)
    if known is not None:
        return known
    structure = structure_in(folder, config)
    family = structure.family
    remember(config, family)
    logger.info("%s: %s", folder, found_line(family))
    return family


def check_model_type(model_type: str) -> None:
    """InputError for an architecture that has no declaration, and that transformers cannot build."""
    if model_type in family_names():
        return
    if (advice := remote_code.advice(model_type)) is not None:
        raise InputError(advice)
    try:
        auto_class_of(model_type)
    except InputError as error:
        declared = f"declared are {', '.join(family_names())}; to add one: docs/adding.md"
        raise InputError(f"{error}; {declared}") from error


def structure_in(folder: Path, config: PretrainedConfig) -> Structure:
    """The structure of the model in a folder, found with its processor if that can be used, and otherwise
    with made-up inputs.
    """
    return find_structure(config, _asking(folder, config))


def _asking(folder: Path, config: Any) -> Asking | None:
    auto_class = auto_class_of(config.model_type, config.architectures or ())
    try:
        return Asking(folder, config.model_type, auto_class)
    except InputError as error:
        logger.info("%s: the structure is found without the processor: %s", folder, error)
        return None
