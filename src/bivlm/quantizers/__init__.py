"""The methods: one file each, one table. `base.py` says what a method is; `steps/` has what methods are made
of.
"""

from bivlm.quantizers.arb import ARB
from bivlm.quantizers.awq import AWQ
from bivlm.quantizers.base import Quantizer
from bivlm.quantizers.billm import BiLLM
from bivlm.quantizers.bivlm import BiVLM
from bivlm.quantizers.dbf import DBF
from bivlm.quantizers.gptq import GPTQ
from bivlm.quantizers.pbllm import PBLLM
from bivlm.quantizers.rtn import RTN
from bivlm.quantizers.sign import Sign
from bivlm.quantizers.trellis import Trellis

QUANTIZERS: dict[str, type[Quantizer]] = {
    quantizer.name: quantizer for quantizer in (Sign, RTN, AWQ, GPTQ, PBLLM, BiLLM, ARB, DBF, BiVLM, Trellis)
}

__all__ = [
    "ARB",
    "AWQ",
    "DBF",
    "GPTQ",
    "PBLLM",
    "QUANTIZERS",
    "RTN",
    "BiLLM",
    "BiVLM",
    "Quantizer",
    "Sign",
    "Trellis",
]
