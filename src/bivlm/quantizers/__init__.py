"""The methods: one file each, one table."""

from bivlm.quantizers.base import Quantizer
from bivlm.quantizers.bivlm import BiVLM

QUANTIZERS: dict[str, type[Quantizer]] = {quantizer.name: quantizer for quantizer in (BiVLM,)}

__all__ = ["QUANTIZERS", "BiVLM", "Quantizer"]
