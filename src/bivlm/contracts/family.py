"""The requirements for every family, tested on small members of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest

from bivlm import families
from bivlm.contracts.declaration import DeclarationContract
from bivlm.contracts.inputs import InputsContract
from bivlm.contracts.member import Member
from bivlm.contracts.packing import PackingContract
from bivlm.contracts.parameters import parametrize


class FamilyContract(DeclarationContract, InputsContract, PackingContract):
    """Subclass it, and set `members`: small models of one or more families, one for every kind of tower."""

    members: ClassVar[Sequence[Member]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """`member`: all of them."""
        if not self.members:
            raise pytest.UsageError(f"{type(self).__name__} has no members; set `members`")
        parametrize(metafunc, {"member": self.members})

    @pytest.fixture(autouse=True)
    def _declared(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        """The declaration under test is the one that is used, also where nothing else knows it yet."""
        if "member" in request.fixturenames:
            family = request.getfixturevalue("member").family
            monkeypatch.setitem(families.USED, family.model_type, family)
