"""Products of a few rows with packed weights: tiles of sums stay in registers over all inputs.

A sum is added up in the order of its inputs, whatever its tile: results do not depend on how rows are grouped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sbm_cli.compiled import llvm
from sbm_cli.compiled.jit import apart, jit
from sbm_cli.compiled.vector import LANES, load, pair_sums, pairs, store

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


def packed_halves(weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> list[NDArray[np.float32]]:
    """Return a weight [input, output] and its bias, 0 if None, as `product_of_halves` reads them."""
    bits = np.ascontiguousarray(weight).view(np.uint32)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16  # rounded to nearest, ties to even
    return packed((bits[::2] | bits[1::2] << 16).view(np.float32), bias)


def together(outputs: int) -> int:
    """Return how many inputs a vector of weights meets at once for so few outputs, each its own lanes."""
    return next(own for own in (4, 2, 1) if outputs * own <= LANES or own == 1)


def packed_few(weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> list[NDArray[np.float32]]:
    """Return a weight [input, output] and its bias, 0 if None, as `product_of_few` reads them."""
    inputs, outputs = weight.shape
    own = together(outputs)
    joined = weight.reshape(inputs // own, own, outputs).swapaxes(1, 2).reshape(-1, own * outputs)
    return packed(joined, None if bias is None else np.kron(bias, np.eye(1, own))[0])


def _repeated(builder: Any, pointer: Any, count: int) -> Any:
    """Return a vector that repeats so many numbers."""
    numbers = builder.load(builder.bitcast(pointer, llvm.floats(count).as_pointer()), align=4)
    places = ir.Constant(llvm.integers(LANES), [lane % count for lane in range(LANES)])
    return builder.shuffle_vector(numbers, ir.Constant(numbers.type, ir.Undefined), places)


@intrinsic(prefer_literal=True)
def strip(
    typing, x, x_at, step, apart, rows, weight, weight_at, inputs, bias, bias_at, add, out, out_at, out_step, many, own,
    halves,
):  # fmt: skip
    """Write bias + x times weight, for all rows and a number of vectors of outputs; add: to what is there.

    own: how many neighbouring inputs meet a vector of weights, each its own lanes in turns. halves: whether each number
    of x and weight is two, in bfloat16.
    """
    vectors, neighbours, floats, index = many.literal_value, own.literal_value, llvm.floats(LANES), ir.IntType(64)
    multiply_add = llvm.multiply_add_pairs if halves.literal_value else llvm.multiply_add

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, weight, bias, out = (llvm.address(context, builder, signature, args, i) for i in (0, 5, 8, 11))
        step, apart, rows, inputs, add, out_step = args[2], args[3], args[4], args[7], args[10], args[13]

        def at(pointer: Any, *offsets: Any) -> Any:
            for offset in offsets:
                pointer = builder.gep(pointer, [ir.Constant(index, offset) if isinstance(offset, int) else offset])
            return pointer

        def vectors_at(pointer: Any) -> list[Any]:
            return [builder.bitcast(at(pointer, v * LANES), floats.as_pointer()) for v in range(vectors)]

        def tile(first: Any, count: int) -> None:
            numbers = [builder.add(first, ir.Constant(index, row)) for row in range(count)]
            sources = [at(x, builder.mul(step, row)) for row in numbers]
            targets = [vectors_at(at(out, builder.mul(out_step, row))) for row in numbers]
            sums = [[cgutils.alloca_once(builder, floats) for _ in range(vectors)] for _ in numbers]
            starts = [builder.load(place, align=4) for place in vectors_at(bias)]
            for row in sums:
                for place, start in zip(row, starts, strict=True):
                    builder.store(start, place)
            with builder.if_then(add):
                for row, written in zip(sums, targets, strict=True):
                    for place, target in zip(row, written, strict=True):
                        before = builder.load(target, align=4)
                        builder.store(builder.fadd(builder.load(place), before), place)
            with cgutils.for_range(builder, inputs) as loop:
                begin = at(weight, builder.mul(loop.index, ir.Constant(index, vectors * LANES)))
                factors = [builder.load(place, align=4) for place in vectors_at(begin)]
                offset = builder.mul(loop.index, apart)
                for row, source in zip(sums, sources, strict=True):
                    value = _repeated(builder, at(source, offset), neighbours)
                    for place, factor in zip(row, factors, strict=True):
                        builder.store(multiply_add(builder, factor, value, builder.load(place)), place)
            for row, written in zip(sums, targets, strict=True):
                for place, target in zip(row, written, strict=True):
                    builder.store(builder.load(place), target, align=4)

        height = ir.Constant(index, ROWS)
        tiles = builder.sdiv(rows, height)
        done = builder.mul(tiles, height)
        with cgutils.for_range(builder, tiles) as loop:
            tile(builder.mul(loop.index, height), ROWS)
        with cgutils.for_range(builder, builder.sub(rows, done)) as loop:
            tile(builder.add(done, loop.index), 1)
        return context.get_dummy_value()

    n = types.intp
    signature = types.void(x, n, n, n, n, weight, n, n, bias, n, types.boolean, out, n, n, many, own, halves)
    return signature, generate


@jit
def panels(x, x_at, step, apart, rows, weight, at, inputs, outputs, add, out, out_at, out_step, halves):
    begin = at + outputs
    for j in range(0, outputs, PANEL):
        w, b, o = begin + j * inputs, at + j, out_at + j
        if outputs - j >= PANEL:
            if halves:
                strip(x, x_at, step, apart, rows, weight, w, inputs, weight, b, add, out, o, out_step, 2, 1, True)
            else:
                strip(x, x_at, step, apart, rows, weight, w, inputs, weight, b, add, out, o, out_step, 2, 1, False)
        elif halves:
            strip(x, x_at, step, apart, rows, weight, w, inputs, weight, b, add, out, o, out_step, 1, 1, True)
        else:
            strip(x, x_at, step, apart, rows, weight, w, inputs, weight, b, add, out, o, out_step, 1, 1, False)
    return begin + outputs * inputs


@apart
def product(x, x_at, step, apart, rows, weight, at, inputs, outputs, add, out, out_at, out_step):
    """Write rows of x times a packed weight, plus its bias, into out, or add them; return where the next weight begins.

    step, out_step: from one row to the next; apart: from one input of a row to the next. outputs: in whole vectors.
    """
    return panels(x, x_at, step, apart, rows, weight, at, inputs, outputs, add, out, out_at, out_step, False)


@apart
def product_of_halves(x, rows, weight, at, inputs, outputs, add, out, out_at, out_step):
    """Do as `product`, in bfloat16 with sums in float32; x by `round_to_halves`, the weight by `packed_halves`."""
    words = inputs // 2
    return panels(x, 0, words, 1, rows, weight, at, words, outputs, add, out, out_at, out_step, True)


@apart
def round_to_halves(x, at, count, out):
    """Write numbers of x, a multiple of PANEL, as pairs of bfloat16."""
    for i in range(0, count, PANEL):
        store(out, i // 2, pairs(load(x, at + i), load(x, at + i + LANES)))


@jit
def first_sums(values, at, rows):
    """Replace rows of one vector by the sums of neighbouring lanes, which fill half of it."""
    for i in range(at, at + rows * LANES, LANES):
        store(values, i, pair_sums(load(values, i)))


@apart
def product_of_few(x, x_at, step, rows, weight, at, inputs, outputs, out, out_at):
    """Write rows of x times a weight with few outputs, as `product` does; those of a row are filled up to vectors.

    Lanes that outputs leave free take further inputs: partial sums, which are added at the end.
    """
    bias, begin = at, at + LANES
    if outputs * 4 <= LANES:
        strip(x, x_at, step, 4, rows, weight, begin, inputs // 4, weight, bias, False, out, out_at, LANES, 1, 4, False)
        first_sums(out, out_at, rows)
        first_sums(out, out_at, rows)
        return begin + inputs // 4 * LANES
    if outputs * 2 <= LANES:
        strip(x, x_at, step, 2, rows, weight, begin, inputs // 2, weight, bias, False, out, out_at, LANES, 1, 2, False)
        first_sums(out, out_at, rows)
        return begin + inputs // 2 * LANES
    wide = (outputs + LANES - 1) // LANES * LANES
    return product(x, x_at, step, 1, rows, weight, at, inputs, wide, False, out, out_at, wide)


@apart
def product_of_pairs(x, x_at, step, rows, weight, at, inputs, out, out_at, out_step):
    """Write one vector of outputs for each row as `product` does; inputs: in pairs, one for every second output each.

    So it joins two groups of channels that alternate, without a product of one with the other.
    """
    strip(x, x_at, step, 2, rows, weight, at + LANES, inputs, weight, at, False, out, out_at, out_step, 1, 2, False)
    return at + LANES * (inputs + 1)
