"""Selective scan and causal convolution on the CPU, forward and backward, compiled by Numba.

Notable
- Everything is written on one small type, a vector of LANES float32 channels held in a register, so that nothing depends on what
  the auto-vectoriser makes of a loop.
- Time is walked in segments. A segment's inputs are first staged into a scratch of a few kilobytes (softplus and gate included), then
  each vector of channels runs through the segment with four states in registers.
- Training keeps the state at every segment start only; backward recomputes inside the segment.
- Sums over sequences (A, D, weight, bias) run in chunks of fixed size, so results do not depend on the number of threads.
- Kernels are serial and release the GIL; a small pool of Python threads runs them over ranges of sequences.
All kernels and helpers stay in this file: Numba's disk cache does not notice edits in another one.
"""

import functools
import operator
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
SEGMENT = 16  # frames between two stored states; also the length of the staged scratch
GROUP = 4  # states advanced together: enough independent chains to hide latency, few enough to stay in registers
CHUNK = 4  # sequences whose parameter gradients are summed together
TAPS = 4  # kernel size of the convolution
LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453

# --- a vector of LANES floats as a Numba type ------------------------------------------------------------------------

FLAGS = ("contract", "arcp", "nsz")  # neither nnan nor ninf: a NaN must come out as one
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)


class _VectorType(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


VECTOR = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, FLOATS)


def _constant(value: float) -> Any:
    return ir.Constant(FLOATS, [ir.Constant(ir.FloatType(), float(np.float32(value)))] * LANES)


def _integer(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)


