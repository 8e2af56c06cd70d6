"""Every family of the table keeps the contract (bivlm.contracts), tried on tiny seeded members of it."""

from __future__ import annotations

from pathlib import Path

import bivlm.families
from bivlm.contracts import FamilyContract
from bivlm.families import FAMILIES
from tiny import MEMBERS

NOT_FAMILIES = {"__init__", "base", "inputs", "processors"}


class TestFamilies(FamilyContract):
    members = MEMBERS


def test_the_table_is_complete_and_every_family_has_a_tiny_member():
    files = {path.stem for path in Path(bivlm.families.__file__).parent.glob("*.py")} - NOT_FAMILIES
    assert files == set(FAMILIES)
    assert {member.family.model_type for member in MEMBERS} == set(FAMILIES)
    assert all(family.model_type == name for name, family in FAMILIES.items())
