"""Every family of the table keeps the contract (bivlm.contracts), tried on tiny seeded members of it."""

from __future__ import annotations

import importlib
import pkgutil

import bivlm.families
from bivlm.contracts import FamilyContract
from bivlm.families import FAMILIES, Family
from tiny import MEMBERS


class TestFamilies(FamilyContract):
    members = MEMBERS


def test_the_table_is_complete_and_every_family_has_a_tiny_member():
    names = [module.name for module in pkgutil.iter_modules(bivlm.families.__path__)]
    modules = [importlib.import_module(f"bivlm.families.{name}") for name in names]
    declared = [one for module in modules for one in vars(module).values() if isinstance(one, Family)]
    variants = [variant for family in FAMILIES.values() for variant in family.variants]
    assert {family.model_type: family for family in declared if family not in variants} == FAMILIES
    assert all(any(member.family is variant for member in MEMBERS) for variant in variants)
    assert {member.family.model_type for member in MEMBERS} == set(FAMILIES)
    assert all(family.model_type == name for name, family in FAMILIES.items())
