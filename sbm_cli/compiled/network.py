"""A whole oSpatialNet-Mamba at one time, on a few frames of one channel.

Notable
- Weights lie in one array, in the order in which the stages read them; each part is whole vectors long.
- What a block of frames passes on between the stages stays in the nearer caches: SEGMENT frames go through all of them,
  and the Mamba takes only a few bands at a time, whose frames adjoin.
- Every number is computed in the same order however the frames are cut: a stream equals the whole bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sbm_cli.compiled import scan
from sbm_cli.compiled.conv import TAPS
from sbm_cli.compiled.jit import apart, jit
from sbm_cli.compiled.product import product, product_of_few, product_of_halves, product_of_pairs, round_to_halves
from sbm_cli.compiled.rows import Rows
from sbm_cli.compiled.scan import SEGMENT
from sbm_cli.compiled.vector import LANES, across, fill, inverse_root, load, load4, root, sigmoid, silu, splat, store

scan_forward = apart(scan.scan_forward)

ENCODER, BLOCK, FULL_BAND, DECODER = range(4)
NEAR = 64  # rows of a Mamba at a time: they stay in the caches beside the weights
EPS = 1e-5  # of the normalisation, as in nn.LayerNorm
OUTPUTS = 4  # of the head and the filter, computed together: independent sums hide the latency


class Sizes(NamedTuple):
    """Dimensions of a network. A frame of a spectrum is two rows of `width`, whose bins begin at `padding`."""

    inputs: int  # rows of a frame that goes in: noisy, and behind it the state, if that is another
    bins: int
    padding: int
    width: int
    bands: int
    stride: int
    frames: int  # of the encoder's kernel
    taps: int  # its bins
    channels: int
    kernel: int  # of the convolution along the bands
    group: int  # channels that it joins
    paired: bool  # whether they are two groups, whose channels alternate
    states: int
    squeeze: int
    fullband: int  # channels per band of the full-band Mamba
    head: int
    bounded: bool  # whether tanh bounds the mask
    lookahead: int
    filter_frames: int
    filter_bins: int
    behind: int  # taps of the filter before the frame that it estimates
    history: int  # frames of the spectrum before the block
    halves: bool  # whether the projections of the Mambas and the decoder are in bfloat16


class Work(NamedTuple):
    """Arrays to compute in, one set for each thread."""

    frame: Any  # one frame between zero bands; beyond it the head at full frequency resolution
    normed: Any
    wide: Any
    inner: Any
    gate: Any
    narrow: Any
    staged: Any


@jit
def whole(count):
    return (count + LANES - 1) // LANES * LANES


@jit
def project(halves, x, x_at, rows, inputs, weights, at, outputs, add, out, out_at, out_step, rounded):
    """Do as `product`, or with `halves` as `product_of_halves` with what `rounded` holds of x."""
    if halves:  # whole tuples of sizes and arrays would take longer to hand over than a row takes to multiply
        return product_of_halves(rounded, rows, weights, at, inputs, outputs, add, out, out_at, out_step)
    return product(x, x_at, inputs, 1, rows, weights, at, inputs, outputs, add, out, out_at, out_step)


@jit
def activate_all(values, count):
    for i in range(0, count, LANES):
        total = load(values, i)
        store(values, i, silu(total))


@apart
def convolve_time(frames, bands, channels, weights, at, carry, kept, work):
    """Write silu(conv(work.wide)) along time to work.inner, [band, frame, channel]; carry: the frames before."""
    for band in range(bands):
        for i in range(0, channels, LANES):
            tap0, tap1, tap2, tap3 = load4(weights, at + i, channels)
            bias = load(weights, at + TAPS * channels + i)
            first, second, third = kept + i, kept + channels + i, kept + 2 * channels + i
            oldest, older, old = load(carry, first), load(carry, second), load(carry, third)
            for k in range(frames):
                place = (band * frames + k) * channels + i
                new = load(work.wide, place)
                store(work.inner, place, silu(bias + oldest * tap0 + older * tap1 + old * tap2 + new * tap3))
                oldest, older, old = older, old, new
            store(carry, first, oldest)
            store(carry, second, older)
            store(carry, third, old)
        kept += (TAPS - 1) * channels


@apart
def mamba(frames, bands, sequence, sizes, channels, weights, at, carry, inputs_at, states_at, work):
    """Run projection, convolution and scan of a Mamba on work.normed [band, frame, channel]; leave work.inner.

    sequence: the first of so many bands, in the carry. Returns where the weights of the last projection begin.
    """
    inner, rank, rows, states = 2 * channels, (channels + 15) // 16, frames * bands, sizes.states
    halves, rounded = sizes.halves, work.staged
    # Behind b and c of all rows lies what their steps are projected from.
    narrow, low, lows = whole(2 * states), whole(rank), rows * whole(2 * states)
    if halves:
        round_to_halves(work.normed, 0, rows * channels, rounded)
    at = project(halves, work.normed, 0, rows, channels, weights, at, inner, False, work.wide, 0, inner, rounded)
    at = project(halves, work.normed, 0, rows, channels, weights, at, inner, False, work.gate, 0, inner, rounded)
    # Band after band: the frames of each adjoin.
    beside, short, least = (0, inner, frames * inner), (0, narrow, frames * narrow), (0, low, frames * low)
    convolve_time(frames, bands, inner, weights, at, carry, inputs_at + sequence * (TAPS - 1) * inner, work)
    at += (TAPS + 1) * inner
    if halves:
        round_to_halves(work.inner, 0, rows * inner, rounded)
    at = project(halves, work.inner, 0, rows, inner, weights, at, narrow, False, work.narrow, 0, narrow, rounded)
    at = product_of_few(work.inner, 0, inner, rows, weights, at, inner, rank, work.narrow, lows)
    step, bias, rates = at, at + rank * inner, at + (rank + 1) * inner
    skip = rates + states * inner
    h = carry[states_at + sequence * states * inner : states_at + (sequence + bands) * states * inner]
    scan_forward(
        0, bands, bands, frames, Rows(work.inner, beside), Rows(work.narrow[lows:], least), weights[step:bias],
        weights[bias:rates], weights[rates:skip], Rows(work.narrow, short),
        Rows(work.narrow[states:], short), weights[skip : skip + inner], Rows(work.gate, beside),
        h, h, h[:0], Rows(work.inner, beside), work.staged,
    )  # fmt: skip
    return skip + inner


@apart
def encode(frames, start, sizes, weights, at, spectra, x):
    """Write the encoder's output for frames of the block from `start` on, x [frame, band, channel]."""
    n, first = sizes, start + sizes.history - sizes.frames + 1
    begin = n.padding - (n.taps - n.stride) // 2
    for tap in range(n.frames):
        for part in range(n.inputs):
            for k in range(frames):
                source = ((first + k + tap) * n.inputs + part) * n.width + begin
                after = product(
                    spectra, source, n.stride, 1, n.bands, weights, at, n.taps, n.channels, tap + part > 0,
                    x, (start + k) * n.bands * n.channels, n.channels,
                )  # fmt: skip
            at = after


