"""The methods: one file each, one table."""

from bivlm.quantizers.arb import ARB
from bivlm.quantizers.awq import AWQ
from bivlm.quantizers.base import Quantizer
from bivlm.quantizers.billm import BiLLM
from bivlm.quantizers.bivlm import BiVLM
from bivlm.quantizers.gptq import GPTQ
from bivlm.quantizers.rtn import RTN
from bivlm.quantizers.sign import Sign

QUANTIZERS: dict[str, type[Quantizer]] = {quantizer.name: quantizer for quantizer in (Sign, RTN, AWQ, GPTQ, BiLLM, ARB, BiVLM)}

__all__ = ["ARB", "AWQ", "GPTQ", "QUANTIZERS", "RTN", "BiLLM", "BiVLM", "Quantizer", "Sign"]
