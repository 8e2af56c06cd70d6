"""A weight in magnitude bands with a tail, the result of Bi-VLM: the closed-form refit of its levels under
the second moment of the inputs, and its conversion to the format `levels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bivlm.formats.encoding.numbers import as_signs
from bivlm.formats.levels import LevelsWeight
from bivlm.quantizers.steps.salient import Tail

# float16 ends at 65504: the tail may be this many times the largest band level before that level loses
# precision
TAIL_RANGE = 32768.0
# float32 numbers of rows * unknowns * columns at a time in the refit of the levels: 128 MiB
REFIT_NUMBERS = 1 << 25


@dataclass(frozen=True, eq=False)
class Banded:
    """Codes, band levels and tail of a weight (out, in) in units of its largest magnitude.

    codes       (out, in) uint8: bands + k for +level k, bands - 1 - k for -level k; 0 under the tail
    levels      (R, G, bands), ascending: R = 1 (one table for the layer) or out, G = 1 or the groups of a row
    group_size  columns that share a table
    positions   (n,) int64, row-major: the weights of the tail
    tail        their four levels, row scales and codes
    """

    codes: Tensor
    levels: Tensor
    group_size: int
    positions: Tensor
    tail: Tail

    @property
    def bands(self) -> int:
        return self.levels.shape[-1]

    def signed_levels(self) -> Tensor:
        """(R, G, 2 bands), ascending: the value of each code."""
        return torch.cat([-self.levels.flip(-1), self.levels], dim=-1)

    def refitted(self, w: Tensor, salient: Tensor, hessian: Tensor, damping: float) -> Banded:
        """Levels (and per-row tail scales) that minimise tr((W-Q) H (W-Q)ᵀ) with unchanged codes; kept only
        if they lower it.

        Per row the unknowns are the groups' levels and the tail's scale: a small linear system. If all rows
        share their levels, the systems of the rows are added.
        """
        damped = hessian + damping * hessian.diagonal().mean() * 0.01 * torch.eye(
            w.shape[1], dtype=torch.float32, device="cpu"
        )
        band = torch.where(
            self.codes >= self.bands, self.codes.int() - self.bands, self.bands - 1 - self.codes.int()
        )
        sign = as_signs(self.codes >= self.bands) * ~salient
        target = w.clone(memory_format=torch.contiguous_format)
        target.view(-1)[self.positions] -= self.tail.values(self.positions // w.shape[1]).float()
        unknowns = self.levels.shape[1] * self.bands
        rows = max(1, REFIT_NUMBERS // (unknowns * w.shape[1]))
        blocks = zip(band.split(rows), sign.split(rows), target.split(rows), strict=True)
        systems = (self._normal_equations(*block, damped) for block in blocks)
        if self.levels.shape[0] == 1:
            normals, rights = zip(
                *((normal.sum(0, keepdim=True), right.sum(0, keepdim=True)) for normal, right in systems),
                strict=True,
            )
            systems = [(torch.stack(normals).sum(0), torch.stack(rights).sum(0))]
        solved = (
            torch.cat([_solved(normal, right) for normal, right in systems])
            .float()
            .reshape(self.levels.shape)
        )
        better = solved.clamp_min(0.0).cummax(dim=-1).values
        refit = Banded(self.codes, better, self.group_size, self.positions, self.tail)
        return min((self, refit), key=lambda banded: banded.loss(w, hessian))

    def _normal_equations(
        self, band: Tensor, sign: Tensor, target: Tensor, hessian: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(rows, U, U) and (rows, U) float64 of some rows, U = groups * bands: an unknown has the factor one
        in its own group's columns, and zero elsewhere.
        """
        groups = [slice(start, start + self.group_size) for start in range(0, band.shape[1], self.group_size)]
        patterns = [
            torch.stack(
                [torch.where(band[:, group] == k, sign[:, group], 0.0) for k in range(self.bands)], dim=1
            )
            for group in groups
        ]
        weighted = torch.cat(
            [pattern @ hessian[group] for pattern, group in zip(patterns, groups, strict=True)], dim=1
        )  # (rows, U, in)
        normal = torch.cat(
            [weighted[:, :, group] @ pattern.mT for pattern, group in zip(patterns, groups, strict=True)],
            dim=-1,
        )
        return normal.double(), (weighted @ target[..., None])[..., 0].double()

    def loss(self, w: Tensor, hessian: Tensor) -> float:
        difference = w - self.to_levels(1.0).dequantize()
        return float(((difference @ hessian) * difference).sum())

    def to_levels(self, largest: float) -> LevelsWeight:
        """In the format: float16 tables relative to one float32 scale."""
        tail_largest = (
            float(self.tail.scale.max() * self.tail.levels.abs().max()) if len(self.positions) else 0.0
        )
        unit = max(float(self.levels.max()), tail_largest / TAIL_RANGE)
        unit = unit if unit > 0 else 1.0
        level_unit = float(self.tail.levels.abs().max()) or 1.0
        has_tail = len(self.positions) > 0
        return LevelsWeight(
            codes=self.codes,
            levels=(self.levels / unit).half(),
            scale=torch.tensor(
                max(unit * largest, torch.finfo(torch.float32).tiny), dtype=torch.float32, device="cpu"
            ),
            alphabet=2 * self.bands,
            symmetric=True,
            group_size=self.group_size if self.levels.shape[1] > 1 else self.codes.shape[1],
            tail_positions=self.positions,
            tail_codes=self.tail.codes,
            tail_levels=(self.tail.levels / level_unit).half(),
            tail_scale=(
                (self.tail.scale * level_unit / unit).half()
                if has_tail
                else torch.zeros(0, dtype=torch.float16, device="cpu")
            ),
        )


def mask_of(positions: Tensor, shape: torch.Size) -> Tensor:
    """(out, in) bool, True at the row-major `positions`."""
    mask = torch.zeros(shape, dtype=torch.bool, device="cpu")
    mask.view(-1)[positions] = True
    return mask


def _solved(normal: Tensor, right: Tensor) -> Tensor:
    """Solutions (…, U) of the systems; an unknown that no weight uses is 0."""
    damped = normal.clone()
    damped.diagonal(dim1=1, dim2=2).add_(1e-8 * normal.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + 1e-30)
    return torch.linalg.solve(damped, right)
