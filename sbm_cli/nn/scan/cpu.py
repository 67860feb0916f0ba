"""Selective scan and causal convolution on the CPU, forward and backward, compiled by Numba.

Notable
- Everything is written on one small type, a vector of LANES float32 channels held in a register, so that nothing
  depends on what the auto-vectoriser makes of a loop.
- Time is walked in segments. A segment's inputs are first staged into a scratch of a few kilobytes (softplus and gate
  included), then each vector of channels runs through the segment with four states in registers.
- Training keeps the state at every segment start only; backward recomputes inside the segment.
- Sums over sequences (A, D, weight, bias) run in chunks of fixed size: results do not depend on the number of threads.
- Kernels are serial and release the GIL; a small pool of Python threads runs them over ranges of sequences.
"""
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc,import-untyped"
# (kernels carry no annotations: Numba types them)

import functools
import itertools
import operator
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sbm_cli.nn.constant import of_weights
from sbm_cli.nn.kernels.cpu.jit import jit
from sbm_cli.nn.scan import differentiates

LANES = 16 if llvm.get_host_cpu_features().get("avx512f") else 8
SEGMENT = 16  # frames between two stored states; also the length of the staged scratch
GROUP = 4  # states advanced together: enough independent chains to hide latency, few enough to stay in registers
CHUNK = 4  # sequences whose parameter gradients are summed together
TAPS = 4  # kernel size of the convolution
FEW = 256  # rows of a block up to which one kernel does it all: then calls take longer than products
SERIAL = 1 << 16  # elements below which threads cost more than they bring
LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453

# --- a vector of LANES floats as a Numba type ------------------------------------------------------------------------

FLAGS = ("contract", "arcp", "nsz")  # neither nnan nor ninf: a NaN must come out as one
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTS = ir.VectorType(ir.IntType(32), LANES)
HALVES = ir.VectorType(ir.IntType(16), LANES)  # bfloat16, for Numba int16: the upper halves of floats


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


VECTOR = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
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


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any, vector: Any = FLOATS) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _define_operator(symbol: Callable[..., Any], instruction: str) -> None:
    @intrinsic
    def apply(typing_context: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            operands = [_widen(context, builder, *pair) for pair in zip(args, signature.args, strict=True)]
            return getattr(builder, instruction)(*operands, flags=FLAGS)

        return VECTOR(left, right), generate

    @overload(symbol)
    def implement(left, right):  # no annotations: Numba compares this signature with the lambda's
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


@intrinsic
def splat(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _widen(context, builder, args[0], signature.args[0])

    return VECTOR(value), generate


@intrinsic
def load(typing_context: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        if kind.dtype == types.float32:
            return builder.load(_address(context, builder, kind, *args), align=4)
        halves = builder.load(_address(context, builder, kind, *args, vector=HALVES), align=2)
        return builder.bitcast(builder.shl(builder.zext(halves, INTS), _integer(16)), FLOATS)

    return VECTOR(array, types.intp), generate


@intrinsic
def fill(typing_context: Any, array: Any, index: Any) -> Any:
    """Load one number into all lanes; array[index] would also test for a negative index."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return _widen(context, builder, builder.load(builder.gep(data, [args[1]])), types.float32)

    return VECTOR(array, types.intp), generate


@intrinsic
def store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind, value = signature.args[0], args[2]
        if kind.dtype == types.float32:
            builder.store(value, _address(context, builder, kind, *args[:2]), align=4)
            return context.get_dummy_value()
        bits = builder.bitcast(value, INTS)  # rounded to nearest, ties to even; a NaN stays one
        odd = builder.and_(builder.lshr(bits, _integer(16)), _integer(1))
        rounded = builder.add(bits, builder.add(odd, _integer(0x7FFF)))
        quiet = builder.or_(bits, _integer(0x400000))
        bits = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        halves = builder.trunc(builder.lshr(bits, _integer(16)), HALVES)
        builder.store(halves, _address(context, builder, kind, *args[:2], vector=HALVES), align=2)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


@intrinsic
def move(typing_context: Any, target: Any, at: Any, source: Any, index: Any) -> Any:
    """Copy one number; an assignment would also test for negative indices."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        to, source = (
            builder.gep(context.make_array(signature.args[i])(context, builder, args[i]).data, [args[i + 1]])
            for i in (0, 2)
        )
        builder.store(builder.load(source), to)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), generate


@intrinsic
def negative_magnitude(typing_context: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.or_(builder.bitcast(args[0], INTS), _integer(-(2**31))), FLOATS)

    return VECTOR(VECTOR), generate


@intrinsic
def where_negative(typing_context: Any, value: Any, then: Any, other: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        negative = builder.fcmp_ordered("<", args[0], _constant(0.0))
        return builder.select(negative, args[1], args[2])

    return VECTOR(VECTOR, VECTOR, VECTOR), generate


@intrinsic
def exp2_negative(typing_context: Any, value: Any) -> Any:
    """2**x for x <= 0: a polynomial of the fraction, exact at 0, with the whole part added to its exponent.

    Relative error 2e-7; below -125 as at -125.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low = _constant(-125.0)
        magic = _constant(1.5 * 2**23)  # added to x it leaves the nearest whole number in the low bits
        x = builder.select(builder.fcmp_ordered("<", args[0], low), low, args[0])
        shifted = builder.fadd(x, magic)  # no flags here and below: the compiler may not cancel the magic number
        whole = builder.fsub(shifted, magic)
        fraction = builder.fsub(x, whole)
        result = _constant(0.0013264727630027005)
        for c in (0.009671512646240624, 0.055507337417524824, 0.2402224208525833, 0.6931469776002883, 1.0):
            result = builder.fadd(builder.fmul(result, fraction, flags=FLAGS), _constant(c), flags=FLAGS)
        if LANES == 16:  # AVX-512 has the last step in one instruction
            mask, mode = ir.IntType(16), ir.IntType(32)
            kind = ir.FunctionType(FLOATS, [FLOATS, FLOATS, FLOATS, mask, mode])
            scale = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.mask.scalef.ps.512")
            return builder.call(scale, [result, whole, result, ir.Constant(mask, -1), ir.Constant(mode, 4)])
        exponent = builder.shl(builder.bitcast(shifted, INTS), _integer(23))
        return builder.bitcast(builder.add(builder.bitcast(result, INTS), exponent), FLOATS)

    return VECTOR(VECTOR), generate


@intrinsic
def lane_sums(typing_context: Any, array: Any, index: Any) -> Any:
    """Sum each of LANES consecutive vectors over its lanes; the sums are the lanes of the result."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start = _address(context, builder, signature.args[0], *args)
        rows = [builder.load(builder.gep(start, [ir.Constant(ir.IntType(64), i)]), align=4) for i in range(LANES)]
        even, odd = (ir.Constant(INTS, list(range(first, 2 * LANES, 2))) for first in (0, 1))
        while len(rows) > 1:
            rows = [
                builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))
                for a, b in zip(rows[::2], rows[1::2], strict=True)
            ]
        return rows[0]

    return VECTOR(array, types.intp), generate


