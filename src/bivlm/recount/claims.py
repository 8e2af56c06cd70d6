"""What the name of a release, its config or its header says about bits, as a number.

"2" for Q2_K, W2A16, 2bit and 2.0bpw; 1.58 for a ternary model. Nothing is corrected here: the claim stands
next to what was counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from bivlm.recount.settings import Settings

_EDGE, _END = r"(?:^|(?<=[^A-Za-z0-9.]))", r"(?=$|[^A-Za-z0-9])"


def _pattern(text: str) -> re.Pattern[str]:
    """The text as a word of its own in a name, in any case."""
    return re.compile(f"{_EDGE}(?:{text}){_END}", re.IGNORECASE)


# the first pattern that is found in a name decides; where no number is given, the first group is the number
PATTERNS: tuple[tuple[re.Pattern[str], float | None], ...] = (
    (_pattern(r"(?:UD[-_])?I?Q(\d)_[A-Z0-9]+(?:_[A-Z0-9]+)?"), None),
    (_pattern(r"TQ[12]_0"), 1.58),  # ternary, in two layouts
    (_pattern(r"(?:MX|NV)FP(\d)"), None),
    (_pattern(r"W(\d{1,2})(?:A\d{1,2})?(?:g\d+)?"), None),
    (_pattern(r"b?1[._]58[-_ ]?(?:bits?|bpw)?"), 1.58),
    (_pattern(r"(\d{1,2}(?:\.\d{1,3})?)[-_ ]?(?:bits?|bpw)(?:[-_]?h\d)?"), None),
    (_pattern(r"ternary|bitnet"), 1.58),
    (_pattern(r"binary"), 1.0),
    (_pattern(r"(?:u?int|fp|nf|q)(\d{1,2})"), None),
    (_pattern(r"(?:rtn|gptq|awq|trellis|bivlm|mbq|squeezellm|leanquant|qvla)-(\d(?:\.\d+)?)"), None),
    (_pattern(r"BF16|F16"), 16.0),
)


@dataclass(frozen=True)
class Claim:
    """A number of bits that somebody wrote, the words it stands in, and where they stand."""

    bits: float
    words: str
    where: str


def claim_in(text: str, where: str) -> Claim | None:
    """The claim in a name ("Qwen3-VL-8B-UD-IQ1_S.gguf": 1); None for a name that claims nothing."""
    for pattern, bits in PATTERNS:
        found = pattern.search(text)
        if found is not None:
            return Claim(float(found.group(1)) if bits is None else bits, found.group(0), where)
    return None


def claims_of(name: str, file: str, settings: Settings) -> tuple[Claim, ...]:
    """What is said where, in the order in which a reader meets it. `name` is the path or the repository,
    `file` the first of its files.
    """
    folders = [part for part in PurePosixPath(name).parts if part != PurePosixPath(file).name][-2:]
    title = settings.metadata.get("general.name") if settings.gguf else None
    said = [
        claim_in(PurePosixPath(file).name, "the file's name"),
        *(claim_in(part, "the folder's or repository's name") for part in reversed(folders)),
        _configured(settings),
        claim_in(title, "general.name in the header") if isinstance(title, str) else None,
    ]
    kept: dict[tuple[float, str], Claim] = {}
    for claim in said:
        if claim is not None:
            kept.setdefault((claim.bits, claim.words), claim)
    return tuple(kept.values())


def _configured(settings: Settings) -> Claim | None:
    """The name of a bivlm recipe, or the bits of a quantization_config."""
    recipe = settings.quantization.get("recipe")
    if isinstance(recipe, dict):
        return claim_in(str(recipe.get("name", "")), "the recipe in config.json")
    bits = settings.bits
    return None if bits is None else Claim(bits, f"{bits:g} bits", "config.json")