@apart
def map_bands(frames, sizes, weights, at, work):
    """Add the linear map over all bands to work.wide [frame, band, channel]; return where the next weights begin."""
    n, rows = sizes, frames * sizes.bands
    narrow, mixed = whole(n.squeeze), whole(n.bands)
    squeezed, turned, channel = work.narrow, work.gate, frames * n.bands
    at = product_of_few(work.normed, 0, n.channels, rows, weights, at, n.channels, n.squeeze, squeezed, 0)
    activate_all(squeezed, rows * narrow)
    for row in range(rows):
        for j in range(n.squeeze):
            turned[j * channel + row] = squeezed[row * narrow + j]
    for j in range(n.squeeze):
        at = product(turned, j * channel, n.bands, 1, frames, weights, at, n.bands, mixed, False,
                     work.inner, j * frames * mixed, mixed)  # fmt: skip
    for k in range(frames):
        after = product(work.inner, k * mixed, 1, frames * mixed, n.bands, weights, at, n.squeeze, n.channels, False,
                        work.normed, k * n.bands * n.channels, n.channels)  # fmt: skip
    for i in range(0, rows * n.channels, LANES):
        total = load(work.normed, i)
        store(work.wide, i, load(work.wide, i) + silu(total))
    return after


@apart
def decode_frame(k, sizes, wide, weights, at, spectra, work, estimates):
    """Write the estimate of frame k of a block; the decoder has left a row of `wide` for each band in work.gate."""
    n, full, frame = sizes, work.frame, sizes.inputs * sizes.width
    noisy = (k + n.history - n.lookahead) * frame
    for h in range(n.head):
        for band in range(n.bands):  # [channel of the head, bin]; what a vector holds too much is written anew
            for i in range(0, n.stride, LANES):
                source, to = band * wide + h * n.stride + i, h * n.width + n.padding + band * n.stride + i
                store(full, to, load(work.gate, source))
        for i in range(n.bins - 1, whole(n.bins)):  # the highest bin has no band of its own
            full[h * n.width + n.padding + i] = 0.0
        for i in range(0, n.bins, LANES):
            to = h * n.width + n.padding + i
            total = load(full, to) + fill(weights, at)
            for part in range(n.inputs):
                for tap in range(3):
                    bins = load(spectra, noisy + part * n.width + n.padding + i + tap - 1)
                    total = total + fill(weights, at + 1 + part * 3 + tap) * bins
            store(full, to, silu(total))
        full[h * n.width + n.padding - 1] = full[h * n.width + n.padding + n.bins] = 0.0
        at += whole(1 + 3 * n.inputs)
    for i in range(0, n.bins, LANES):
        to = k * 2 * n.width + n.padding + i
        a, b, c, d = head_sums(full, i, sizes, weights, at)
        if n.bounded:
            size = root(a * a + b * b) + 1e-6
            scale = (2.0 * sigmoid(2.0 * size) - 1.0) / size  # tanh(size) / size
            a, b = a * scale, b * scale
        re, im = load(spectra, noisy + n.padding + i), load(spectra, noisy + n.width + n.padding + i)
        store(estimates, to, a * re - b * im + c)
        store(estimates, to + n.width, a * im + b * re + d)
    at += whole((3 * n.head + 1) * OUTPUTS)
    for h in range(n.head):
        full[h * n.width + n.padding + n.filter_bins] = 0.0  # the filter sees no further
    for tap in range(0, n.filter_frames if n.filter_frames > 1 else 0, 2):
        past = noisy + (tap - n.behind) * frame
        for i in range(0, n.filter_bins, LANES):
            to = k * 2 * n.width + n.padding + i
            a, b, c, d = head_sums(full, i, sizes, weights, at)
            re, im = load(spectra, past + n.padding + i), load(spectra, past + n.width + n.padding + i)
            if tap + 1 < n.filter_frames:
                past += frame
            re2, im2 = load(spectra, past + n.padding + i), load(spectra, past + n.width + n.padding + i)
            if tap + 1 < n.filter_frames:
                past -= frame
            real, imaginary = a * re - b * im + c * re2 - d * im2, a * im + b * re + c * im2 + d * re2
            if i + LANES <= n.filter_bins:
                store(estimates, to, load(estimates, to) + real)
                store(estimates, to + n.width, load(estimates, to + n.width) + imaginary)
            else:
                store(work.normed, 0, real)
                store(work.normed, LANES, imaginary)
                for j in range(n.filter_bins - i):
                    estimates[to + j] += work.normed[j]
                    estimates[to + n.width + j] += work.normed[LANES + j]
        at += whole((3 * n.head + 1) * OUTPUTS)


