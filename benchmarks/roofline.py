"""Bound the real-time factor of a model on one core from what it must compute, and say how near we come.

    python benchmarks/roofline.py [--model sbm-tiny] [--seconds 10]

One second of audio needs, whatever the code looks like,

    bound = products / (rate of matrix products) + updates / (rate of state updates) + bytes / (rate of copies)

- products: floating-point operations of all matrix products and convolutions of the folded network;
- updates: states of all scans, one update being h = 2**(s a) h + d b, y += h c;
- bytes: the activations between the stages that are one function each (two convolutions along the bands, the linear map
  over them, the Mamba block), read once and written once in float32. What lies within a stage could stay in a cache.

The rates are measured in the same run on one thread: products by our kernel in the shapes of the network, state
updates on registers alone with the scan's own instructions, and copies of 64 MiB. Terms are added, not overlapped.
Then the time of each kind of stage, in a block of a file and in a hop of a stream.
"""

from __future__ import annotations

import argparse

import numpy as np
from numba import njit
from scan import best

from sbm_cli.compiled.network import run
from sbm_cli.compiled.product import packed, product
from sbm_cli.compiled.scan import GROUP
from sbm_cli.compiled.vector import LANES, exp2_negative, load, splat, store
from sbm_cli.engine.plan import Plan, aligned
from sbm_cli.enhancer import Enhancer
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.options import Options
from sbm_cli.timing.machine import machine, software

ROWS = 64  # of a product: as many as a Mamba takes at a time
FRAMES = 125  # of a block of two seconds
KINDS = ("encoder", "blocks", "full-band Mamba", "decoder")