def _widen(context: Any, builder: Any, value: Any, kind: Any) -> Any:
    """Return the value as a vector: scalars fill all lanes."""
    if isinstance(kind, _VectorType):
        return value
    value = context.cast(builder, value, kind, types.float32)
    first = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(FLOATS, ir.Undefined), _integer(0))


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), FLOATS.as_pointer())


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    @intrinsic  # type: ignore[untyped-decorator]
    def apply(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            operands = [_widen(context, builder, *pair) for pair in zip(args, signature.args, strict=True)]
            return getattr(builder, instruction)(*operands, flags=FLAGS)

        return VECTOR(left, right), generate

    @overload(symbol)  # type: ignore[untyped-decorator]
    def implement(left, right):  # type: ignore[no-untyped-def]  # Numba compares this signature with the lambda's
        if isinstance(left, _VectorType) or isinstance(right, _VectorType):
            return lambda left, right: apply(left, right)
        return None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define_operator(_symbol, _instruction)


@intrinsic  # type: ignore[untyped-decorator]
def splat(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _widen(context, builder, args[0], signature.args[0])

    return VECTOR(value), generate


@intrinsic  # type: ignore[untyped-decorator]
def load(typing_context: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args), align=4)

    return VECTOR(array, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def fill(typing_context: Any, array: Any, index: Any) -> Any:
    """Load one number into all lanes; array[index] would also test for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _widen(context, builder, builder.load(builder.gep(data, [args[1]])), types.float32)

    return VECTOR(array, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


@intrinsic  # type: ignore[untyped-decorator]
def negative_magnitude(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.or_(builder.bitcast(args[0], INTS), _integer(-(2**31))), FLOATS)

    return VECTOR(VECTOR), generate


@intrinsic  # type: ignore[untyped-decorator]
def where_negative(typing_context: Any, value: Any, then: Any, other: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        negative = builder.fcmp_ordered("<", args[0], _constant(0.0))
        return builder.select(negative, args[1], args[2])

    return VECTOR(VECTOR, VECTOR, VECTOR), generate


@intrinsic  # type: ignore[untyped-decorator]
def exp2_negative(typing_context: Any, value: Any) -> Any:
    """2**x for x <= 0: the fraction by a polynomial that is exact at 0, the whole part added to its exponent. Relative error 2e-7."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, magic = (
            _constant(-125.0),
            _constant(1.5 * 2**23),
        )  # adding 1.5 * 2**23 leaves the nearest whole number in the low bits
        x = builder.select(builder.fcmp_ordered("<", args[0], low), low, args[0])
        shifted = builder.fadd(x, magic)  # no flags here and below: the compiler may not cancel the magic number
        fraction = builder.fsub(x, builder.fsub(shifted, magic))
        result = _constant(0.0013264727630027005)
        for c in (0.009671512646240624, 0.055507337417524824, 0.2402224208525833, 0.6931469776002883, 1.0):
            result = builder.fadd(builder.fmul(result, fraction, flags=FLAGS), _constant(c), flags=FLAGS)
        exponent = builder.shl(builder.bitcast(shifted, INTS), _integer(23))
        return builder.bitcast(builder.add(builder.bitcast(result, INTS), exponent), FLOATS)

    return VECTOR(VECTOR), generate


@intrinsic  # type: ignore[untyped-decorator]
def lane_sums(typing_context: Any, array: Any, index: Any) -> Any:
    """Sum each of LANES consecutive vectors over its lanes; the sums are the lanes of the result."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = _address(context, builder, signature.args[0], *args)
        rows = [builder.load(builder.gep(start, [ir.Constant(ir.IntType(64), i)]), align=4) for i in range(LANES)]
        even, odd = (ir.Constant(INTS, list(range(first, 2 * LANES, 2))) for first in (0, 1))
        while len(rows) > 1:
            pairs = zip(rows[::2], rows[1::2], strict=True)
            rows = [
                builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd)) for a, b in pairs
            ]
        return rows[0]

    return VECTOR(array, types.intp), generate


# --- kernels ---------------------------------------------------------------------------------------------------------


def _compiled(function: Callable[..., Any]) -> Any:
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable place for the cache: compile in every process
        return numba.njit(**options)(function)


@_compiled
def sigmoid(x):  # type: ignore[no-untyped-def]
    tail = exp2_negative(negative_magnitude(x) * LOG2E)
    upper = 1.0 / (1.0 + tail)
    return where_negative(x, tail * upper, upper)


@_compiled
def softplus(x):  # type: ignore[no-untyped-def]
    """Return softplus and its derivative, the sigmoid."""
    # max(x, 0) + log1p(e), e = exp(-|x|); log1p(e) = 2 artanh(s), s = e / (2 + e): relative precision for every x
    tail = exp2_negative(negative_magnitude(x) * LOG2E)
    s = tail / (2.0 + tail)
    q = s * s
    series = q * 0.28181658304931984 + 0.27959726279664016
    series = series * q + 0.40024992819909333
    series = series * q + 0.6666631183589535
    series = series * q + 2.000000008043254
    upper = 1.0 / (1.0 + tail)
    return where_negative(x, splat(0.0), x) + s * series, where_negative(x, tail * upper, upper)


# The scratch of a segment lies in blocks of one vector of channels, in a block array after array, in an array frame after frame:
# what one vector needs for a whole segment is one piece of memory. ROW is the length of an array.
ROW = SEGMENT * LANES
STEP, DRIVE, SUM, GRAD, GRAD_DRIVE, GRAD_STEP, SLOPE, GATE, FORWARD_ROWS, BACKWARD_ROWS = (
    0,
    1 * ROW,
    2 * ROW,
    3 * ROW,
    4 * ROW,
    5 * ROW,
    6 * ROW,
    7 * ROW,
    3,
    8,
)
KEPT = GROUP * LANES  # states of one group at one frame


@_compiled
def origin(sequence, bands, strides):  # type: ignore[no-untyped-def]
    """Return where a sequence's first row begins."""
    return sequence // bands * strides[0] + sequence % bands * strides[2]


@_compiled
def scan_forward(
    first,
    last,
    bands,
    frames,
    channels,
    states,
    u,
    u_at,
    dt,
    dt_at,
    decay,
    b,
    b_at,
    c,
    c_at,
    skip,
    z,
    z_at,
    h,
    kept,
    y,
    y_at,
    scratch,
):  # type: ignore[no-untyped-def]
    segments = (frames + SEGMENT - 1) // SEGMENT
    size = states * channels
    for group in range(
        first, last, CHUNK
    ):  # neighbouring bands go through a segment together: their rows adjoin in memory
        for segment in range(segments):
            start = segment * SEGMENT
            length = min(SEGMENT, frames - start)
            for sequence in range(group, min(group + CHUNK, last)):
                u_base = origin(sequence, bands, u_at) + start * u_at[1]
                dt_base = origin(sequence, bands, dt_at) + start * dt_at[1]
                z_base = origin(sequence, bands, z_at) + start * z_at[1]
                y_base = origin(sequence, bands, y_at) + start * y_at[1]
                state = sequence * size
                if kept.size > 0:
                    for i in range(0, size, LANES):
                        store(kept, (sequence * segments + segment) * size + i, load(h, state + i))
                for k in range(length):
                    for i in range(0, channels, LANES):
                        at = FORWARD_ROWS * SEGMENT * i + k * LANES
                        step, _ = softplus(load(dt, dt_base + k * dt_at[1] + i))
                        value = load(u, u_base + k * u_at[1] + i)
                        store(scratch, at + STEP, step)
                        store(scratch, at + DRIVE, step * value)
                        store(scratch, at + SUM, load(skip, i) * value)
                for n in range(0, states, GROUP):
                    for i in range(0, channels, LANES):
                        j = n * channels + i
                        a0, h0 = load(decay, j), load(h, state + j)
                        a1, h1 = load(decay, j + channels), load(h, state + j + channels)
                        a2, h2 = load(decay, j + 2 * channels), load(h, state + j + 2 * channels)
                        a3, h3 = load(decay, j + 3 * channels), load(h, state + j + 3 * channels)
                        at = FORWARD_ROWS * SEGMENT * i
                        bn = origin(sequence, bands, b_at) + start * b_at[1] + n
                        cn = origin(sequence, bands, c_at) + start * c_at[1] + n
                        for _ in range(length):
                            step, drive, total = (
                                load(scratch, at + STEP),
                                load(scratch, at + DRIVE),
                                load(scratch, at + SUM),
                            )
                            h0 = exp2_negative(step * a0) * h0 + drive * fill(b, bn)
                            h1 = exp2_negative(step * a1) * h1 + drive * fill(b, bn + 1)
                            h2 = exp2_negative(step * a2) * h2 + drive * fill(b, bn + 2)
                            h3 = exp2_negative(step * a3) * h3 + drive * fill(b, bn + 3)
                            total = total + h0 * fill(c, cn)
                            total = total + h1 * fill(c, cn + 1)
                            total = total + h2 * fill(c, cn + 2)
                            total = total + h3 * fill(c, cn + 3)
                            store(scratch, at + SUM, total)
                            at, bn, cn = at + LANES, bn + b_at[1], cn + c_at[1]
                        store(h, state + j, h0)
                        store(h, state + j + channels, h1)
                        store(h, state + j + 2 * channels, h2)
                        store(h, state + j + 3 * channels, h3)
                for k in range(length):
                    for i in range(0, channels, LANES):
                        gate = load(z, z_base + k * z_at[1] + i)
                        total = load(scratch, FORWARD_ROWS * SEGMENT * i + k * LANES + SUM)
                        store(y, y_base + k * y_at[1] + i, total * (gate * sigmoid(gate)))


@_compiled
def reverse(
    scratch, kept, sums, width, grad, step, drive, rate, b, c, state, grad_state, grad_drive, grad_step, grad_rate
):  # type: ignore[no-untyped-def]
    """Go one frame back with one state.

    kept: where the scratch has its decay and, half of `width` on, its value before the frame; sums: where the products that sum to
    the gradients of b and c are added up. Returns the state before the frame and the gradients of state, drive, step and rate.
    """
    grad_state = grad_state + grad * c
    store(scratch, sums, load(scratch, sums) + grad_state * drive)
    store(scratch, sums + width, load(scratch, sums + width) + grad * state)
    grad_drive = grad_drive + grad_state * b
    grad_state = grad_state * load(scratch, kept)
    before = load(scratch, kept + SEGMENT * KEPT)
    change = grad_state * before
    return before, grad_state, grad_drive, grad_step + change * rate, grad_rate + change * step


@_compiled
def scan_backward(
    first,
    last,
    bands,
    frames,
    channels,
    states,
    u,
    u_at,
    dt,
    dt_at,
    decay,
    b,
    b_at,
    c,
    c_at,
    skip,
    z,
    z_at,
    kept,
    gy,
    gy_at,
    gh,
    gu,
    gdt,
    gz,
    g_at,
    gb,
    gc,
    gbc_at,
    ga,
    gskip,
    scratch,
):  # type: ignore[no-untyped-def]
    segments = (frames + SEGMENT - 1) // SEGMENT
    size = states * channels
    sums = (
        BACKWARD_ROWS * SEGMENT * channels
    )  # here the scratch goes on with the wide sums for b and c [frame, state, LANES]
    width = SEGMENT * states * LANES
    history = sums + 2 * width  # then decays and states of one group of states [frame, GROUP, LANES]
    narrow = history + 2 * SEGMENT * KEPT  # and the sums over lanes
    for group in range(first, last, CHUNK):
        grad_rate, grad_skip = group // CHUNK * size, group // CHUNK * channels
        for segment in range(segments - 1, -1, -1):
            start = segment * SEGMENT
            length = min(SEGMENT, frames - start)
            for sequence in range(group, min(group + CHUNK, last)):
                u_base = origin(sequence, bands, u_at) + start * u_at[1]
                dt_base = origin(sequence, bands, dt_at) + start * dt_at[1]
                z_base = origin(sequence, bands, z_at) + start * z_at[1]
                gy_base = origin(sequence, bands, gy_at) + start * gy_at[1]
                g_base = origin(sequence, bands, g_at) + start * g_at[1]
                before = (sequence * segments + segment) * size
                grad_state = sequence * size
                for k in range(length):
                    for i in range(0, channels, LANES):
                        at = BACKWARD_ROWS * SEGMENT * i + k * LANES
                        value = load(u, u_base + k * u_at[1] + i)
                        gate = load(z, z_base + k * z_at[1] + i)
                        gout = load(gy, gy_base + k * gy_at[1] + i)
                        step, slope = softplus(load(dt, dt_base + k * dt_at[1] + i))
                        opening = sigmoid(gate)
                        grad = gout * (gate * opening)
                        store(scratch, at + STEP, step)
                        store(scratch, at + DRIVE, step * value)
                        store(scratch, at + SUM, load(skip, i) * value)
                        store(scratch, at + GRAD, grad)
                        store(scratch, at + GRAD_DRIVE, splat(0.0))
                        store(scratch, at + GRAD_STEP, splat(0.0))
                        store(scratch, at + SLOPE, slope)
                        store(scratch, at + GATE, gout * (opening * (1.0 + gate * (1.0 - opening))))
                        store(gskip, grad_skip + i, load(gskip, grad_skip + i) + grad * value)
                for i in range(0, 2 * width, LANES):
                    store(scratch, sums + i, splat(0.0))
                for n in range(0, states, GROUP):
                    for i in range(0, channels, LANES):
                        j = n * channels + i
                        a0, h0 = load(decay, j), load(kept, before + j)
                        a1, h1 = load(decay, j + channels), load(kept, before + j + channels)
                        a2, h2 = load(decay, j + 2 * channels), load(kept, before + j + 2 * channels)
                        a3, h3 = load(decay, j + 3 * channels), load(kept, before + j + 3 * channels)
                        at = BACKWARD_ROWS * SEGMENT * i
                        bn = origin(sequence, bands, b_at) + start * b_at[1] + n
                        cn = origin(sequence, bands, c_at) + start * c_at[1] + n
                        p = history
                        for _ in range(length):
                            store(scratch, p + SEGMENT * KEPT, h0)
                            store(scratch, p + SEGMENT * KEPT + LANES, h1)
                            store(scratch, p + SEGMENT * KEPT + 2 * LANES, h2)
                            store(scratch, p + SEGMENT * KEPT + 3 * LANES, h3)
                            step, drive, total = (
                                load(scratch, at + STEP),
                                load(scratch, at + DRIVE),
                                load(scratch, at + SUM),
                            )
                            e0, e1 = exp2_negative(step * a0), exp2_negative(step * a1)
                            e2, e3 = exp2_negative(step * a2), exp2_negative(step * a3)
                            store(scratch, p, e0)
                            store(scratch, p + LANES, e1)
                            store(scratch, p + 2 * LANES, e2)
                            store(scratch, p + 3 * LANES, e3)
                            h0 = e0 * h0 + drive * fill(b, bn)
                            h1 = e1 * h1 + drive * fill(b, bn + 1)
                            h2 = e2 * h2 + drive * fill(b, bn + 2)
                            h3 = e3 * h3 + drive * fill(b, bn + 3)
                            total = total + h0 * fill(c, cn)
                            total = total + h1 * fill(c, cn + 1)
                            total = total + h2 * fill(c, cn + 2)
                            total = total + h3 * fill(c, cn + 3)
                            store(scratch, at + SUM, total)
                            at, p, bn, cn = at + LANES, p + KEPT, bn + b_at[1], cn + c_at[1]
                        g, r = grad_state + j, grad_rate + j
                        g0, r0 = load(gh, g), load(ga, r)
                        g1, r1 = load(gh, g + channels), load(ga, r + channels)
                        g2, r2 = load(gh, g + 2 * channels), load(ga, r + 2 * channels)
                        g3, r3 = load(gh, g + 3 * channels), load(ga, r + 3 * channels)
                        q = sums + (length * states + n) * LANES
                        for _ in range(length):
                            at, p, q, bn, cn = at - LANES, p - KEPT, q - states * LANES, bn - b_at[1], cn - c_at[1]
                            step, drive, grad = (
                                load(scratch, at + STEP),
                                load(scratch, at + DRIVE),
                                load(scratch, at + GRAD),
                            )
                            gd, gs = load(scratch, at + GRAD_DRIVE), load(scratch, at + GRAD_STEP)
                            h0, g0, gd, gs, r0 = reverse(
                                scratch,
                                p,
                                q,
                                width,
                                grad,
                                step,
                                drive,
                                a0,
                                fill(b, bn),
                                fill(c, cn),
                                h0,
                                g0,
                                gd,
                                gs,
                                r0,
                            )
                            h1, g1, gd, gs, r1 = reverse(
                                scratch,
                                p + LANES,
                                q + LANES,
                                width,
                                grad,
                                step,
                                drive,
                                a1,
                                fill(b, bn + 1),
                                fill(c, cn + 1),
                                h1,
                                g1,
                                gd,
                                gs,
                                r1,
                            )
                            h2, g2, gd, gs, r2 = reverse(
                                scratch,
                                p + 2 * LANES,
                                q + 2 * LANES,
                                width,
                                grad,
                                step,
                                drive,
                                a2,
                                fill(b, bn + 2),
                                fill(c, cn + 2),
                                h2,
                                g2,
                                gd,
                                gs,
                                r2,
                            )
                            h3, g3, gd, gs, r3 = reverse(
                                scratch,
                                p + 3 * LANES,
                                q + 3 * LANES,
                                width,
                                grad,
                                step,
                                drive,
                                a3,
                                fill(b, bn + 3),
                                fill(c, cn + 3),
                                h3,
                                g3,
                                gd,
                                gs,
                                r3,
                            )
                            store(scratch, at + GRAD_DRIVE, gd)
                            store(scratch, at + GRAD_STEP, gs)
                        store(gh, g, g0)
                        store(gh, g + channels, g1)
                        store(gh, g + 2 * channels, g2)
                        store(gh, g + 3 * channels, g3)
                        store(ga, r, r0)
                        store(ga, r + channels, r1)
                        store(ga, r + 2 * channels, r2)
                        store(ga, r + 3 * channels, r3)
                for i in range(0, 2 * width, LANES * LANES):
                    store(scratch, narrow + i // LANES, lane_sums(scratch, sums + i))
                gbc_base = origin(sequence, bands, gbc_at) + start * gbc_at[1]
                for k in range(length):
                    for n in range(states):
                        gb[gbc_base + k * gbc_at[1] + n] = scratch[narrow + k * states + n]
                        gc[gbc_base + k * gbc_at[1] + n] = scratch[narrow + (SEGMENT + k) * states + n]
                for k in range(length):
                    for i in range(0, channels, LANES):
                        at, out = BACKWARD_ROWS * SEGMENT * i + k * LANES, g_base + k * g_at[1] + i
                        value, grad_drive = load(u, u_base + k * u_at[1] + i), load(scratch, at + GRAD_DRIVE)
                        grad_step = load(scratch, at + GRAD_STEP) * LN2 + grad_drive * value
                        store(gu, out, grad_drive * load(scratch, at + STEP) + load(scratch, at + GRAD) * load(skip, i))
                        store(gdt, out, grad_step * load(scratch, at + SLOPE))
                        store(gz, out, load(scratch, at + SUM) * load(scratch, at + GATE))


@_compiled
def conv_sum(x, at, step, taps, bias, i, channels):  # type: ignore[no-untyped-def]
    """Return the sum over the taps; at: where the newest input lies, step: how far before it the previous one."""
    total = load(bias, i)
    for j in range(TAPS):
        total = total + load(taps, j * channels + i) * load(x, at - (TAPS - 1 - j) * step)
    return total


@_compiled
def conv_head(group, end, bands, frames, channels, x, x_at, before, head):  # type: ignore[no-untyped-def]
    """Copy the inputs before the first frame and the first ones behind each other: [sequence, 2 (TAPS - 1), channel]."""
    for sequence in range(group, end):
        for k in range(2 * TAPS - 2):
            for i in range(0, channels, LANES):
                target = ((sequence - group) * (2 * TAPS - 2) + k) * channels + i
                if k < TAPS - 1:
                    store(head, target, load(before, (sequence * (TAPS - 1) + k) * channels + i))
                elif k - TAPS + 1 < frames:
                    store(head, target, load(x, origin(sequence, bands, x_at) + (k - TAPS + 1) * x_at[1] + i))


@_compiled
def conv_forward(first, last, bands, frames, channels, x, x_at, taps, bias, before, y, y_at, scratch):  # type: ignore[no-untyped-def]
    for group in range(first, last, CHUNK):
        end = min(group + CHUNK, last)
        conv_head(group, end, bands, frames, channels, x, x_at, before, scratch)
        for k in range(frames):
            for sequence in range(group, end):
                source, at, step = x, origin(sequence, bands, x_at) + k * x_at[1], x_at[1]
                if k < TAPS - 1:
                    source, at, step = (
                        scratch,
                        ((sequence - group) * (2 * TAPS - 2) + k + TAPS - 1) * channels,
                        channels,
                    )
                out = origin(sequence, bands, y_at) + k * y_at[1]
                for i in range(0, channels, LANES):
                    total = conv_sum(source, at + i, step, taps, bias, i, channels)
                    store(y, out + i, total * sigmoid(total))


@_compiled
def conv_backward(
    first,
    last,
    bands,
    frames,
    channels,
    x,
    x_at,
    taps,
    bias,
    before,
    gy,
    gy_at,
    gx,
    gx_at,
    gbefore,
    gtaps,
    gbias,
    scratch,
):  # type: ignore[no-untyped-def]
    rings = (
        CHUNK * (2 * TAPS - 2) * channels
    )  # here the scratch goes on with the gradients of the last sums [sequence, TAPS, channel]
    for group in range(first, last, CHUNK):
        end = min(group + CHUNK, last)
        conv_head(group, end, bands, frames, channels, x, x_at, before, scratch)
        for i in range(0, CHUNK * TAPS * channels, LANES):
            store(scratch, rings + i, splat(0.0))
        grad_taps, grad_bias = group // CHUNK * TAPS * channels, group // CHUNK * channels
        for k in range(frames + TAPS - 1):
            for sequence in range(group, end):
                ring = rings + (sequence - group) * TAPS * channels
                if k < frames:
                    source, at, step = x, origin(sequence, bands, x_at) + k * x_at[1], x_at[1]
                    if k < TAPS - 1:
                        source, at, step = (
                            scratch,
                            ((sequence - group) * (2 * TAPS - 2) + k + TAPS - 1) * channels,
                            channels,
                        )
                    gout = origin(sequence, bands, gy_at) + k * gy_at[1]
                    for i in range(0, channels, LANES):
                        total = conv_sum(source, at + i, step, taps, bias, i, channels)
                        gate = sigmoid(total)
                        grad = load(gy, gout + i) * (gate * (1.0 + total * (1.0 - gate)))
                        store(scratch, ring + k % TAPS * channels + i, grad)
                        store(gbias, grad_bias + i, load(gbias, grad_bias + i) + grad)
                        for j in range(TAPS):
                            t = grad_taps + j * channels + i
                            store(gtaps, t, load(gtaps, t) + grad * load(source, at + i - (TAPS - 1 - j) * step))
                else:
                    for i in range(0, channels, LANES):
                        store(scratch, ring + k % TAPS * channels + i, splat(0.0))
                # the input three frames ago is complete: it went into the sums from there to here
                target, out = gx, origin(sequence, bands, gx_at) + (k - TAPS + 1) * gx_at[1]
                if k < TAPS - 1:
                    target, out = gbefore, (sequence * (TAPS - 1) + k) * channels
                for i in range(0, channels, LANES):
                    result = splat(0.0)
                    for j in range(TAPS):
                        result = result + load(scratch, ring + (k - j) % TAPS * channels + i) * load(
                            taps, j * channels + i
                        )
                    store(target, out + i, result)


# --- threads and tensors ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sbm-scan")  # keyed by process: threads do not survive a fork


def _run(kernel: Any, sequences: int, scratch: int, *args: Any) -> None:
    """Call kernel(first, last, *args, scratch) over all sequences, a few ranges of whole chunks per thread."""
    chunks = -(-sequences // CHUNK)
    threads = min(torch.get_num_threads(), chunks)
    if threads == 1:
        kernel(0, sequences, *args, torch.empty(scratch).numpy())
        return
    parts = min(chunks, 4 * threads)
    edges = [min(sequences, CHUNK * (chunks * i // parts)) for i in range(parts + 1)]
    edges[-1] = sequences

    def work(first: int, last: int) -> None:
        kernel(first, last, *args, torch.empty(scratch).numpy())

    for _ in _pool(os.getpid(), threads).map(work, edges[:-1], edges[1:]):
        pass


def _flat(x: Tensor) -> tuple[Any, tuple[int, int, int]]:
    """Return the storage from the tensor's first element as a flat array, and the strides of batch, time and band."""
    x = x.detach()
    if x.stride(-1) != 1:
        x = x.contiguous()
    extent = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return torch.as_strided(x, (extent,), (1,)).numpy(), x.stride()[:3]


def _array(x: Tensor) -> Any:
    return x.detach().contiguous().numpy().reshape(-1)


class _Scan(torch.autograd.Function):
    """u, dt, z [batch, time, band, channel]; rates [state, channel] = A * log2(e); h [batch, band, state, channel]."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, rates: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch, time, band, channel = u.shape
        state = rates.shape[0]
        segments = -(-time // SEGMENT)
        train = any(ctx.needs_input_grad)
        kept = torch.empty(batch * band * segments * state * channel if train else 0)
        y, h = torch.empty(u.shape), h.detach().clone(memory_format=torch.contiguous_format)
        _run(
            scan_forward, batch * band, FORWARD_ROWS * SEGMENT * channel, band, time, channel, state, *_flat(u), *_flat(dt), _array(rates),
            *_flat(B), *_flat(C), _array(D), *_flat(z), _array(h), kept.numpy(), *_flat(y),
        )  # fmt: skip
        ctx.save_for_backward(u, dt, rates, B, C, D, z, kept)
        return y, h

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gy: Tensor, gh: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, rates, B, C, D, z, kept = ctx.saved_tensors
        batch, time, band, channel = u.shape
        state = rates.shape[0]
        chunks = -(-batch * band // CHUNK)
        gh = gh.clone(memory_format=torch.contiguous_format)
        gu, gdt, gz = (torch.empty(u.shape) for _ in range(3))
        gB, gC = torch.empty(B.shape), torch.empty(C.shape)
        grates, gD = torch.zeros(chunks, state, channel), torch.zeros(chunks, channel)
        scratch = BACKWARD_ROWS * SEGMENT * channel + (2 * LANES + 2) * SEGMENT * state + 2 * SEGMENT * GROUP * LANES
        _run(
            scan_backward, batch * band, scratch, band, time, channel, state, *_flat(u), *_flat(dt), _array(rates),
            *_flat(B), *_flat(C), _array(D), *_flat(z), kept.numpy(), *_flat(gy), _array(gh), _array(gu), _array(gdt), *_flat(gz),
            _array(gB), *_flat(gC), _array(grates), _array(gD),
        )  # fmt: skip
        total_rates = torch.from_numpy(np.add.reduce(grates.numpy(), 0)) * LN2
        return gu, gdt, total_rates, gB, gC, torch.from_numpy(np.add.reduce(gD.numpy(), 0)), gz, gh


class _Conv(torch.autograd.Function):
    """x [batch, time, band, channel]; taps [K, channel]; before [batch, band, K - 1, channel]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor, before: Tensor) -> Tensor:
        batch, time, band, channel = x.shape
        y = torch.empty(x.shape)
        _run(
            conv_forward, batch * band, CHUNK * (2 * TAPS - 2) * channel, band, time, channel, *_flat(x), _array(taps), _array(bias), _array(before), *_flat(y)
        )  # fmt: skip
        ctx.save_for_backward(x, taps, bias, before)
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        x, taps, bias, before = ctx.saved_tensors
        batch, time, band, channel = x.shape
        chunks = -(-batch * band // CHUNK)
        gx, gbefore = torch.empty(x.shape), torch.empty(before.shape)
        gtaps, gbias = torch.zeros(chunks, TAPS, channel), torch.zeros(chunks, channel)
        _run(
            conv_backward, batch * band, CHUNK * (3 * TAPS - 2) * channel, band, time, channel, *_flat(x), _array(taps), _array(bias), _array(before),
            *_flat(gy), *_flat(gx), _array(gbefore), _array(gtaps), _array(gbias),
        )  # fmt: skip
        return (
            gx,
            torch.from_numpy(np.add.reduce(gtaps.numpy(), 0)),
            torch.from_numpy(np.add.reduce(gbias.numpy(), 0)),
            gbefore,
        )


def selective_scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, carry: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run the compiled scan on float32 tensors (shapes as in `sbm_cli.nn.scan.selective_scan`)."""
    channel, state = A.shape
    odd, odd_state = -channel % LANES, -state % GROUP
    if odd or odd_state:  # the kernels know whole vectors only: fill up with channels and states that stay zero
        u, dt, z, D = (F.pad(x, (0, odd)) for x in (u, dt, z, D))
        B, C = F.pad(B, (0, odd_state)), F.pad(C, (0, odd_state))
        A = F.pad(A, (0, odd_state, 0, odd))
        carry = None if carry is None else F.pad(carry, (0, odd_state, 0, odd))
    h = u.new_zeros(u.shape[0], u.shape[2], *A.t().shape) if carry is None else carry.transpose(-1, -2)
    y, h = _Scan.apply(u, dt, A.t() * LOG2E, B, C, D, z, h)
    return y[..., :channel], h[..., :state, :channel].transpose(-1, -2)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run the compiled convolution on float32 tensors (shapes as in `sbm_cli.nn.scan.causal_conv1d`)."""
    channel = x.shape[-1]
    before = x.new_zeros(x.shape[0], x.shape[2], TAPS - 1, channel) if carry is None else carry.transpose(-1, -2)
    ending = x[:, max(0, x.shape[1] - TAPS + 1) :].permute(0, 2, 1, 3)  # [batch, band, time, channel]
    after = torch.cat([before[:, :, ending.shape[2] :], ending], 2).transpose(-1, -2)
    taps, odd = weight[:, 0].t(), -channel % LANES
    if odd:
        x, taps, bias, before = (F.pad(part, (0, odd)) for part in (x, taps, bias, before))
    y = _Conv.apply(x, taps, bias, before)
    return y[..., :channel], after
