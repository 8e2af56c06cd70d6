"""The requirements for every method, pruner and family, as tests. bivlm's own pass through them, and so do
those of other packages.

    from bivlm.contracts import QuantizerContract
    from bivlm_ternary import Ternary

    class TestTernary(QuantizerContract):
        examples = [Ternary(), Ternary(group_size=64)]

A contract is a class of tests for pytest; a subclass says what is tested. docs/adding.md has one of each.
This is the only part of the package that needs pytest.
"""

import pytest

# before they are imported: a failing assert then shows its values
TOPICS = ("declaration", "family", "inputs", "member", "packing", "pruner", "quantizer")
pytest.register_assert_rewrite(*(f"bivlm.contracts.{topic}" for topic in TOPICS))

from bivlm.contracts.family import FamilyContract
from bivlm.contracts.member import Member, embedded_member
from bivlm.contracts.pruner import PrunerContract
from bivlm.contracts.quantizer import Example, QuantizerContract
from bivlm.contracts.samples import tiny_samples

__all__ = [
    "Example",
    "FamilyContract",
    "Member",
    "PrunerContract",
    "QuantizerContract",
    "embedded_member",
    "tiny_samples",
]