# --- kernels ---------------------------------------------------------------------------------------------------------


@jit
def sigmoid(x):
    tail = exp2_negative(negative_magnitude(x) * LOG2E)
    upper = 1.0 / (1.0 + tail)
    return where_negative(x, tail * upper, upper)


@jit
def softplus(x):
    """Return softplus and its derivative, the sigmoid."""
    # max(x, 0) + log1p(e), e = exp(-|x|); log1p(e) = 2 artanh(s), s = e / (2 + e): relative precision for every x
    tail = exp2_negative(negative_magnitude(x) * LOG2E)
    inverse = 1.0 / ((1.0 + tail) * (2.0 + tail))  # one division for both
    s = tail * (1.0 + tail) * inverse
    q = s * s
    series = q * 0.28181658304931984 + 0.27959726279664016
    series = series * q + 0.40024992819909333
    series = series * q + 0.6666631183589535
    series = series * q + 2.000000008043254
    upper = (2.0 + tail) * inverse
    return where_negative(x, splat(0.0), x) + s * series, where_negative(x, tail * upper, upper)


# The scratch of a segment lies in blocks of one vector of channels, a block frame after frame, a frame value after
# value: what is needed together lies together.
STEP, DRIVE, SUM, GRAD, GRAD_DRIVE, GRAD_STEP, SLOPE, GATE = (i * LANES for i in range(8))
FORWARD_ROWS, BACKWARD_ROWS = 3, 8
KEPT = GROUP * LANES  # states of one group at one frame


class Rows(NamedTuple):
    """A tensor [batch, time, band, channel] for the kernels: its memory as a flat array, its strides but the last."""

    data: Any
    strides: tuple[int, int, int]


@jit
def origin(rows, bands, sequence, frame):
    """Return where a row of a sequence = batch * bands + band begins."""
    return sequence // bands * rows.strides[0] + frame * rows.strides[1] + sequence % bands * rows.strides[2]


@jit
def load4(array, at, apart):
    return load(array, at), load(array, at + apart), load(array, at + 2 * apart), load(array, at + 3 * apart)


@jit
def store4(array, at, apart, values):
    for g in range(GROUP):
        store(array, at + g * apart, values[g])


@jit
def scan_forward(first, last, bands, frames, u, dt, weight, bias, rates, b, c, skip, z, before, h, kept, y, scratch):
    channels, size = skip.size, rates.size
    states, segments = size // channels, (frames + SEGMENT - 1) // SEGMENT
    rank = weight.size // channels
    for group in range(first, last, CHUNK):  # neighbouring bands go through a segment together: their rows adjoin
        for segment in range(segments):
            start = segment * SEGMENT
            length = min(SEGMENT, frames - start)
            known = h if segment else before
            for sequence in range(group, min(group + CHUNK, last)):
                u_base = origin(u, bands, sequence, start)
                dt_base = origin(dt, bands, sequence, start)
                z_base = origin(z, bands, sequence, start)
                y_base = origin(y, bands, sequence, start)
                state = sequence * size
                if kept.size > 0:
                    for i in range(0, size, LANES):
                        store(kept, (sequence * segments + segment) * size + i, load(known, state + i))
                for k in range(length):
                    for i in range(0, channels, LANES):
                        at = FORWARD_ROWS * (SEGMENT * i + k * LANES)
                        dt_at = dt_base + k * dt.strides[1]
                        total = load(bias, i) if rank else load(dt.data, dt_at + i)
                        for r in range(rank):
                            total = total + fill(dt.data, dt_at + r) * load(weight, r * channels + i)
                        step, _ = softplus(total)
                        value = load(u.data, u_base + k * u.strides[1] + i)
                        store(scratch, at + STEP, step)
                        store(scratch, at + DRIVE, step * value)
                        store(scratch, at + SUM, load(skip, i) * value)
                for n in range(0, states, GROUP):
                    for i in range(0, channels, LANES):
                        j = n * channels + i
                        a0, a1, a2, a3 = load4(rates, j, channels)
                        h0, h1, h2, h3 = load4(known, state + j, channels)
                        at = FORWARD_ROWS * SEGMENT * i
                        bn = origin(b, bands, sequence, start) + n
                        cn = origin(c, bands, sequence, start) + n
                        for _ in range(length):
                            step, drive = load(scratch, at + STEP), load(scratch, at + DRIVE)
                            total = load(scratch, at + SUM)
                            h0 = exp2_negative(step * a0) * h0 + drive * fill(b.data, bn)
                            h1 = exp2_negative(step * a1) * h1 + drive * fill(b.data, bn + 1)
                            h2 = exp2_negative(step * a2) * h2 + drive * fill(b.data, bn + 2)
                            h3 = exp2_negative(step * a3) * h3 + drive * fill(b.data, bn + 3)
                            total = total + h0 * fill(c.data, cn)
                            total = total + h1 * fill(c.data, cn + 1)
                            total = total + h2 * fill(c.data, cn + 2)
                            total = total + h3 * fill(c.data, cn + 3)
                            store(scratch, at + SUM, total)
                            at, bn, cn = at + FORWARD_ROWS * LANES, bn + b.strides[1], cn + c.strides[1]
                        store4(h, state + j, channels, (h0, h1, h2, h3))
                for k in range(length):
                    for i in range(0, channels, LANES):
                        gate = load(z.data, z_base + k * z.strides[1] + i)
                        total = load(scratch, FORWARD_ROWS * (SEGMENT * i + k * LANES) + SUM)
                        store(y.data, y_base + k * y.strides[1] + i, total * (gate * sigmoid(gate)))


