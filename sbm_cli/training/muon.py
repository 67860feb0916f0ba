"""Muon (K. Jordan et al., 2024): the step of a weight matrix is its momentum made orthogonal."""

from __future__ import annotations

from torch import Tensor

POLYNOMIAL = (3.4445, -4.7750, 2.0315)  # Jordan's: steep at 0, so that five rounds take singular values near 1
ROUNDS = 5
RMS = 0.2  # of a step at a rate of 1, as AdamW's steps have (Liu et al., arXiv 2502.16982, section 2.2)


def orthogonal(x: Tensor) -> Tensor:
    """Return the matrices nearest to x, [..., rows, columns], that are orthogonal, roughly, with elements of RMS 0.2.

    Newton-Schulz iteration in bfloat16: singular values come to lie between 0.7 and 1.2 before the scaling.
    """
    rows, columns = x.shape[-2:]
    y = (x if rows <= columns else x.mT).bfloat16()
    y = y / (y.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = POLYNOMIAL
    for _ in range(ROUNDS):
        square = y @ y.mT
        y = a * y + (b * square + c * square @ square) @ y
    return (y if rows <= columns else y.mT).float() * (RMS * max(rows, columns) ** 0.5)
