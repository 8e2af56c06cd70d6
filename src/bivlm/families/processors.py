"""Processors turn images and text into a model's inputs. They are loaded from the model's folder, with errors
that the user understands.

Processors that also take videos (Qwen2-VL, LLaVA-OneVision, SmolVLM) need torchvision; the others do without.
SmolVLM also needs num2words.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bivlm.errors import InputError, cut
from bivlm.families.packages import missing_package
from bivlm.families.pixels import UNBOUNDED, PixelBounds, bound_pixels
from bivlm.families.remote_code import OPTION, code_files

if TYPE_CHECKING:
    from bivlm.families.base import Family

# LLaVA's processors count visual tokens with these; checkpoints from before transformers 4.50 may lack them,
# and then the count is unknown
COUNTING = ("patch_size", "num_image_tokens", "vision_feature_select_strategy")

REFUSALS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError)
MOST = 1 << 20  # of a processor's own numbers; as many visual tokens are written out as text


def load_processor(
    folder: Path,
    reads_images: bool = True,
    pixels: PixelBounds = UNBOUNDED,
    trust_remote_code: bool = False,
) -> Any:
    """The processor of a model folder, its images within `pixels`, or the tokenizer of a language model that
    reads no images. Code from the folder is run only with `trust_remote_code`.

    Raises InputError if its files are missing or damaged, if a package that it needs is missing, if it cannot
    count visual tokens, or if it does not have such bounds of pixels.
    """
    if pixels and not reads_images:
        raise InputError(f"{folder}: a language model reads no images; leave the bounds of pixels out")
    if trust_remote_code:
        code_files(folder)  # nothing is fetched from another repository
    with _damage_named(folder, trust_remote_code):
        # with an unsuitable torchvision it fails here, not above
        from transformers import AutoProcessor, AutoTokenizer

        if not reads_images:
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    try:
        check_processor(processor)
        bound_pixels(processor, pixels)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    except REFUSALS as error:
        raise InputError(
            f"{folder}: the settings of its image processor make no sense ({first_line(error)}); get the"
            " folder again"
        ) from error
    return processor


def processor_of(
    folder: Path, family: Family, pixels: PixelBounds = UNBOUNDED, trust_remote_code: bool = False
) -> Any:
    """The processor of a model of this `family` in a folder, as `load_processor`; of a vision-only model what
    makes its inputs of an image, and of boxes and points where it draws masks.

    Raises InputError as `load_processor`, and for bounds of pixels with a vision-only model, which sees every
    image in one size.
    """
    if family.answers:
        return load_processor(folder, family.reads_images, pixels, trust_remote_code)
    if pixels:
        raise InputError(
            f"{folder}: a {family.model_type} model sees images in the size that its processor makes them;"
            " leave the bounds of pixels out"
        )
    with _damage_named(folder, trust_remote_code):
        from transformers import AutoImageProcessor, AutoProcessor

        makes = AutoProcessor if family.draws_masks else AutoImageProcessor
        return makes.from_pretrained(folder, trust_remote_code=trust_remote_code)


@contextmanager
def _damage_named(folder: Path, trust_remote_code: bool) -> Iterator[None]:
    """Turn whatever transformers raises over the files of a processor into InputError."""
    try:
        yield
    except Exception as error:  # transformers checks little of what it reads: damage ends anywhere in it
        needed = missing_package(error)
        if needed is not None:
            raise InputError(f"{folder}: its processor {needed}") from error
        if isinstance(error, ImportError):
            raise InputError(
                f"{folder}: its processor needs a package that is not installed: {first_line(error)}"
            ) from error
        if not trust_remote_code and "trust_remote_code" in str(error):
            raise InputError(
                f"{folder}: its processor needs the code of the folder, which bivlm does not run by itself;"
                f" {OPTION} runs it, if you trust where it is from"
            ) from error
        kind = "" if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: "
        raise InputError(
            f"{folder}: the files of its processor are missing or damaged ({kind}{first_line(error)})"
        ) from error


def check_processor(processor: Any) -> None:
    """Raises InputError if `processor` does not take images and text, or cannot count the visual tokens of an
    image.
    """
    name = type(processor).__name__
    if not hasattr(processor, "image_processor") or not hasattr(processor, "tokenizer"):
        raise InputError(
            f"{name} is no processor of images and text; use the one that belongs to the model"
            " (processor_config.json in its folder)"
        )
    for field, value in vars(processor).items():
        if isinstance(value, int) and abs(value) > MOST:
            raise InputError(
                f"{name} has {field} {value:.3g}, and at most {MOST} makes sense; correct it in"
                " processor_config.json"
            )
    lacking = [field for field in COUNTING if getattr(processor, field, "") is None]
    if lacking:
        raise InputError(
            f"{name} lacks {' and '.join(lacking)}, so it cannot tell how many tokens an image takes; set"
            " them in processor_config.json to what the model's config.json says (and"
            " num_additional_image_tokens to 1 for a CLIP vision tower)"
        )


@contextmanager
def refusals_named(where: str) -> Iterator[None]:
    """Turn what a processor or tokenizer raises into InputError: it cannot use the image, the question, or
    the settings in its own files.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:  # a panic in the tokenizers' library is no Exception
        if not isinstance(error, REFUSALS) and type(error).__name__ != "PanicException":
            raise
        raise InputError(
            f"{where}: the processor refuses the image or the question ({first_line(error)})"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut."""
    return cut(str(error).strip().partition("\n")[0], 300)


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor; a language model's processor is its tokenizer."""
    return getattr(processor, "tokenizer", processor)
