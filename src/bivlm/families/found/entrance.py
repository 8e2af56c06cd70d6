"""The family of a model in a folder: declared, recorded in its config.json, or found now."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from bivlm.errors import InputError
from bivlm.families import family_names, known_family, remember, remote_code
from bivlm.families.base import Family
from bivlm.families.found.asking import Asking
from bivlm.families.found.find import auto_class_in, auto_class_of, find_structure, taken_by
from bivlm.families.found.record import found_line
from bivlm.families.found.structure import Structure

logger = logging.getLogger(__name__)


def family_in(folder: Path, config: PretrainedConfig, trust_remote_code: bool = False) -> Family:
    """The family of the model in a folder. One that has no declaration is found, and remembered for this
    process; `trust_remote_code` runs the code of its processor. Raises InputError if it cannot be found.
    """
    known = known_family(config)
    if known is not None:
        return known
    structure = structure_in(folder, config, trust_remote_code)
    family = structure.family
    remember(config, family)
    logger.info("%s: %s", folder, found_line(family))
    return family


def check_model_type(folder: Path, content: Mapping[str, Any], trust_remote_code: bool = False) -> None:
    """InputError for an architecture that has no declaration, and that transformers cannot build: of the
    `content` of a folder's config.json. One that needs the folder's own code needs `trust_remote_code`.
    """
    model_type = content["model_type"]
    if model_type in family_names():
        return
    code = remote_code.is_needed(content)
    if code and trust_remote_code:
        remote_code.check_code(folder, content)
        return
    if (advice := remote_code.advice(model_type, code)) is not None:
        raise InputError(advice)
    try:
        auto_class_of(model_type)
    except InputError as error:
        declared = f"declared are {', '.join(family_names())}; to add one: docs/adding.md"
        raise InputError(f"{error}; {declared}") from error


def structure_in(folder: Path, config: PretrainedConfig, trust_remote_code: bool = False) -> Structure:
    """The structure of the model in a folder, found with its processor if that can be used (with the
    processor's own code: only with `trust_remote_code`), and otherwise with made-up inputs.
    """
    return find_structure(config, _asking(folder, config, trust_remote_code))


def _asking(folder: Path, config: Any, trust_remote_code: bool) -> Asking | None:
    auto_class = auto_class_in(config)
    try:
        return Asking(folder, config.model_type, auto_class, taken_by(config), trust_remote_code)
    except InputError as error:
        logger.info("%s: the structure is found without the processor: %s", folder, error)
        return None
