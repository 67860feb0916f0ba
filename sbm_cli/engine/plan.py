"""The weights of a network for a CPU, packed as the kernels read them.

The specification is the network of `sbm_cli.nn.backbones.ospatialnet`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sbm_cli.compiled.conv import TAPS
from sbm_cli.compiled.jit import compiled_before
from sbm_cli.compiled.llvm import HALVES
from sbm_cli.compiled.network import BLOCK, DECODER, ENCODER, FULL_BAND, NEAR, OUTPUTS, Sizes, Work, run
from sbm_cli.compiled.product import PANEL, packed, packed_few, packed_halves, whole
from sbm_cli.compiled.scan import FORWARD_ROWS, GROUP, SEGMENT
from sbm_cli.compiled.vector import LANES, LOG2E
from sbm_cli.nn.configs import OUTPUTS as STARTS
from sbm_cli.nn.configs import NetworkConfig, OSpatialNetConfig

Weights = Mapping[str, NDArray[np.float32]]
Array = NDArray[np.float32]
Order = NDArray[np.int64]
Pack = Callable[..., list[Array]]
ALIGNMENT = 64  # bytes: a line of the cache


@dataclass(frozen=True)
class Plan:
    """A network: its sizes and packed weights.

    stages: kind of each, and where its weights, its norm and its carry begin, [stage, 4]. norms: returns gains and
    offsets of the norms at a time, for the time of a jump's end and the share of the reverberation to keep. carry:
    numbers that a channel passes on from one block to the next. parameters: of the folded network.
    """

    sizes: Sizes
    weights: Array
    stages: NDArray[np.int64]
    norms: Callable[[float, float, float], Array]
    carry: int
    parameters: int
    work: tuple[int, ...]  # sizes of the arrays in `Work`

    @property
    def compiled(self) -> bool:
        """Whether the kernel is compiled for this processor, now or by an earlier process."""
        return compiled_before(run)

    def new_work(self) -> Work:
        return Work(*(aligned(size) for size in self.work))


def aligned(size: int) -> Array:
    """Return zeros that begin at a line of the cache."""
    spare = ALIGNMENT // 4
    raw = np.zeros(size + spare, np.float32)
    start = -raw.ctypes.data % ALIGNMENT // 4
    return raw[start : start + size]


def supports(config: NetworkConfig) -> bool:
    """Return whether there is a plan for a network."""
    if not isinstance(config, OSpatialNetConfig) or config.sequence != "mamba":
        return False
    tokens = config.bands * config.fullband_squeeze
    return config.channels % LANES == tokens % LANES == config.d_state % GROUP == 0


def plan(config: OSpatialNetConfig, weights: Weights, folded: bool = True, halves: bool = False) -> Plan:
    """Return the plan of a network that is given by its weights.

    folded: for a state that is the noisy spectrum, as at t = 1. halves: whether the largest products are in bfloat16,
    if this processor has them.

    Raises KeyError or ValueError if the weights are not those of such a network.
    """
    c, source, order = config, _Weights(weights), _order(config)
    halves = halves and HALVES and c.channels % PANEL == c.bands * c.fullband_squeeze % PANEL == 0
    pack = packed_halves if halves else packed
    embed = _embedding(c, source) if c.embedding else lambda *_: np.zeros(0, np.float32)
    parts: list[Array] = []
    modulated: list[Callable[[Array], list[Array]]] = []
    begins: list[tuple[int, int, int, int]] = []
    normed = kept = 0

    def begin(kind: int, norm: str = "", channels: Order = order, carried: int = 0) -> None:
        nonlocal normed, kept
        begins.append((kind, sum(part.size for part in parts), normed, kept))
        if norm:
            modulated.append(_modulated(source, norm, channels, c.embedding))
            normed, kept = normed + 2 * len(channels), kept + carried

    begin(ENCODER)
    parts += _encoder(c, source, folded)
    for i in range(c.blocks):
        tokens = np.arange(c.bands * c.fullband_squeeze)
        if tokens.size and i == c.blocks // 2:
            begin(FULL_BAND, "full.norm", tokens, (TAPS - 1 + c.d_state) * 2 * tokens.size)
            weight, bias = source.layer("full.squeeze", c.fullband_squeeze, order)
            parts += packed_few(weight.T, bias)
            parts += _mamba(source, "full.mamba", tokens, c.d_state, pack)
            weight, bias = source.layer("full.unsqueeze", order, c.fullband_squeeze)
            parts += packed(weight.T, bias)
        begin(BLOCK, f"narrow.{i}.norm", order, (TAPS - 1 + c.d_state) * c.bands * 2 * c.channels)
        parts += _cross_band(c, source, f"cross.{i}")
        parts += _mamba(source, f"narrow.{i}.mamba", order, c.d_state, pack)
    begin(DECODER)
    parts += _decoder(c, source, folded, pack)
    source.check_all_taken()

    def norms(t: float, to: float, room: float) -> Array:
        embedding = embed(t, to, room)
        return _joined([part for norm in modulated for part in norm(embedding)])

    sizes = _sizes(c, folded, halves)
    return Plan(sizes, _joined(parts), np.array(begins), norms, kept, _parameters(c, weights), _work(c, sizes))


def _joined(parts: Sequence[Array]) -> Array:
    total = np.concatenate([part.ravel() for part in parts])
    flat = aligned(total.size)
    flat[:] = total
    return flat


def _parameters(c: OSpatialNetConfig, weights: Weights) -> int:
    """Return how many parameters the folded network has: no embedding, and one spectrum instead of two."""
    left = {k: w.size for k, w in weights.items() if "modulation" not in k and not k.startswith(("embedding", "room"))}
    twice = left["encoder.weight"] + left["skip.weight"] if c.sees_state else 0
    return sum(left.values()) - twice // 2


class _Weights:
    """The weights of a network by name, each taken once and of the shape that its configuration says.

    A size of the shape is a number, or an array: the indices along that axis in the order that is wanted.
    """

    def __init__(self, weights: Weights) -> None:
        self._left = dict(weights)

    def take(self, name: str, *shape: int | Order) -> Array:
        found = self._left.pop(name)
        wanted = tuple(size if isinstance(size, int) else len(size) for size in shape)
        if found.shape != wanted:
            raise ValueError(f"{name} has shape {list(found.shape)}, expected {list(wanted)}")
        for axis, size in enumerate(shape):
            found = found if isinstance(size, int) else found.take(size, axis)
        return found

    def layer(self, name: str, outputs: int | Order, *inputs: int | Order) -> tuple[Array, Array]:
        """Take the weight [outputs, ...] and the bias [outputs] of a layer."""
        return self.take(f"{name}.weight", outputs, *inputs), self.take(f"{name}.bias", outputs)

    def check_all_taken(self) -> None:
        if self._left:
            raise ValueError(f"unknown weights {', '.join(self._left)}")


def _sizes(c: OSpatialNetConfig, folded: bool, halves: bool) -> Sizes:
    behind = c.filter_frames - 1 - c.filter_ahead
    padding = max(1, (c.kernel[1] - c.stride) // 2)
    group, paired = _group(c)
    return Sizes(
        inputs=2 if folded or not c.sees_state else 4,
        bins=c.bins,
        padding=padding,
        width=whole(max(padding + whole(c.bins) + 1, c.bins + 2 * padding)),
        bands=c.bands,
        stride=c.stride,
        frames=c.kernel[0],
        taps=c.kernel[1],
        channels=c.channels,
        kernel=c.cross_kernel,
        group=group,
        paired=paired,
        states=c.d_state,
        squeeze=c.squeeze,
        fullband=c.fullband_squeeze,
        head=c.head,
        bounded=c.output == "mask",
        lookahead=c.lookahead,
        filter_frames=c.filter_frames,
        filter_bins=min(c.filter_bins, c.bins),
        behind=behind,
        history=max(c.kernel[0] - 1, c.lookahead + behind),
        halves=halves,
    )


def _work(c: OSpatialNetConfig, sizes: Sizes) -> tuple[int, ...]:
    rows, tokens, channels = SEGMENT * c.bands, c.bands * c.fullband_squeeze, c.channels
    many = max(NEAR, SEGMENT)  # rows of a Mamba
    inner = max(2 * channels * many, 2 * tokens * SEGMENT)
    narrow = max(
        rows * whole(max(c.squeeze, c.fullband_squeeze)),
        many * (whole(_rank(channels)) + whole(2 * c.d_state)),
        SEGMENT * (whole(_rank(tokens)) + whole(2 * c.d_state)),
    )
    return (
        max((c.bands + c.cross_kernel - 1) * channels, c.head * sizes.width + LANES),
        max(rows * channels, many * channels, tokens * SEGMENT),
        max(rows * channels, rows * c.fullband_squeeze, inner),
        max(c.squeeze * SEGMENT * whole(c.bands), inner),
        max(c.squeeze * rows, c.bands * whole(c.stride * c.head) + LANES, c.bands * channels, inner),
        narrow,
        max(FORWARD_ROWS * SEGMENT * 2 * max(channels, tokens), channels * many, channels * c.bands),
    )


def _rank(channels: int) -> int:
    return -(-channels // 16)


def _embedding(c: OSpatialNetConfig, source: _Weights) -> Callable[[float, float, float], Array]:
    """Return the embedding as a function of the time, of that where a jump ends, and of the room that is kept."""
    size = c.embedding
    frequencies = source.take("embedding.frequencies", size // 2)
    first, first_bias = source.layer("embedding.layers.0", size, size)
    second, second_bias = source.layer("embedding.layers.2", size, size)
    jump = source.take("embedding.jump.weight", size, size) if c.jumps else None
    reverberant = source.take("room", size) if c.keep_room else None

    def features(t: float) -> Array:
        phase = np.float32(2 * np.pi) * np.float32(t) * frequencies
        return np.concatenate([np.sin(phase), np.cos(phase)])

    def embed(t: float, to: float, room: float) -> Array:
        x = first @ features(t) + first_bias
        if jump is not None:
            x = x + jump @ features(to)
        x = _silu(second @ _silu(x) + second_bias)
        return x if reverberant is None else x + np.float32(room) * reverberant

    return embed


def _silu(x: Array) -> Array:
    y: Array = x / (1 + np.exp(-x))
    return y


def _modulated(source: _Weights, name: str, channels: Order, size: int) -> Callable[[Array], list[Array]]:
    """Return gain and offset of a norm as a function of an embedding of some size; without one they stay."""
    gain, offset = source.layer(name, channels)
    if not size:
        return lambda embedding: [gain, offset]
    twice = np.concatenate([channels, channels + len(channels)])
    weight, bias = source.layer(f"{name}.modulation", twice, size)

    def modulate(embedding: Array) -> list[Array]:
        scale, shift = np.split(weight @ embedding + bias, 2)
        return [gain * (1 + scale), offset * (1 + scale) + shift]

    return modulate


def _inputs(c: OSpatialNetConfig, weight: Array, folded: bool) -> Array:
    """Return the weight of a convolution of spectra for noisy and state in this order, or for one that is both."""
    if not c.sees_state:
        return weight
    state, noisy = weight[:, :2], weight[:, 2:]
    return state + noisy if folded else np.concatenate([noisy, state], 1)


def _encoder(c: OSpatialNetConfig, source: _Weights, folded: bool) -> list[Array]:
    frames, taps = c.kernel
    given, bias = source.layer("encoder", _order(c), 4 if c.sees_state else 2, frames, taps)
    weight = _inputs(c, given, folded)
    parts = []
    for frame in range(frames):
        for part in range(weight.shape[1]):
            parts += packed(weight[:, part, frame].T, bias if frame + part == 0 else None)
    return parts


def _group(c: OSpatialNetConfig) -> tuple[int, bool]:
    """Return how many channels the convolution along the bands joins, and whether they are two groups that alternate.

    They fill vectors: several narrow groups become one, with zeros between them, unless two of half a vector do.
    """
    size, half = c.channels // c.cross_groups, LANES // 2
    if half % size == 0:
        return LANES, True
    return next(size * n for n in range(1, c.cross_groups + 1) if size * n % LANES == c.cross_groups % n == 0), False


def _order(c: OSpatialNetConfig) -> Order:
    """Return the channels in the order of the kernels: two groups that one convolution joins alternate."""
    group, paired = _group(c)
    channels = np.arange(c.channels)
    return channels.reshape(-1, 2, group // 2).swapaxes(1, 2).ravel() if paired else channels


def _convolution(c: OSpatialNetConfig, source: _Weights, name: str) -> list[Array]:
    size, kernel, (group, paired) = c.channels // c.cross_groups, c.cross_kernel, _group(c)
    order = _order(c)
    weight, bias = source.layer(f"{name}.conv", order, size, kernel)
    parts = [*source.layer(f"{name}.norm", order)]
    for start in range(0, c.channels, group):
        outputs = order[start : start + group]
        inputs = outputs.reshape(-1, 2) if paired else outputs[:, None]
        joined = np.zeros((kernel, len(inputs), group), np.float32)  # [tap, input, output]
        for i, channels in enumerate(inputs):
            for j, output in enumerate(outputs):
                given = channels[j % len(channels)]
                if given // size == output // size:
                    joined[:, i, j] = weight[start + j, given % size]
        parts += packed(joined.reshape(-1, group), bias[start : start + group])
    return parts


def _cross_band(c: OSpatialNetConfig, source: _Weights, name: str) -> list[Array]:
    full, bands, squeeze, order = f"{name}.full", c.bands, c.squeeze, _order(c)
    parts = [*_convolution(c, source, f"{name}.conv1"), *source.layer(f"{full}.norm", order)]
    weight, bias = source.layer(f"{full}.squeeze", squeeze, order)
    parts += packed_few(weight.T, bias)
    weight, bias = source.take(f"{full}.weight", squeeze, bands, bands), source.take(f"{full}.bias", bands, squeeze)
    for j in range(squeeze):
        parts += packed(weight[j], bias[:, j])
    weight, bias = source.layer(f"{full}.unsqueeze", order, squeeze)
    parts += packed(weight.T, bias)
    return parts + _convolution(c, source, f"{name}.conv2")


def _mamba(source: _Weights, name: str, channels: Order, states: int, pack: Pack) -> list[Array]:
    inner, rank = 2 * len(channels), _rank(len(channels))
    low, both = np.split(source.take(f"{name}.x_proj.weight", rank + 2 * states, inner), [rank])
    values, gates = np.split(source.take(f"{name}.in_proj.weight", 2 * inner, channels), 2)
    parts = pack(values.T) + pack(gates.T)
    parts += [
        source.take(f"{name}.conv1d.weight", inner, 1, TAPS)[:, 0].T,
        source.take(f"{name}.conv1d.bias", inner),
        *pack(both.T),
        *packed_few(low.T),
        source.take(f"{name}.dt_proj.weight", inner, rank).T,
        source.take(f"{name}.dt_proj.bias", inner),
        -np.exp(source.take(f"{name}.A_log", inner, states).T) * np.float32(LOG2E),
        source.take(f"{name}.D", inner),
        *pack(source.take(f"{name}.out_proj.weight", channels, inner).T),
    ]
    return parts


def _decoder(c: OSpatialNetConfig, source: _Weights, folded: bool, pack: Pack) -> list[Array]:
    order = _order(c)
    parts = [*source.layer("norm", order)]
    weight, bias = (part.reshape(c.stride, c.head, -1) for part in source.layer("decoder", c.stride * c.head, order))
    parts += pack(weight.transpose(2, 1, 0).reshape(c.channels, -1), bias.T.ravel())  # [head, bin of the band]
    given, bias = source.layer("skip", c.head, 4 if c.sees_state else 2, 1, 3)
    skip = _inputs(c, given, folded).reshape(c.head, -1)
    taps = skip.shape[1]
    rows = np.zeros((c.head, whole(1 + taps)), np.float32)
    rows[:, 0], rows[:, 1 : 1 + taps] = bias, skip
    count = len(STARTS[c.output])
    mine = slice(OUTPUTS - count, OUTPUTS) if c.output == "direct" else slice(count)  # of mask and residual
    head, offset = np.zeros((OUTPUTS, c.head, 1, 3), np.float32), np.zeros(OUTPUTS, np.float32)
    head[mine], offset[mine] = source.layer("head", count, c.head, 1, 3)
    parts += [rows, *_head(head, offset)]
    if c.filter_frames > 1:
        weight = source.take("filter.weight", 2 * c.filter_frames, c.head, 1, 3)
        missing = -len(weight) % OUTPUTS
        weight = np.concatenate([weight, np.zeros((missing, *weight.shape[1:]), np.float32)])
        for part in np.split(weight, len(weight) // OUTPUTS):
            parts += _head(part, np.zeros(OUTPUTS, np.float32))
    return parts


def _head(weight: Array, bias: Array) -> list[Array]:
    """Return bias and taps of OUTPUTS convolutions, [1 + head * tap, output], filled up to whole vectors."""
    rows = np.concatenate([bias[None], weight[:, :, 0].reshape(OUTPUTS, -1).T])
    return [np.concatenate([rows.ravel(), np.zeros(-rows.size % LANES, np.float32)])]
