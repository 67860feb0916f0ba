"""Selective scan, forward and backward.

Notable
- Time is walked in segments. A segment's inputs are first staged into a scratch of a few kilobytes (softplus and gate
  included), then each vector of channels runs through the segment with four states in registers.
- Training keeps the state at every segment start only; backward recomputes inside the segment.
- Sums over sequences (weight, bias, A, D) run in chunks of fixed size: results do not depend on the number of threads.
"""

from __future__ import annotations

from sbm_cli.compiled.jit import jit
from sbm_cli.compiled.rows import CHUNK, origin
from sbm_cli.compiled.vector import (
    LANES,
    LN2,
    exp2_negative,
    fill,
    lane_sums,
    load,
    load4,
    move,
    prefetch,
    sigmoid,
    silu,
    softplus,
    splat,
    store,
    store4,
)

SEGMENT = 16  # frames between two stored states; also the length of the staged scratch
GROUP = 4  # states advanced together: enough independent chains to hide latency, few enough to stay in registers

# The scratch of a segment lies in blocks of one vector of channels, a block frame after frame, a frame value after
# value: what is needed together lies together.
STEP, DRIVE, SUM, GRAD, GRAD_DRIVE, GRAD_STEP, SLOPE, GATE = (i * LANES for i in range(8))
FORWARD_ROWS, BACKWARD_ROWS = 3, 8
KEPT = GROUP * LANES  # states of one group at one frame


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
                        total = load(bias, i)
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
                        prefetch(known, state + size + n * channels + GROUP * i, GROUP * LANES)  # of the next sequence
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
                        store(y.data, y_base + k * y.strides[1] + i, total * silu(gate))


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
        chunk = group // CHUNK
        grad_rate, grad_skip, grad_weight = chunk * size, chunk * channels, chunk * weight.size
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
                        total = load(bias, i)
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
                        store(scratch, at + GRAD_STEP, grad_step)
                        store(gbias, grad_skip + i, load(gbias, grad_skip + i) + grad_step)
                for k in range(length):
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
