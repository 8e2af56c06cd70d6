"""The levels of the windows in `trellis`: int8, in 32nds of the standard deviation of the weights of a row.

The highest K bits of a window of L bits, b, belong to its own weight; the bits below, q, come from the
weights before it. For every q the 2^K levels must lie far apart, so that there is a real choice. The levels
of different q must look random.

L = 12 and 16: a stratified code, computed. Its levels are the 2^L quantiles of a normal distribution. The 2^K
levels with the same q have one quantile from each 2^K-th part of the distribution. A hash of q decides their
order and their places within the parts:

    z = (b + (q · 0x9E3779B1 mod 2^32) >> (32 - K)) mod 2^K,     rank = z · 2^(L-K) + mix(q, z)
    level = round(32 · SPREAD_K · Φ⁻¹((rank + ½) / 2^L)), at most 127 in size
    mix(x, z): `_mix`, a permutation of 0 … 2^(L-K) - 1 for every z

L = 8: this code is too coarse, so its levels are fitted. The fit starts from many such codes with other
multipliers. It moves every level to the mean of the weights that chose it, again and again, with less and
less noise (the generalised Lloyd algorithm with annealing), and keeps the best table.
benchmarks/fit_trellis_tables.py printed the tables below.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from bivlm.formats.encoding.trellis_checks import MOST_BITS

UNIT = 32.0  # a level of 32 is one standard deviation
LARGEST = 127
SPREAD = {1: 0.88, 2: 1.02, 3: 1.05, 4: 1.06}  # by K: measured on normal weights


@cache
def standard_tables(window: int) -> Tensor:
    """The levels for K = 1 … 4: (4, 2^window) int8, on the CPU. Not to be changed in place."""
    if window == 8:
        return torch.stack([torch.frombuffer(bytearray.fromhex(table), dtype=torch.int8) for table in FITTED])
    return (
        torch.stack([stratified(window, k) for k in range(1, MOST_BITS + 1)])
        .round()
        .clamp(-LARGEST, LARGEST)
        .to(torch.int8)
    )


def stratified(window: int, k: int) -> Tensor:
    """The levels (2^window,) float64 of the stratified code for K = k bits per weight, before rounding."""
    low = window - k
    number = torch.arange(1 << window, dtype=torch.int64, device="cpu")
    fresh, past = number >> low, number & ((1 << low) - 1)
    turned = (past * 0x9E3779B1 & 0xFFFFFFFF) >> (32 - k)
    part = (fresh + turned) & ((1 << k) - 1)
    rank = (part << low) + _mix(past, part, low)
    return UNIT * SPREAD[k] * torch.special.ndtri((rank.double() + 0.5) / (1 << window))


def _mix(x: Tensor, part: Tensor, size: int) -> Tensor:
    """A permutation of the numbers of `size` bits for every part: two odd multipliers; after each the upper
    half is xored onto the lower half.
    """
    mask, half = (1 << size) - 1, (size + 1) // 2
    x = (x * 0x2C1B3C6D + (part + 1) * 0x297A2D39) & mask
    x = x ^ (x >> half)
    x = x * 0x1B56C4E9 & mask
    return x ^ (x >> half)


FITTED = (
    "21ef08ec0de044f910e71aec15f20fe408c71bf825f418ee0ce1f215e70bf01fcd0bf41eff45e707e40ef831f41ede0ce917ec17e00a31f606c729f628f203c0"
    "11eb35f610e80fe418ef0ee40ac82af225f6e713dc13d40cf733e50df320f60df73dc306dc10ec1dda0feb0e08ef13f813e70de11dfa05c529f40cf30acd27f3"
    "ee1cd415df0ff92cef08ef1af018e60dc702ef22f619ef18e80b13f012d917f009ec29f640020dcf09d931f81ced10df15f020f012d7fb37c803f826f020c504"
    # K = 1
    "f013f933ee11e10ff122de0dca04f31df42a10e00ce60ee830fa0cda16ef1aea2efc05c60ae522f710e611dce50bf62eee16ea14f935d007f517e30bea09f528",
    "e13310f9eed11d040af9e2262506f5dac82406ecf9e5461411fcdf311c03eecce65e14fdedcd2a0505f0cf1e3110f9e4c92a09eff0db1c0513fce13c1902e9b3"
    "fce3391507f5d920250df9e1d5240af3f0c9250811fde23d3614f8b7ce1b04eefee4411504f0da1a1d06f0d3e32c0ff9f2d3280b06f2bc214316fde3a21c04ea"
    "12f9e42f1c08f4d3dd2c0af4f2d61f0708eebd4c2a11fce1e14411f5f4d61f0715fee4301a08f4d7cb1d04f0fae1260f0ef5db34200af0c2e13612fce9ae1d03"
    # K = 2
    "2f10f9dfc51d07f1f7df2a0a0af1d81f2005edc5e03815fcf9e0301007f1d5225317ffe8c12009f1edcc200511fadd352e0cf4d5d82109f2fce0441202ecbd1b",
    "cedfebf6030e2039d1e4f1fe0b162233c3ddedfa0613214aa7e8f4fe0c1a2cd7e0eef8020e1d33cae2f2fd0a162438b8daedfa0513244d97daf5010d1a2ec8e8"
    "edfa030e1b31c8e0f1fe0a17273ab1e0effb07132259d4e4ea020d1a2fc5dcf6f905111d2fc3e0effd0717256ab3dceffc0611253fd2e5f2f60c1a2ec3dbeb00"
    "06132031bddceefa07142656d3e2f0fa03101d36cce2effb001929bbd8e9f50c132345bcd9edf907152646d4e5f2fb060f1c2ecce0effa050b263bd2e7f50017"
    # K = 3
    "2336add7eaf804122349d4e6f3fd07121c2dc7ddedf9030f193ad1e6f2020d2641cfdae9f70310243bd1e4f1ff09131e2dc7e0ecfb06101c2bd2e6f4000d1a3e",
    "c40fed3c08e52e01dd23fbd41cf4b815d516f48c0eec3e07e62e01de26fac91dde1df9c815f2bb0eec3f07e53100d625e526ffd51df8c816f3a50eed4007df30"
    "ec3206de27ffd31ff9c616f2ab0ee63ef3710de73506e028ffd61df9cc15ed9cfabb13ef450be93604e12500d91cf4ce00d11af6be11f0610aea2f05e224fbd9"
    "05db21fcd018f7c111f1530bea2e01e30be22902db1ffcd018f7c611f05909ea0dea3608e32902da1ffccf19f7c212f113f14d0dea3408e22902d921fdce1af8"
    # K = 4
    "19f7b612f0430de93407e12a02d621fd22fdcd1af6b114f0460ee83908df2b032d03d823fcca1af6b014ef490fe73909390ae52e02dc22fcd11af5c014ee4d0f",
)
