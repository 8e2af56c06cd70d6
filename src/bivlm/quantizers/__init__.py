"""The methods: one file each, one table. `base.py` says what a method is; `steps/` has the building blocks of
methods. Other packages may offer more methods (bivlm.plugins).
"""

from bivlm.errors import no_such
from bivlm.plugins import Table, subclass_refusal
from bivlm.quantizers.arb import ARB
from bivlm.quantizers.awq import AWQ
from bivlm.quantizers.base import Quantizer
from bivlm.quantizers.billm import BiLLM
from bivlm.quantizers.bivlm import BiVLM
from bivlm.quantizers.dbf import DBF
from bivlm.quantizers.gptq import GPTQ
from bivlm.quantizers.leanquant import LeanQuant
from bivlm.quantizers.mbq import MBQ
from bivlm.quantizers.pbllm import PBLLM
from bivlm.quantizers.qsvd import QSVD
from bivlm.quantizers.qvla import QVLA
from bivlm.quantizers.rtn import RTN
from bivlm.quantizers.sign import Sign
from bivlm.quantizers.squeezellm import SqueezeLLM
from bivlm.quantizers.trellis import Trellis

QUANTIZERS: dict[str, type[Quantizer]] = {
    quantizer.name: quantizer
    for quantizer in (
        Sign,
        RTN,
        AWQ,
        MBQ,
        GPTQ,
        LeanQuant,
        SqueezeLLM,
        PBLLM,
        BiLLM,
        ARB,
        DBF,
        QVLA,
        QSVD,
        BiVLM,
        Trellis,
    )
}

_TABLE: Table[type[Quantizer]] = Table(
    "bivlm.quantizers", "quantizer", QUANTIZERS, subclass_refusal(Quantizer)
)

__all__ = [
    "ARB",
    "AWQ",
    "DBF",
    "GPTQ",
    "MBQ",
    "PBLLM",
    "QSVD",
    "QVLA",
    "QUANTIZERS",
    "RTN",
    "BiLLM",
    "BiVLM",
    "LeanQuant",
    "Quantizer",
    "Sign",
    "SqueezeLLM",
    "Trellis",
    "quantizer_named",
    "quantizer_names",
]


def quantizer_named(name: str) -> type[Quantizer]:
    """The method of this name, built in or from another package.

    Raises InputError that lists the known methods, or says why the method of another package cannot be used.
    """
    found = _TABLE.named(name)
    if found is None:
        raise no_such("quantizer", name, quantizer_names())
    return found


def quantizer_names() -> list[str]:
    """The names of all methods that can be used, sorted."""
    return _TABLE.names()