@jit
def head_sums(full, i, sizes, weights, at):
    """Return OUTPUTS convolutions of width 3 over the bins from i on; weights: [1 + head * tap, output]."""
    a, b, c, d = fill(weights, at), fill(weights, at + 1), fill(weights, at + 2), fill(weights, at + 3)
    for h in range(sizes.head):
        for tap in range(3):
            at += OUTPUTS
            value = load(full, h * sizes.width + sizes.padding + i + tap - 1)
            a = a + value * fill(weights, at)
            b = b + value * fill(weights, at + 1)
            c = c + value * fill(weights, at + 2)
            d = d + value * fill(weights, at + 3)
    return a, b, c, d


@apart
def normalise(x, x_at, step, rows, weights, at, channels, out, out_at, out_step, group, apart):
    """Write gain * norm(x) + offset of rows; their channels in groups, each so far from the one before."""
    share, last = splat(1.0 / channels), rows - 1
    for row in range(0, rows, 4):  # four at a time hide the latency; what lies beyond the last is the last again
        r1, r2, r3 = min(row + 1, last), min(row + 2, last), min(row + 3, last)
        x0, x1, x2, x3 = x_at + row * step, x_at + r1 * step, x_at + r2 * step, x_at + r3 * step
        s0, s1, s2, s3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for i in range(0, channels, LANES):
            s0, s1 = s0 + load(x, x0 + i), s1 + load(x, x1 + i)
            s2, s3 = s2 + load(x, x2 + i), s3 + load(x, x3 + i)
        m0, m1, m2, m3 = across(s0) * share, across(s1) * share, across(s2) * share, across(s3) * share
        s0, s1, s2, s3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
        for i in range(0, channels, LANES):
            v0, v1 = load(x, x0 + i) - m0, load(x, x1 + i) - m1
            v2, v3 = load(x, x2 + i) - m2, load(x, x3 + i) - m3
            s0, s1, s2, s3 = s0 + v0 * v0, s1 + v1 * v1, s2 + v2 * v2, s3 + v3 * v3
        s0, s1 = inverse_root(across(s0) * share + EPS), inverse_root(across(s1) * share + EPS)
        s2, s3 = inverse_root(across(s2) * share + EPS), inverse_root(across(s3) * share + EPS)
        y0, y1, y2, y3 = row * out_step, r1 * out_step, r2 * out_step, r3 * out_step
        for first in range(0, channels, group):
            to = out_at + first // group * apart - first
            for i in range(first, first + group, LANES):
                gain, offset = load(weights, at + i), load(weights, at + channels + i)
                store(out, to + y0 + i, (load(x, x0 + i) - m0) * s0 * gain + offset)
                store(out, to + y1 + i, (load(x, x1 + i) - m1) * s1 * gain + offset)
                store(out, to + y2 + i, (load(x, x2 + i) - m2) * s2 * gain + offset)
                store(out, to + y3 + i, (load(x, x3 + i) - m3) * s3 * gain + offset)