def operations(config: OSpatialNetConfig, rate: float) -> tuple[float, float, float]:
    """Return products (floating-point operations), updates and bytes for one second of `rate` frames."""
    c, rows, bins = config, rate * config.bands, rate * config.bins

    def mamba(tokens: float, channels: int) -> tuple[float, float]:
        inner, rank = 2 * channels, -(-channels // 16)
        weights = channels * 2 * inner + inner * (rank + 2 * c.d_state) + rank * inner + inner * channels
        return 2 * tokens * weights, tokens * inner * c.d_state

    narrow, full = mamba(rows, c.channels), mamba(rate, c.bands * c.fullband_squeeze)
    cross = 2 * rows * c.channels * c.channels // c.cross_groups * c.cross_kernel * 2  # two convolutions
    cross += 2 * rows * c.channels * c.squeeze * 2 + 2 * rate * c.squeeze * c.bands**2
    products = c.blocks * (narrow[0] + cross) + full[0] + 4 * rows * c.channels * c.fullband_squeeze
    products += 2 * rows * c.channels * (2 * c.kernel[0] * c.kernel[1] + c.stride * c.head)  # encoder and decoder
    products += 2 * bins * c.head * 3 * (2 + 4)  # skip and head
    stages = 4 * c.blocks
    return products, c.blocks * narrow[1] + full[1], stages * 2 * rows * c.channels * 4


@njit(error_model="numpy")
def multiply(x, weight, y, inputs, outputs):  # type: ignore[no-untyped-def]
    product(x, 0, inputs, 1, ROWS, weight, 0, inputs, outputs, False, y, 0, outputs)


@njit(error_model="numpy")
def updates_on_registers(values, count):  # type: ignore[no-untyped-def]
    """Advance GROUP vectors of states `count` times."""
    step, drive, total = load(values, 0), load(values, LANES), splat(0.0)
    h0, h1, h2, h3 = step, step, drive, drive
    for _ in range(count):
        step = step + drive  # another decay each time, or the compiler would compute it once
        h0 = exp2_negative(step * -0.1) * h0 + drive * 0.5
        h1 = exp2_negative(step * -0.2) * h1 + drive * 0.5
        h2 = exp2_negative(step * -0.3) * h2 + drive * 0.5
        h3 = exp2_negative(step * -0.4) * h3 + drive * 0.5
        total = total + h0 * 0.1
        total = total + h1 * 0.2
        total = total + h2 * 0.3
        total = total + h3 * 0.4
    store(values, 2 * LANES, total)


def rates(config: OSpatialNetConfig, seconds: float) -> tuple[float, float, float]:
    """Return products, updates and bytes a second."""
    shapes = [(config.channels, 4 * config.channels), (2 * config.channels, config.channels)]
    products = 0.0
    for size, out in shapes:
        x, y, random = np.zeros(ROWS * size, np.float32), np.zeros(ROWS * out, np.float32), np.random.default_rng(0)
        weight = np.concatenate(packed(random.normal(size=(size, out)).astype(np.float32)))
        took = best(
            lambda x=x, weight=weight, y=y, size=size, out=out: multiply(x, weight, y, size, out),  # type: ignore[misc]
            seconds,
        )
        products = max(products, 2 * ROWS * size * out / took)
    values, count = np.full(3 * LANES, 1e-6, np.float32), 100_000
    updates = count * GROUP * LANES / best(lambda: updates_on_registers(values, count), seconds)
    source, target = np.zeros(2**24, np.float32), np.zeros(2**24, np.float32)
    copied = 2 * 2**26 / best(lambda: np.copyto(target, source), seconds)
    return products, updates, copied


def stage_times(plan: Plan, frames: int, seconds: float) -> dict[str, float]:
    """Return the seconds that all stages of a kind take for a block of so many frames."""
    sizes, work = plan.sizes, plan.new_work()
    spectra = np.random.default_rng(0).normal(0, 0.3, (sizes.history + frames) * 2 * sizes.width).astype(np.float32)
    x, estimates = aligned(frames * sizes.bands * sizes.channels), aligned(frames * 2 * sizes.width)
    carry, norms, times = aligned(plan.carry), plan.norms(1.0, 0.0, 0.0), dict.fromkeys(KINDS, 0.0)
    for stage, (kind, *_) in enumerate(plan.stages):
        times[KINDS[kind]] += best(
            lambda stage=stage: run(  # type: ignore[misc]
                stage, stage + 1, 0, frames, sizes, plan.weights, plan.stages, norms, carry, spectra, x, work, estimates
            ),
            seconds,
        )
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio, and of measuring")
    options = parser.parse_args()
    enhancer = Enhancer.load(options.model)
    config, samples = enhancer.config, round(options.seconds * enhancer.config.rate)
    noise = np.random.default_rng(0).normal(0, 0.05, samples).astype(np.float32)
    needs = operations(config.network, config.rate / config.stft.hop)
    cold = Options(warm_up=False)
    reached = best(lambda: enhancer.enhance(noise, config.rate, cold), options.seconds) / options.seconds
    speeds = rates(config.network, options.seconds / 3)
    times = [need / speed for need, speed in zip(needs, speeds, strict=True)]
    print(f"{config.name}: {machine()}; {software()}; one thread\n")
    print("| | for one second of audio | measured a second | ms |\n|---|---|---|---|")
    for name, need, speed, took in zip(("products", "updates", "bytes"), needs, speeds, times, strict=True):
        print(f"| {name} | {need / 1e6:.1f} M | {speed / 1e9:.1f} G | {took * 1e3:.1f} |")
    print(f"| bound | | | {sum(times) * 1e3:.1f} |\n| reached | | | {reached * 1e3:.1f} |")
    plan, hop = enhancer.model.plan(), config.stft.hop / config.rate
    assert plan is not None, "this network has no compiled form"
    block = stage_times(plan, FRAMES, options.seconds / 30)
    alone = stage_times(plan, 1, options.seconds / 30)
    stream, silence = enhancer.stream(config.rate), noise[: config.stft.hop]
    whole = best(lambda: stream.feed(silence), options.seconds / 3)
    print("\n| | ms for one second of audio, in blocks | ms in a hop |\n|---|---|---|")
    for kind in KINDS:
        print(f"| {kind} | {block[kind] / FRAMES / hop * 1e3:.2f} | {alone[kind] * 1e3:.3f} |")
    rest = reached - sum(block.values()) / FRAMES / hop, whole - sum(alone.values())
    print(f"| STFT, level, compression, calls | {rest[0] * 1e3:.2f} | {rest[1] * 1e3:.3f} |")
    print(f"| all | {reached * 1e3:.2f} | {whole * 1e3:.3f} |")
    print(f"\nRTF {reached:.4f}, {reached / sum(times):.2f} times the bound of {sum(times):.4f}")


if __name__ == "__main__":
    main()
