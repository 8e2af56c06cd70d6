"""Finding the structure of an architecture that has no declaration.

    config ─► shrink ─► a small model with random weights ─► three forward passes ─► stacks, parts, the rest
        ─► compared with the modules of the full model, which is built without weights

A question, another image, and another question show what sees what. Nothing of the full model is in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from bivlm.errors import InputError, cut
from bivlm.families import remote_code
from bivlm.families.base import block_paths
from bivlm.families.found import blocks as inner
from bivlm.families.found.around import find_around
from bivlm.families.found.build import seeded_model
from bivlm.families.found.check import check_against
from bivlm.families.found.correspondence import Asked, Towers, find_patches
from bivlm.families.found.cuttable import can_be_cut
from bivlm.families.found.layers import feature_layers
from bivlm.families.found.parts import Views, parts_of
from bivlm.families.found.patches import Patches
from bivlm.families.found.shrink import Shrunk, shrink
from bivlm.families.found.stacks import find_stacks
from bivlm.families.found.structure import FoundStack, Structure
from bivlm.families.found.synthetic import ENCODERS, NoInputs, Three, image_token, synthetic
from bivlm.families.found.tracing import accepts, run, watch
from bivlm.families.inputs import arguments_of
from bivlm.types import PartName

logger = logging.getLogger(__name__)
MEMORY = 1024**3  # bytes of the small model's weights, at most
VOCABULARY = 512  # tokens, where no processor needs more

Asking = Callable[[Any], Three]


@dataclass(frozen=True)
class Small:
    """A small model that answers, with the inputs that it was asked with; `asked`: by the folder's
    processor.
    """

    model: Any
    shrunk: Shrunk
    three: Three
    asked: bool


def auto_class_of(model_type: str, made_as: Sequence[str] = ()) -> str:
    """The class of transformers that builds an architecture. `made_as` are the classes that a config names as
    its own. InputError if transformers knows no class, or only a language model that is part of these.
    """
    if model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "AutoModelForImageTextToText"
    language = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if language is not None and (not made_as or language in made_as):
        return "AutoModelForCausalLM"
    raise InputError(
        f"the architecture {model_type!r} is not supported: transformers {transformers.__version__} has no"
        " model of it that answers questions about images, and no causal language model"
    )


def auto_class_in(config: PretrainedConfig) -> str:
    """The class of transformers that builds the model of a config: that of its architecture, or the one for
    which the code of its folder offers a class. Raises InputError as `auto_class_of`.
    """
    own = remote_code.own_class(config)
    return auto_class_of(config.model_type, config.architectures or ()) if own is None else own[0]


def taken_by(config: PretrainedConfig) -> tuple[str, ...]:
    """The arguments of `forward` of a model that is built with the code of its folder; none for every other,
    whose class can be looked up.
    """
    own = remote_code.own_class(config)
    return () if own is None else tuple(sorted(arguments_of(own[1])))


def find_structure(config: PretrainedConfig, asking: Asking | None = None) -> Structure:
    """The structure of the model of a config. `asking` makes the inputs of the small model (from the folder's
    processor); without it they are made up.

    Raises InputError, naming the place, if the model cannot be shrunk and run, or runs in a way that cannot
    be packed block by block.
    """
    auto_model = getattr(transformers, auto_class_in(config))
    return structure_of(small_model(config, auto_model, asking), config)


def structure_of(small: Small, config: PretrainedConfig) -> Structure:
    """The structure of the model of `config`, of which `small` is a small copy. Raises InputError as
    above.
    """
    auto_class = auto_class_in(config)
    structure = replace(_read(small, config.model_type, auto_class), takes=taken_by(config))
    with torch.device("meta"):
        full = getattr(transformers, auto_class).from_config(config, dtype=torch.bfloat16)
    return check_against(full, small.model, structure)


def small_model(config: PretrainedConfig, auto_model: Any, asking: Asking | None) -> Small:
    """The smallest model that can be built and run: narrow and shallow, or only shallow; asked with the
    folder's processor, or with made-up inputs.
    """
    failures = []
    ways = [(asked, widths) for asked in dict.fromkeys((asking, None)) for widths in (True, False)]
    for asked, widths in ways:
        shrunk = shrink(config, widths=widths, vocabulary=None if asked else VOCABULARY)
        try:
            with torch.device("meta"):
                empty = auto_model.from_config(shrunk.config, dtype=torch.float32)
            needed = 4 * sum(parameter.numel() for parameter in empty.parameters())
            if needed > MEMORY:
                failures.append(f"with {needed / 1e9:.1f} GB of weights it is too large to be tried")
                continue
            model = seeded_model(auto_model, shrunk.config)
            three = synthetic(model) if asked is None else asked(model)
            run(model, three.question)
            return Small(model, shrunk, three, asked is not None)
        except Exception as error:  # a model of unknown code may raise anything
            first = f"{error}".strip().partition("\n")[0]
            kind = "" if isinstance(error, InputError | NoInputs) else f"{type(error).__name__}: "
            failures.append(cut(f"{kind}{first}", 200))
    raise InputError(
        f"the structure of {config.model_type!r} could not be found: a small copy of it does not run"
        f" ({'; '.join(dict.fromkeys(failures))}); a declaration of the family helps: docs/adding.md"
    )


def _read(small: Small, model_type: str, auto_class: str) -> Structure:
    model, three = small.model, small.three
    other = None if three.other_image is None else watch(model, three.other_image)
    views = Views(watch(model, three.question), other, watch(model, three.other_question), _pixels(three))
    seen, repeated = find_stacks(model, views.question)
    if repeated:
        raise InputError(
            f"{model_type!r} runs {repeated[0]} more than once in one forward pass; its blocks cannot be"
            " packed one after the other"
        )
    parts = parts_of(seen, views, bool(getattr(model.config, "is_encoder_decoder", False)))
    if "language" not in parts.values():
        raise InputError(f"no blocks of a language model were found in {model_type!r}")
    between = {path for path, part in parts.items() if part == "projector"}
    seen = [
        stack
        for stack in seen
        if stack.path not in between or any(map(views.changes_with_text, stack.blocks))
    ]  # a projector with blocks of its own is one block
    around = find_around(model, views, seen, parts, three.question)
    paths = [stack.path for stack in seen]
    everywhere = [*paths, *around.projectors]
    begun: dict[str, tuple[PartName, int]] = {**around.projectors}
    for stack in seen:
        begun[stack.path] = (parts[stack.path], stack.start)
    stacks = tuple(
        FoundStack(
            part,
            path,
            len(block_paths(model, path)) if path in paths else 1,
            inner.visual_linears(model, views, path) if part == "language" else (),
        )
        for path, (part, _) in sorted(begun.items(), key=lambda item: item[1][1])
    )
    main = [stack.path for stack in stacks if stack.part == "language"]
    token = next((one for path in reversed(main) if (one := _token(small, views, path)) is not None), None)
    return Structure(
        model_type=model_type,
        auto_class=auto_class,
        stacks=stacks,
        kept=(*around.kept, *inner.kept_inside(model, views, everywhere)),
        image_token_id=small.shrunk.original(token),
        answer_token_type=_answer_token_type(model, three.question),
        shared=inner.shared_inputs(model, views.question, everywhere),
        experts=inner.experts(model, everywhere),
        tied=bool(getattr(model, "all_tied_weights_keys", {})),
        inputs="questions by the model's processor" if small.asked else "made-up inputs",
        patches=_patches(small, views, stacks, token),
    )


def _patches(small: Small, views: Views, stacks: Sequence[FoundStack], token: int | None) -> Patches | None:
    """How the patches of the last tower become visual tokens, if some of them can be dropped in it."""
    model, trace = small.model, views.question
    paths = [stack.path for stack in stacks if stack.part == "vision"]
    language = next(stack.path for stack in stacks if stack.part == "language")
    if token is None or not paths or not hasattr(model.base_model, ENCODERS[0]):
        return None
    tower = block_paths(model, paths[-1])
    first, last = trace.of(tower[0])[0].start, trace.of(tower[-1])[0].end
    between = [
        block
        for stack in stacks
        if stack.part == "projector"
        for block in block_paths(model, stack.path)
        if trace.of(block) and first < trace.of(block)[0].start < last
    ]
    blocks = [model.get_submodule(path) for path in tower]
    towers = Towers(
        blocks,
        model.get_submodule(block_paths(model, language)[0]),
        [model.get_submodule(path) for path in between],
    )
    questions = [Asked(small.three.question, 1), *(Asked(one, 2) for one in small.three.two_images)]
    if len(tower) < 2 or not all(can_be_cut(model, blocks, one.inputs) for one in questions):
        return None
    return find_patches(model, towers, questions, token, feature_layers(small.shrunk.config))


def _token(small: Small, views: Views, path: str) -> int | None:
    declared = image_token(small.model.config)
    if declared is None and not small.asked:
        return None
    return inner.image_token(views, path, small.three.question, declared)


def _pixels(three: Three) -> tuple[Tensor, ...]:
    """The images among the inputs."""
    return tuple(
        value
        for name, value in three.question.items()
        if isinstance(value, Tensor) and value.is_floating_point() and "mask" not in name
    )


def _answer_token_type(model: Any, inputs: dict[str, Any]) -> int:
    """The token type of an answer: the first with which an answer does not change what comes before it."""
    name = "token_type_ids"
    if name not in inputs or not accepts(model.forward, name):
        return 0
    grown = {key: value for key, value in inputs.items() if key in ("input_ids", "attention_mask", name)}
    length = inputs["input_ids"].shape[1]
    answer = inputs["input_ids"][:, -2:]
    with torch.inference_mode():
        alone = model(**inputs, use_cache=False).logits[:, length - 1]
        for kind in (0, 1):
            added = {
                "input_ids": answer,
                "attention_mask": torch.ones_like(answer),
                name: torch.full_like(answer, kind),
            }
            longer = {key: torch.cat([value, added[key]], 1) for key, value in grown.items()}
            logits = model(**{**inputs, **longer}, use_cache=False).logits[:, length - 1]
            if torch.allclose(alone, logits, atol=1e-3):
                return kind
    return 0
