"""Products of a few rows with packed weights: tiles of sums stay in registers over all inputs.

A sum is added up in the order of its inputs, whatever its tile: results do not depend on how rows are grouped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sbm_cli.compiled import llvm
from sbm_cli.compiled.jit import apart
from sbm_cli.compiled.vector import LANES

WIDE = llvm.has("avx512vl")  # 32 registers instead of 16
ROWS = 8 if WIDE else 4  # of a tile; independent sums hide the latency
PANEL = 2 * LANES  # outputs of a tile


def whole(count: int) -> int:
    """Return a number of outputs filled up to whole vectors."""
    return -(-count // LANES) * LANES


def packed(weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> list[NDArray[np.float32]]:
    """Return a weight [input, output] and its bias, 0 if None, as `product` reads them, filled up to whole vectors."""
    inputs, outputs = weight.shape
    padded = np.zeros((inputs + 1, whole(outputs)), np.float32)
    padded[1:, :outputs] = weight
    if bias is not None:
        padded[0, :outputs] = bias
    panels = [padded[1:, start : start + PANEL].ravel() for start in range(0, whole(outputs), PANEL)]
    return [padded[0], *panels]


def _place(context: Any, builder: Any, signature: Any, args: Sequence[Any], i: int) -> Any:
    """Return where argument i, an array, lies at the place that the argument behind it names."""
    return builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [args[i + 1]])


@intrinsic(prefer_literal=True)
def tile(
    typing, x, x_at, step, apart, weight, weight_at, inputs, bias, bias_at, add, out, out_at, out_step, rows, many
):
    """Write bias + x times weight, for a number of rows and of vectors of outputs; add: to what is there."""
    count, vectors = rows.literal_value, many.literal_value

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        floats, index = llvm.floats(LANES).as_pointer(), ir.IntType(64)
        x, weight, bias, out = (_place(context, builder, signature, args, i) for i in (0, 4, 7, 10))
        step, apart, inputs, add, out_step = args[2], args[3], args[6], args[9], args[12]

        def at(pointer: Any, *offsets: Any) -> Any:
            for offset in offsets:
                pointer = builder.gep(pointer, [ir.Constant(index, offset) if isinstance(offset, int) else offset])
            return pointer

        def vector(pointer: Any) -> Any:
            return builder.bitcast(pointer, floats)

        numbers = [ir.Constant(index, row) for row in range(count)]
        sources = [at(x, builder.mul(step, row)) for row in numbers]
        targets = [[vector(at(out, builder.mul(out_step, row), v * LANES)) for v in range(vectors)] for row in numbers]
        sums = [[cgutils.alloca_once(builder, llvm.floats(LANES)) for _ in range(vectors)] for _ in numbers]
        starts = [builder.load(vector(at(bias, v * LANES)), align=4) for v in range(vectors)]
        for row in sums:
            for place, start in zip(row, starts, strict=True):
                builder.store(start, place)
        with builder.if_then(add):
            for row, written in zip(sums, targets, strict=True):
                for place, target in zip(row, written, strict=True):
                    before = builder.load(target, align=4)
                    builder.store(builder.fadd(builder.load(place), before), place)
        with cgutils.for_range(builder, inputs) as loop:
            first = at(weight, builder.mul(loop.index, ir.Constant(index, vectors * LANES)))
            factors = [builder.load(vector(at(first, v * LANES)), align=4) for v in range(vectors)]
            offset = builder.mul(loop.index, apart)
            for row, source in zip(sums, sources, strict=True):
                value = llvm.splat(builder, builder.load(at(source, offset)), LANES)
                for place, factor in zip(row, factors, strict=True):
                    builder.store(llvm.multiply_add(builder, factor, value, builder.load(place)), place)
        for row, written in zip(sums, targets, strict=True):
            for place, target in zip(row, written, strict=True):
                builder.store(builder.load(place), target, align=4)
        return context.get_dummy_value()

    n = types.intp
    signature = types.void(x, n, n, n, weight, n, n, bias, n, types.boolean, out, n, n, rows, many)
    return signature, generate


@apart
def product(x, x_at, step, apart, rows, weight, at, inputs, outputs, add, out, out_at, out_step):
    """Write rows of x times a packed weight, plus its bias, into out, or add them; return where the next weight begins.

    step, out_step: from one row to the next; apart: from one input of a row to the next. outputs: in whole vectors.
    """
    panels = at + outputs
    many = rows - rows % ROWS
    for j in range(0, outputs, PANEL):
        w, o = panels + j * inputs, out_at + j
        if outputs - j >= PANEL:
            for r in range(0, many, ROWS):
                tile(x, x_at + r * step, step, apart, weight, w, inputs, weight, at + j, add,
                     out, o + r * out_step, out_step, ROWS, 2)  # fmt: skip
            for r in range(many, rows):
                tile(x, x_at + r * step, step, apart, weight, w, inputs, weight, at + j, add,
                     out, o + r * out_step, out_step, 1, 2)  # fmt: skip
        else:
            for r in range(0, many, ROWS):
                tile(x, x_at + r * step, step, apart, weight, w, inputs, weight, at + j, add,
                     out, o + r * out_step, out_step, ROWS, 1)  # fmt: skip
            for r in range(many, rows):
                tile(x, x_at + r * step, step, apart, weight, w, inputs, weight, at + j, add,
                     out, o + r * out_step, out_step, 1, 1)  # fmt: skip
    return panels + outputs * inputs