@jit
def reverse(g, scratch, frame, places, weights, rate, state, inputs):
    """Go one frame back with state g of a group.

    frame: gradient of the sum, step, drive; places: where in the scratch the group's decays lie (behind them its states
    before the frame), and where the products are added up that give the gradient of b (behind them those of c);
    weights: b and c and where the group's begin; state: value, gradient, gradient of the rate; inputs: gradients of
    drive and step. Returns state and inputs.
    """
    grad, step, drive = frame
    kept, sums = places[0] + g * LANES, places[1] + g * LANES
    b, bn, c, cn = weights
    value, grad_state, grad_rate = state
    grad_drive, grad_step = inputs
    grad_state = grad_state + grad * fill(c, cn + g)
    store(scratch, sums, load(scratch, sums) + grad_state * drive)
    store(scratch, sums + KEPT, load(scratch, sums + KEPT) + grad * value)
    grad_drive = grad_drive + grad_state * fill(b, bn + g)
    grad_state = grad_state * load(scratch, kept)
    before = load(scratch, kept + KEPT)
    change = grad_state * before
    return (before, grad_state, grad_rate + change * step), (grad_drive, grad_step + change * rate)


@jit
def scan_backward(
    first, last, bands, frames, u, dt, weight, bias, rates, b, c, skip, z, kept, gy,
    gh, gu, gdt, gz, gb, gc, gweight, gbias, grates, gskip, scratch,
):  # fmt: skip
    channels, size = skip.size, rates.size
    states, segments = size // channels, (frames + SEGMENT - 1) // SEGMENT
    rank = weight.size // channels
    # The scratch goes on with the sums for b and c [group, frame, 2, GROUP, LANES], later those for what the step is
    # projected from; decays and states of one group of states [frame, 2, GROUP, LANES]; and the sums over lanes.
    sums, width = BACKWARD_ROWS * SEGMENT * channels, SEGMENT * states * LANES
    history = sums + max(2 * width, SEGMENT * rank * LANES)
    narrow = history + 2 * SEGMENT * KEPT
    for group in range(first, last, CHUNK):
        grad_rate, grad_skip, grad_weight = (
            group // CHUNK * size,
            group // CHUNK * channels,
            group // CHUNK * weight.size,
        )
        for segment in range(segments - 1, -1, -1):
            start = segment * SEGMENT
            length = min(SEGMENT, frames - start)
            for sequence in range(group, min(group + CHUNK, last)):
                u_base = origin(u, bands, sequence, start)
                dt_base = origin(dt, bands, sequence, start)
                z_base = origin(z, bands, sequence, start)
                gy_base = origin(gy, bands, sequence, start)
                gu_base = origin(gu, bands, sequence, start)
                gdt_base = origin(gdt, bands, sequence, start)
                gz_base = origin(gz, bands, sequence, start)
                before = (sequence * segments + segment) * size
                grad_state = sequence * size
                for k in range(length):
                    for i in range(0, channels, LANES):
                        at = BACKWARD_ROWS * (SEGMENT * i + k * LANES)
                        value = load(u.data, u_base + k * u.strides[1] + i)
                        gate = load(z.data, z_base + k * z.strides[1] + i)
                        gout = load(gy.data, gy_base + k * gy.strides[1] + i)
                        dt_at = dt_base + k * dt.strides[1]
                        total = load(bias, i) if rank else load(dt.data, dt_at + i)
                        for r in range(rank):
                            total = total + fill(dt.data, dt_at + r) * load(weight, r * channels + i)
                        step, slope = softplus(total)
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
                        a0, a1, a2, a3 = load4(rates, j, channels)
                        h0, h1, h2, h3 = load4(kept, before + j, channels)
                        at = BACKWARD_ROWS * SEGMENT * i
                        bn = origin(b, bands, sequence, start) + n
                        cn = origin(c, bands, sequence, start) + n
                        p = history
                        for _ in range(length):
                            store4(scratch, p + KEPT, LANES, (h0, h1, h2, h3))
                            step, drive = load(scratch, at + STEP), load(scratch, at + DRIVE)
                            total = load(scratch, at + SUM)
                            e0, e1 = exp2_negative(step * a0), exp2_negative(step * a1)
                            e2, e3 = exp2_negative(step * a2), exp2_negative(step * a3)
                            store4(scratch, p, LANES, (e0, e1, e2, e3))
                            h0 = e0 * h0 + drive * fill(b.data, bn)
                            h1 = e1 * h1 + drive * fill(b.data, bn + 1)
                            h2 = e2 * h2 + drive * fill(b.data, bn + 2)
                            h3 = e3 * h3 + drive * fill(b.data, bn + 3)
                            total = total + h0 * fill(c.data, cn)
                            total = total + h1 * fill(c.data, cn + 1)
                            total = total + h2 * fill(c.data, cn + 2)
                            total = total + h3 * fill(c.data, cn + 3)
                            store(scratch, at + SUM, total)
                            at, p = at + BACKWARD_ROWS * LANES, p + 2 * KEPT
                            bn, cn = bn + b.strides[1], cn + c.strides[1]
                        g0, g1, g2, g3 = load4(gh, grad_state + j, channels)
                        r0, r1, r2, r3 = load4(grates, grad_rate + j, channels)
                        s0, s1, s2, s3 = (h0, g0, r0), (h1, g1, r1), (h2, g2, r2), (h3, g3, r3)
                        q = sums + (n // GROUP * SEGMENT + length) * 2 * KEPT
                        for _ in range(length):
                            at, p, q = at - BACKWARD_ROWS * LANES, p - 2 * KEPT, q - 2 * KEPT
                            bn, cn = bn - b.strides[1], cn - c.strides[1]
                            frame = load(scratch, at + GRAD), load(scratch, at + STEP), load(scratch, at + DRIVE)
                            inputs = load(scratch, at + GRAD_DRIVE), load(scratch, at + GRAD_STEP)
                            places, weights = (p, q), (b.data, bn, c.data, cn)
                            s0, inputs = reverse(0, scratch, frame, places, weights, a0, s0, inputs)
                            s1, inputs = reverse(1, scratch, frame, places, weights, a1, s1, inputs)
                            s2, inputs = reverse(2, scratch, frame, places, weights, a2, s2, inputs)
                            s3, inputs = reverse(3, scratch, frame, places, weights, a3, s3, inputs)
                            store(scratch, at + GRAD_DRIVE, inputs[0])
                            store(scratch, at + GRAD_STEP, inputs[1])
                        store4(gh, grad_state + j, channels, (s0[1], s1[1], s2[1], s3[1]))
                        store4(grates, grad_rate + j, channels, (s0[2], s1[2], s2[2], s3[2]))
                for i in range(0, 2 * width, LANES * LANES):
                    store(scratch, narrow + i // LANES, lane_sums(scratch, sums + i))
                gbc_base = origin(gb, bands, sequence, start)
                for n in range(0, states, GROUP):
                    for k in range(length):
                        at = narrow + (n // GROUP * SEGMENT + k) * 2 * GROUP
                        for g in range(GROUP):
                            move(gb.data, gbc_base + k * gb.strides[1] + n + g, scratch, at + g)
                            move(gc.data, gbc_base + k * gb.strides[1] + n + g, scratch, at + GROUP + g)
                for k in range(length):
                    for i in range(0, channels, LANES):
                        at = BACKWARD_ROWS * (SEGMENT * i + k * LANES)
                        value, grad_drive = load(u.data, u_base + k * u.strides[1] + i), load(scratch, at + GRAD_DRIVE)
                        grad_step = load(scratch, at + GRAD_STEP) * LN2 + grad_drive * value
                        grad_step = grad_step * load(scratch, at + SLOPE)
                        grad_skipped = load(scratch, at + GRAD) * load(skip, i)
                        out = grad_drive * load(scratch, at + STEP) + grad_skipped
                        store(gu.data, gu_base + k * gu.strides[1] + i, out)
                        out = load(scratch, at + SUM) * load(scratch, at + GATE)
                        store(gz.data, gz_base + k * gz.strides[1] + i, out)
                        if rank == 0:
                            store(gdt.data, gdt_base + k * gdt.strides[1] + i, grad_step)
                        else:
                            store(scratch, at + GRAD_STEP, grad_step)
                            store(gbias, grad_skip + i, load(gbias, grad_skip + i) + grad_step)
                for k in range(length if rank else 0):
                    for r in range(rank):
                        low, total = fill(dt.data, dt_base + k * dt.strides[1] + r), splat(0.0)
                        for i in range(0, channels, LANES):
                            grad_step = load(scratch, BACKWARD_ROWS * (SEGMENT * i + k * LANES) + GRAD_STEP)
                            total = total + grad_step * load(weight, r * channels + i)
                            at = grad_weight + r * channels + i
                            store(gweight, at, load(gweight, at) + grad_step * low)
                        store(scratch, sums + (k * rank + r) * LANES, total)
                for i in range(0, SEGMENT * rank * LANES, LANES * LANES):
                    store(scratch, narrow + i // LANES, lane_sums(scratch, sums + i))
                for k in range(length):
                    for r in range(rank):
                        move(gdt.data, gdt_base + k * gdt.strides[1] + r, scratch, narrow + k * rank + r)


@jit
def conv_sum(x, at, step, taps, bias, i, channels):
    """Return the sum over the taps; at: where the newest input lies, step: how far before it the previous one."""
    total = load(bias, i)
    for j in range(TAPS):
        total = total + load(taps, j * channels + i) * load(x, at - (TAPS - 1 - j) * step)
    return total


@jit
def conv_row(x, at, step, taps, bias, y, out):
    for i in range(0, bias.size, LANES):
        total = conv_sum(x, at + i, step, taps, bias, i, bias.size)
        store(y, out + i, total * sigmoid(total))


@jit
def conv_row_backward(x, at, step, taps, bias, gy, gout, scratch, ring, gtaps, grad_taps, gbias, grad_bias):
    """Write the gradient of the sums of a row to the ring; add up those of taps and bias."""
    channels = bias.size
    for i in range(0, channels, LANES):
        total = conv_sum(x, at + i, step, taps, bias, i, channels)
        gate = sigmoid(total)
        grad = load(gy, gout + i) * (gate * (1.0 + total * (1.0 - gate)))
        store(scratch, ring + i, grad)
        store(gbias, grad_bias + i, load(gbias, grad_bias + i) + grad)
        for j in range(TAPS):
            t = grad_taps + j * channels + i
            store(gtaps, t, load(gtaps, t) + grad * load(x, at + i - (TAPS - 1 - j) * step))


@jit
def conv_turned(scratch, ring, k, taps, channels, gx, out):
    for i in range(0, channels, LANES):
        result = splat(0.0)
        for j in range(TAPS):
            grad = load(scratch, ring + (k - j) % TAPS * channels + i)
            result = result + grad * load(taps, j * channels + i)
        store(gx, out + i, result)


@jit
def conv_head(group, end, bands, frames, channels, x, before, head):
    """Copy the inputs before the first frame, then the first ones: [sequence, 2 (TAPS - 1), channel]."""
    for sequence in range(group, end):
        for k in range(2 * TAPS - 2):
            for i in range(0, channels, LANES):
                target = ((sequence - group) * (2 * TAPS - 2) + k) * channels + i
                if k < TAPS - 1:
                    store(head, target, load(before, (sequence * (TAPS - 1) + k) * channels + i))
                elif k - TAPS + 1 < frames:
                    store(head, target, load(x.data, origin(x, bands, sequence, k - TAPS + 1) + i))


@jit
def conv_forward(first, last, bands, frames, x, taps, bias, before, y, scratch):
    channels = bias.size
    for group in range(first, last, CHUNK):
        end = min(group + CHUNK, last)
        conv_head(group, end, bands, frames, channels, x, before, scratch)
        for k in range(frames):
            for sequence in range(group, end):
                out = origin(y, bands, sequence, k)
                if k < TAPS - 1:
                    at = ((sequence - group) * (2 * TAPS - 2) + k + TAPS - 1) * channels
                    conv_row(scratch, at, channels, taps, bias, y.data, out)
                else:
                    conv_row(x.data, origin(x, bands, sequence, k), x.strides[1], taps, bias, y.data, out)


@jit
def conv_backward(first, last, bands, frames, x, taps, bias, before, gy, gx, gbefore, gtaps, gbias, scratch):
    channels = bias.size
    # The scratch goes on with the gradients of the last sums [sequence, TAPS, channel].
    rings = CHUNK * (2 * TAPS - 2) * channels
    for group in range(first, last, CHUNK):
        end = min(group + CHUNK, last)
        conv_head(group, end, bands, frames, channels, x, before, scratch)
        for i in range(0, CHUNK * TAPS * channels, LANES):
            store(scratch, rings + i, splat(0.0))
        grad_taps, grad_bias = group // CHUNK * TAPS * channels, group // CHUNK * channels
        for k in range(frames + TAPS - 1):
            for sequence in range(group, end):
                ring = rings + (sequence - group) * TAPS * channels
                newest = ring + k % TAPS * channels
                if k < min(TAPS - 1, frames):
                    at, step = ((sequence - group) * (2 * TAPS - 2) + k + TAPS - 1) * channels, channels
                    conv_row_backward(
                        scratch, at, step, taps, bias, gy.data, origin(gy, bands, sequence, k),
                        scratch, newest, gtaps, grad_taps, gbias, grad_bias,
                    )  # fmt: skip
                elif k < frames:
                    at, step = origin(x, bands, sequence, k), x.strides[1]
                    conv_row_backward(
                        x.data, at, step, taps, bias, gy.data, origin(gy, bands, sequence, k),
                        scratch, newest, gtaps, grad_taps, gbias, grad_bias,
                    )  # fmt: skip
                else:
                    for i in range(0, channels, LANES):
                        store(scratch, newest + i, splat(0.0))
                # the input three frames ago is complete: it went into the sums from there to here
                if k < TAPS - 1:
                    conv_turned(scratch, ring, k, taps, channels, gbefore, (sequence * (TAPS - 1) + k) * channels)
                else:
                    out = origin(gx, bands, sequence, k - TAPS + 1)
                    conv_turned(scratch, ring, k, taps, channels, gx.data, out)


@jit
def product(x, rows, inputs, weight, outputs, out):
    """Write x [rows, inputs] times a packed weight [vector of outputs, input, LANES] into out [rows, outputs]."""
    whole = rows - rows % 8
    for j in range(0, outputs, LANES):
        for row in range(0, whole, 8):
            at, from_at = row * inputs, j * inputs
            a = b = c = d = e = f = g = h = splat(0.0)
            for _ in range(inputs):
                w = load(weight, from_at)
                a = a + fill(x, at) * w
                b = b + fill(x, at + inputs) * w
                c = c + fill(x, at + 2 * inputs) * w
                d = d + fill(x, at + 3 * inputs) * w
                e = e + fill(x, at + 4 * inputs) * w
                f = f + fill(x, at + 5 * inputs) * w
                g = g + fill(x, at + 6 * inputs) * w
                h = h + fill(x, at + 7 * inputs) * w
                at, from_at = at + 1, from_at + LANES
            store4(out, row * outputs + j, outputs, (a, b, c, d))
            store4(out, (row + 4) * outputs + j, outputs, (e, f, g, h))
        for row in range(whole, rows):
            at, from_at = row * inputs, j * inputs
            a = b = c = d = splat(0.0)
            for _ in range(0, inputs, 4):
                a = a + fill(x, at) * load(weight, from_at)
                b = b + fill(x, at + 1) * load(weight, from_at + LANES)
                c = c + fill(x, at + 2) * load(weight, from_at + 2 * LANES)
                d = d + fill(x, at + 3) * load(weight, from_at + 3 * LANES)
                at, from_at = at + 4, from_at + 4 * LANES
            store(out, row * outputs + j, (a + b) + (c + d))


@jit
def mamba_forward(
    batch, frames, bands, x, in_proj, taps, conv_bias, before, x_proj, weight, bias, rates, skip, out_proj, h_before,
    out, after, h, scratch,
):  # fmt: skip
    """Run a whole block on few rows; the projections are packed, and what they multiply lies row after row.

    after: the last inputs of the convolution, as `before`.
    """
    rows, inner = batch * frames * bands, skip.size
    channels, states, rank = in_proj.size // (2 * inner), rates.size // inner, weight.size // inner
    narrow = x_proj.size // inner
    ends = rows * 2 * inner, rows * 3 * inner, rows * 4 * inner, rows * (4 * inner + narrow)
    wide, u, y, low = scratch[: ends[0]], scratch[ends[0] : ends[1]], scratch[ends[1] : ends[2]], scratch[ends[2] :]
    apart = (frames * bands * 2 * inner, bands * 2 * inner, 2 * inner)
    beside = (frames * bands * inner, bands * inner, inner)
    short = (frames * bands * narrow, bands * narrow, narrow)
    product(x, rows, channels, in_proj, 2 * inner, wide)
    v, rest = Rows(wide, apart), scratch[ends[3] :]
    conv_forward(0, batch * bands, bands, frames, v, taps, conv_bias, before, Rows(u, beside), rest)
    product(u, rows, inner, x_proj, narrow, low)
    scan_forward(
        0, batch * bands, bands, frames, Rows(u, beside), Rows(low, short), weight, bias, rates,
        Rows(low[rank:], short), Rows(low[rank + states :], short), skip, Rows(wide[inner:], apart),
        h_before, h, scratch[:0], Rows(y, beside), rest,
    )  # fmt: skip
    product(y, rows, inner, out_proj, channels, out)
    for sequence in range(batch * bands):
        for tap in range(TAPS - 1):
            frame, at = frames - TAPS + 1 + tap, (sequence * (TAPS - 1) + tap) * inner
            for i in range(0, inner, LANES):
                if frame < 0:
                    store(after, at + i, load(before, (sequence * (TAPS - 1) + frame + TAPS - 1) * inner + i))
                else:
                    store(after, at + i, load(wide, origin(v, bands, sequence, frame) + i))


# --- threads and tensors ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="sbm-scan")  # keyed by process: threads do not survive a fork


def _run(kernel: Any, count: int, scratch: int, *args: Any, serial: bool = False) -> None:
    """Call kernel(first, last, *args, scratch) for ranges of `count` sequences, each thread taking whole chunks."""
    chunks = -(-count // CHUNK)
    threads = 1 if serial or chunks == 1 else min(torch.get_num_threads(), chunks)
    if threads == 1:
        kernel(0, count, *args, np.empty(scratch, np.float32))
        return

    def work(first: int, last: int) -> None:
        kernel(first, last, *args, np.empty(scratch, np.float32))

    parts = min(chunks, 4 * threads)
    edges = [min(count, CHUNK * -(-chunks * i // parts)) for i in range(parts + 1)]
    list(_pool(os.getpid(), threads).map(work, edges[:-1], edges[1:]))


def _rows(x: Tensor) -> Rows:
    x = x.detach()
    if x.stride(-1) != 1:
        x = x.contiguous()
    if x.dtype == torch.bfloat16:
        x = x.view(torch.int16)
    batch, time, band, channel = x.shape
    a, b, c, _ = x.stride()
    extent = (batch - 1) * a + (time - 1) * b + (band - 1) * c + channel
    return Rows(x.as_strided((extent,), (1,)).numpy(), (a, b, c))


def _array(x: Tensor) -> Any:
    x = x.detach()
    return (x if x.is_contiguous() else x.contiguous()).numpy().reshape(-1)


def _parts(x: Tensor, *sizes: int) -> list[Rows]:
    """Return parts of the last axis of a contiguous tensor, so many channels each; views of torch's take longer."""
    array = _array(x.view(torch.int16) if x.dtype == torch.bfloat16 else x)
    _, time, band, channel = x.shape
    strides = time * band * channel, band * channel, channel
    return [Rows(array[start:], strides) for start in itertools.accumulate(sizes[:-1], initial=0)]


def _total(parts: Tensor) -> Tensor:
    return torch.from_numpy(np.add.reduce(parts.numpy(), 0))  # row after row: the same order on every machine


NOTHING = torch.empty(0, dtype=torch.float32, device="cpu")


def _scan(
    shape: torch.Size, dtype: torch.dtype, rows: Sequence[Rows], arrays: Sequence[Any], before: Tensor, train: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the states after the last frame, and those that backward starts its segments from.

    shape, dtype: of u and y; rows: u, dt, B, C, z; arrays: weight, bias, rates, D; both as in `_Scan`.
    """
    (batch, time, band, channel), (u, dt, B, C, z), (weight, bias, rates, D) = shape, rows, arrays
    kept = before.new_empty(batch * band * -(-time // SEGMENT) * rates.size if train else 0)
    y, h = before.new_empty(shape, dtype=dtype), before.new_empty(before.shape)
    inputs = u, dt, weight, bias, rates, B, C, D, z
    scratch, serial = FORWARD_ROWS * SEGMENT * channel, y.numel() < SERIAL
    outputs = _array(before), _array(h), _array(kept), *_parts(y, channel)
    _run(scan_forward, batch * band, scratch, band, time, *inputs, *outputs, serial=serial)
    return y, h, kept


def _scan_gradients(
    tensors: Sequence[Tensor], kept: Tensor, gy: Tensor, gh: Tensor, out: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Fill out, the gradients of u, dt, z, B and C; return those of weight, bias, rates and D.

    gh becomes the gradient of the first state. The gradient of u may take the place of gy.
    """
    u, dt, weight, bias, rates, B, C, D, z = tensors
    batch, time, band, channel = u.shape
    state, rank = rates.shape[0], weight.numel() // channel
    chunks = -(-batch * band // CHUNK)
    sums = [D.new_zeros(chunks, *x.shape) for x in (weight, bias, rates, D)]
    inputs = _rows(u), _rows(dt), _array(weight), _array(bias), _array(rates), _rows(B), _rows(C), _array(D), _rows(z)
    outputs = _array(gh), *map(_rows, out), *map(_array, sums)
    lanes = max(2 * state, rank) * LANES + max(2 * state, rank)
    scratch = SEGMENT * (BACKWARD_ROWS * channel + lanes + 2 * KEPT)
    _run(scan_backward, batch * band, scratch, band, time, *inputs, _array(kept), _rows(gy), *outputs)
    return tuple(map(_total, sums))


class _Scan(torch.autograd.Function):
    """The scan on whole vectors: rates = A log2(e) [state, channel], h [batch, band, state, channel]."""

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        dt: Tensor,
        rates: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        h: Tensor,
        train: bool,
    ) -> tuple[Tensor, Tensor]:
        rows, arrays = map(_rows, (u, dt, B, C, z)), map(_array, (NOTHING, NOTHING, rates, D))
        y, h, kept = _scan(u.shape, u.dtype, tuple(rows), tuple(arrays), h, train)
        ctx.save_for_backward(u, dt, rates, B, C, D, z, kept)
        return y, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor, gh: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, rates, B, C, D, z, kept = ctx.saved_tensors
        gh = gh.clone(memory_format=torch.contiguous_format)
        gu, gdt, gz, gB, gC = out = [D.new_empty(x.shape) for x in (u, dt, z, B, C)]
        tensors = u, dt, NOTHING, NOTHING, rates, B, C, D, z
        _, _, grates, gD = _scan_gradients(tensors, kept, gy, gh, out)
        return gu, gdt, grates * LN2, gB, gC, gD, gz, gh, None


def _conv(shape: torch.Size, dtype: torch.dtype, x: Rows, arrays: Sequence[Any], before: Tensor) -> Tensor:
    """Return the convolution of x, of that shape and type; arrays: taps and bias; both and before as in `_Conv`."""
    batch, time, band, channel = shape
    y = before.new_empty(shape, dtype=dtype)
    scratch, serial = CHUNK * (2 * TAPS - 2) * channel, y.numel() < SERIAL
    tensors = x, *arrays, _array(before), *_parts(y, channel)
    _run(conv_forward, batch * band, scratch, band, time, *tensors, serial=serial)
    return y


def _conv_gradients(
    x: Tensor, taps: Tensor, bias: Tensor, before: Tensor, gy: Tensor, gx: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill gx; return the gradients of taps, bias and before."""
    batch, time, band, channel = x.shape
    chunks = -(-batch * band // CHUNK)
    gbefore = bias.new_empty(before.shape)
    gtaps, gbias = bias.new_zeros(chunks, TAPS, channel), bias.new_zeros(chunks, channel)
    inputs = _rows(x), _array(taps), _array(bias), _array(before), _rows(gy)
    outputs = _rows(gx), _array(gbefore), _array(gtaps), _array(gbias)
    _run(conv_backward, batch * band, CHUNK * (3 * TAPS - 2) * channel, band, time, *inputs, *outputs)
    return _total(gtaps), _total(gbias), gbefore


class _Conv(torch.autograd.Function):
    """The convolution on whole vectors: taps [K, channel], before [batch, band, K - 1, channel]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor, bias: Tensor, before: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps, bias, before)
        return _conv(x.shape, x.dtype, _rows(x), (_array(taps), _array(bias)), before)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, ...]:
        x, taps, bias, before = ctx.saved_tensors
        gx = x.new_empty(x.shape)
        return gx, *_conv_gradients(x, taps, bias, before, gy, gx)


def _few(
    x: Tensor, packed: Sequence[Any], before: Tensor, h: Tensor, arrays: Sequence[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the whole block by one kernel, which on few rows beats the calls that it takes the place of.

    packed: the three projections; the rest as in `_mamba`, whose results it returns.
    """
    batch, time, band, _ = x.shape
    taps, conv_bias, weight, bias, rates, D = arrays
    out, after, h_after = (torch.empty_like(part, memory_format=torch.contiguous_format) for part in (x, before, h))
    in_proj, x_proj, out_proj = packed
    inner = D.size
    most = max(CHUNK * (2 * TAPS - 2), FORWARD_ROWS * SEGMENT) * inner
    scratch = np.empty(batch * time * band * (4 * inner + x_proj.size // inner) + most, np.float32)
    mamba_forward(
        batch, time, band, _array(x), in_proj, taps, conv_bias, _array(before), x_proj, weight, bias, rates, D,
        out_proj, _array(h), _array(out), _array(after), _array(h_after), scratch,
    )  # fmt: skip
    return out, after, h_after


def _mamba(
    x: Tensor,
    in_proj: Tensor,
    taps: Tensor,
    conv_bias: Tensor,
    before: Tensor,
    x_proj: Tensor,
    step_weight: Tensor,
    step_bias: Tensor,
    rates: Tensor,
    D: Tensor,
    out_proj: Tensor,
    h: Tensor,
    arrays: Sequence[Any],
    train: bool,
    dtype: torch.dtype,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, ...]]:
    """Run the whole block: x [batch, time, band, channel]; convolution and scan as in `_Conv` and `_Scan`.

    step_weight: [rank, channel]; arrays: taps, conv_bias, step_weight, step_bias, rates and D once more; dtype: of the
    products and of what lies between them, float32 or bfloat16; convolution and scan compute in float32. Returns the
    output, the inputs of the convolution and the last states; and what backward needs.
    """
    x, in_proj, x_proj, out_proj = (part.to(dtype) for part in (x, in_proj, x_proj, out_proj))
    inner, rank, state = len(D), len(step_weight), len(rates)
    shape = torch.Size((*x.shape[:3], inner))
    wide = F.linear(x, in_proj)
    v, z = _parts(wide, inner, inner)
    u = _conv(shape, dtype, v, arrays[:2], before)
    narrow = F.linear(u, x_proj).float()
    low, B, C = _parts(narrow, rank, state, state)
    y, h, kept = _scan(shape, dtype, (*_parts(u, inner), low, B, C, z), arrays[2:], h, train)
    weights = in_proj, taps, conv_bias, before, x_proj, step_weight, step_bias, rates, D, out_proj
    after = _ending(wide[..., :inner], before)
    return (F.linear(y, out_proj), after, h), (x, wide, u, narrow, y, kept, *weights)


class _Mamba(torch.autograd.Function):
    """`_mamba` with a backward that writes every gradient where the next product reads it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, in_proj: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        ctx.types = x.dtype, in_proj.dtype
        results, needed = _mamba(x, in_proj, *others)
        ctx.save_for_backward(*needed)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gout: Tensor | None, gafter: Tensor | None, gh: Tensor | None) -> tuple[Tensor | None, ...]:
        x, wide, u, narrow, y, kept, in_proj, taps, conv_bias, before, x_proj, weight, bias, rates, D, out_proj = (
            ctx.saved_tensors
        )
        split, dtype, (x_dtype, weight_dtype) = [len(weight), len(rates), len(rates)], x.dtype, ctx.types
        gh = rates.new_zeros(x.shape[0], x.shape[2], *rates.shape) if gh is None else gh.clone().contiguous()
        gout = x.new_zeros(x.shape) if gout is None else gout.reshape(x.shape)
        gwide, gnarrow = wide.new_empty(wide.shape), narrow.new_empty(narrow.shape)
        (v, z), (gv, gz) = wide.chunk(2, -1), gwide.chunk(2, -1)
        (low, B, C), (glow, gB, gC) = narrow.split(split, -1), gnarrow.split(split, -1)
        gy = gu = gout @ out_proj
        tensors = u, low, weight, bias, rates, B, C, D, z
        gweight, gbias, grates, gD = _scan_gradients(tensors, kept, gy, gh, (gu, glow, gz, gB, gC))
        gnarrow = gnarrow.to(dtype)
        _flat(gu).addmm_(_flat(gnarrow), x_proj)
        gtaps, gconv_bias, gbefore = _conv_gradients(v, taps, conv_bias, before, gu, gv)
        if gafter is not None:
            own = min(TAPS - 1, x.shape[1])  # of the last inputs; the others came before the first frame
            gv[:, x.shape[1] - own :] += gafter[:, :, TAPS - 1 - own :].transpose(1, 2)
            gbefore[:, :, own:] += gafter[:, :, : TAPS - 1 - own]
        gx = (gwide @ in_proj).to(x_dtype)
        pairs = (gwide, x), (gnarrow, u), (gout, y)
        gin_proj, gx_proj, gout_proj = (_product(grad, part).to(weight_dtype) for grad, part in pairs)
        return (
            gx, gin_proj, gtaps, gconv_bias, gbefore, gx_proj, gweight, gbias, grates * LN2, gD, gout_proj, gh,
            None, None, None,
        )  # fmt: skip


def _flat(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def _product(grad: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of a weight [output, input]."""
    return grad.reshape(-1, grad.shape[-1]).t() @ x.reshape(-1, x.shape[-1])


def _ending(x: Tensor, before: Tensor) -> Tensor:
    """Return the last K - 1 inputs of the convolution, [batch, band, K - 1, channel]."""
    ending = x[:, max(0, x.shape[1] - TAPS + 1) :].permute(0, 2, 1, 3)
    return torch.cat([before[:, :, ending.shape[2] :], ending], 2)


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
    train = differentiates(u, dt, A, B, C, D, z, h)
    y, h = _Scan.apply(u, dt, A.t() * LOG2E, B, C, D, z, h, train)
    if odd or odd_state:  # only then: the gradient of a slice is a copy
        y, h = y[..., :channel], h[..., :state, :channel]
    return y, h.transpose(-1, -2)


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, carry: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Run the compiled convolution on float32 tensors (shapes as in `sbm_cli.nn.scan.causal_conv1d`)."""
    channel = x.shape[-1]
    before = x.new_zeros(x.shape[0], x.shape[2], TAPS - 1, channel) if carry is None else carry.transpose(-1, -2)
    after = _ending(x, before).transpose(-1, -2)
    taps, odd = weight[:, 0].t(), -channel % LANES
    if odd:
        x, taps, bias, before = (F.pad(part, (0, odd)) for part in (x, taps, bias, before))
    y = _Conv.apply(x, taps, bias, before)
    return (y[..., :channel] if odd else y), after


def mamba(
    x: Tensor,
    in_proj: Tensor,
    conv: tuple[Tensor, Tensor],
    x_proj: Tensor,
    dt_proj: tuple[Tensor, Tensor],
    A: Tensor,
    D: Tensor,
    out_proj: Tensor,
    carry: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run a Mamba block on tensors of whole vectors (shapes as in `sbm_cli.nn.scan.mamba`), with products in dtype."""
    shape = x.shape[0], x.shape[2]
    if carry is None:
        before, h = D.new_zeros(*shape, TAPS - 1, len(D)), D.new_zeros(*shape, *A.t().shape)
    else:
        before, h = (part.transpose(-1, -2) for part in carry)
    (taps, conv_bias, step_weight, step_bias, rates, D), arrays = _turned(*conv, *dt_proj, A, D)
    tensors = x, in_proj, taps, conv_bias, before, x_proj, step_weight, step_bias, rates, D, out_proj, h
    train = differentiates(*tensors)
    few = not train and x.shape[:3].numel() <= FEW and x.shape[-1] % LANES == 0
    if few and dtype == x.dtype == torch.float32:
        y, after, h = _few(x, _packed(in_proj, x_proj, out_proj), before, h, arrays)
        return y, (after.transpose(-1, -2), h.transpose(-1, -2))
    # Without a gradient not through autograd, whose call takes as long as a short block.
    y, after, h = _Mamba.apply(*tensors, arrays, train, dtype) if train else _mamba(*tensors, arrays, train, dtype)[0]
    return y, (after.transpose(-1, -2), h.transpose(-1, -2))


@of_weights
def _packed(*weights: Tensor) -> tuple[Any, ...]:
    """Return weights [output, input] as `product` reads them, filled up with zeros to whole vectors of outputs."""
    padded = [F.pad(weight, (0, 0, 0, -len(weight) % LANES)) for weight in weights]
    return tuple(_array(weight.unflatten(0, (-1, LANES)).transpose(1, 2)) for weight in padded)


@of_weights
def _turned(
    conv: Tensor, conv_bias: Tensor, step_weight: Tensor, step_bias: Tensor, A: Tensor, D: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
    """Return taps [K, channel] and bias, weight [rank, channel] and bias of the steps, rates [state, channel], and D.

    All of them as tensors, and for the kernels.
    """
    tensors = conv[:, 0].t(), conv_bias, step_weight.t(), step_bias, A.t() * LOG2E, D
    return tensors, tuple(map(_array, tensors))