@apart
def convolve_bands(frames, sizes, weights, at, x, x_at, y, y_at, work):
    """Write x + silu(conv(norm(x))) along the bands to y, which may be x; return where the next weights begin."""
    n, channels, group = sizes, sizes.channels, sizes.group
    before, apart = (n.kernel - 1) // 2, (n.bands + n.kernel - 1) * group  # padded as PyTorch does for "same"
    for i in range(0, apart * (channels // group), LANES):
        store(work.frame, i, splat(0.0))
    for k in range(frames):
        source, out = x_at + k * n.bands * channels, y_at + k * n.bands * channels
        normalise(x, source, channels, n.bands, weights, at, channels,
                  work.frame, before * group, group, group, apart)  # [group, band, channel]  # fmt: skip
        after = at + 2 * channels
        for i in range(0, channels, group):
            place = i // group * apart
            if n.paired:
                after = product_of_pairs(work.frame, place, group, n.bands, weights, after, n.kernel * group // 2,
                                         work.gate, i, channels)  # fmt: skip
            else:
                after = product(work.frame, place, group, 1, n.bands, weights, after, n.kernel * group, group,
                                False, work.gate, i, channels)  # fmt: skip
        for i in range(0, n.bands * channels, LANES):
            total = load(work.gate, i)
            store(y, out + i, load(x, source + i) + silu(total))
    return after


@apart
def block(frames, sizes, weights, at, norms, norm, carry, kept, x, start, work):
    bands, channels = sizes.bands, sizes.channels
    frame, rows, inner = bands * channels, frames * bands, 2 * channels
    at = convolve_bands(frames, sizes, weights, at, x, start, work.wide, 0, work)
    normalise(work.wide, 0, channels, rows, weights, at, channels, work.normed, 0, channels, channels, 0)
    at = map_bands(frames, sizes, weights, at + 2 * channels, work)
    at = convolve_bands(frames, sizes, weights, at, work.wide, 0, x, start, work)
    inputs, many = bands * (TAPS - 1) * inner, max(1, NEAR // frames)
    for first in range(0, bands, many):
        count = min(many, bands - first)
        for band in range(count):
            normalise(x, start + (first + band) * channels, frame, frames, norms, norm, channels,
                      work.normed, band * frames * channels, channels, channels, 0)  # fmt: skip
        last = mamba(frames, count, first, sizes, channels, weights, at, carry, kept, kept + inputs, work)
        for band in range(count):
            if sizes.halves:
                round_to_halves(work.inner, band * frames * inner, frames * inner, work.staged)
            project(sizes.halves, work.inner, band * frames * inner, frames, inner, weights, last, channels, True,
                    x, start + (first + band) * channels, frame, work.staged)  # fmt: skip


@apart
def full_band(frames, sizes, weights, at, norms, norm, carry, kept, x, start, work):
    channels, rows, narrow = sizes.channels, frames * sizes.bands, whole(sizes.fullband)
    tokens = sizes.bands * sizes.fullband
    at = product_of_few(x, start, channels, rows, weights, at, channels, sizes.fullband, work.narrow, 0)
    for row in range(rows):
        for j in range(sizes.fullband):
            work.wide[row * sizes.fullband + j] = work.narrow[row * narrow + j]
    normalise(work.wide, 0, tokens, frames, norms, norm, tokens, work.normed, 0, tokens, tokens, 0)
    at = mamba(frames, 1, 0, sizes, tokens, weights, at, carry, kept, kept + (TAPS - 1) * 2 * tokens, work)
    if sizes.halves:
        round_to_halves(work.inner, 0, frames * 2 * tokens, work.staged)
    at = project(sizes.halves, work.inner, 0, frames, 2 * tokens, weights, at, tokens, False, work.wide, 0, tokens,
                 work.staged)  # fmt: skip
    product(work.wide, 0, sizes.fullband, 1, rows, weights, at, sizes.fullband, channels, True, x, start, channels)


@apart
def decode(frames, start, sizes, weights, at, spectra, x, work, estimates):
    n, channels, width = sizes, sizes.channels, whole(sizes.stride * sizes.head)
    for k in range(start, start + frames):
        normalise(x, k * n.bands * channels, channels, n.bands, weights, at, channels,
                  work.normed, 0, channels, channels, 0)  # fmt: skip
        if n.halves:
            round_to_halves(work.normed, 0, n.bands * channels, work.staged)
        after = project(n.halves, work.normed, 0, n.bands, channels, weights, at + 2 * channels, width, False,
                        work.gate, 0, width, work.staged)  # fmt: skip
        decode_frame(k, sizes, width, weights, after, spectra, work, estimates)


@jit
def run(first, last, start, stop, sizes, weights, begins, norms, carry, spectra, x, work, estimates):
    """Take frames start to stop of a block through stages first to last.

    begins: for each stage its kind (ENCODER and so on), and where its weights, its norm and its carry begin. spectra:
    [history + frame, inputs, width]; x: [frame, band, channel]; estimates: [frame, 2, width].
    """
    for begin in range(start, stop, SEGMENT):
        frames, place = min(SEGMENT, stop - begin), begin * sizes.bands * sizes.channels
        for stage in range(first, last):
            kind, at, norm, kept = begins[stage, 0], begins[stage, 1], begins[stage, 2], begins[stage, 3]
            if kind == ENCODER:
                encode(frames, begin, sizes, weights, at, spectra, x)
            elif kind == BLOCK:
                block(frames, sizes, weights, at, norms, norm, carry, kept, x, place, work)
            elif kind == FULL_BAND:
                full_band(frames, sizes, weights, at, norms, norm, carry, kept, x, place, work)
            else:
                decode(frames, begin, sizes, weights, at, spectra, x, work, estimates)
