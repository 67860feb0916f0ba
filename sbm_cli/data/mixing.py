"""The mixture generator: pairs of noisy and clean segments, each a pure function of (seed, step, item)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sbm_cli.config import written
from sbm_cli.data.corpus import LEVEL_DBFS, Corpus
from sbm_cli.data.degradations import CODECS, coded, gap_draws, gaps, low_pass
from sbm_cli.data.filters import (
    active_power,
    band_limited,
    db_ratio,
    fast_length,
    filtered,
    played,
    reverberate,
    shelved,
    through_room,
)
from sbm_cli.data.manifest import RATE, SPLITS
from sbm_cli.data.random import (
    BANDWIDTH,
    CODEC,
    COLOURED,
    FLOOR,
    GAPS,
    KEEP_ROOM,
    MIXTURE,
    NOISE_SPEED,
    SECOND_TALKER,
    SOFT_CLIP,
    Draws,
    Rows,
    rows_of,
    uniforms,
)
from sbm_cli.data.room_responses import ResponseBank, Responses
from sbm_cli.data.segments import Segments, assemble, draw_colour, placements_in, synthetic

USUAL_POWER = 10 ** (LEVEL_DBFS / 10)

_LIMITS = {  # of numbers and of both ends of a range; others are probabilities (p_…), or levels
    "segment_seconds": (0.5, 60),
    "noise_speed": (0.25, 4),
    "shelf_db": (0, 200),
    "clip_db": (0, 200),
    "offset": (0, 1),
    "band_limit_hz": (1000, RATE / 2),
    "bandwidth_hz": (1000, RATE / 2),
    "gap_ms": (5, 1000),
    "gap_share": (0.001, 0.5),
    "burst_packets": (1, 50),
}


@dataclass(frozen=True)
class MixConfig:
    """Every number of the recipe. Levels are dBFS; p_… are probabilities of an item."""

    segment_seconds: float = 3.0
    min_speech_snr_db: float = 0.0  # utterances whose stated snr_db is lower are left out
    snr_db: tuple[float, float] = (-5.0, 20.0)  # active (reverberant) speech against all the noise of the segment
    p_reverb: float = 0.35  # with or without noise
    p_reverb_only: float = 0.05  # of all items; part of p_reverb
    p_clean: float = 0.05  # clean in, clean out
    p_measured: float = 0.15  # of the reverberant ones: a measured response instead of a simulated one
    p_noise_reverb: float = 0.3  # of the reverberant ones: the noise passes through a response of its own
    p_two_noises: float = 0.25
    noise_speed: tuple[float, float] = (1.0, 1.0)  # at which noise is played: other machines, other rooms
    p_noise_backwards: float = 0.0
    p_synthetic: float = 0.07  # white to brown noise and hum instead of a recording
    shelf_db: float = 6.0  # largest tilt of the noise, at either end of the spectrum
    p_floor: float = 0.9
    floor_dbfs: tuple[float, float] = (-75.0, -55.0)  # beside speech at -26 dBFS: noise under gated pauses of the input
    p_band_limit: float = 0.1
    band_limit_hz: tuple[float, float] = (3400.0, 7000.0)
    p_clipped: float = 0.03
    clip_db: tuple[float, float] = (1.0, 9.0)  # ceiling below the peak
    level_dbfs: tuple[float, float] = (-40.0, -15.0)  # active RMS of the input
    p_second_talker: float = 0.0  # another speaker talks too, from another place of the room, and stays in the target
    second_talker_db: tuple[float, float] = (-10.0, 5.0)  # active power beside the first one's
    p_keep_room: float = 0.0  # the target is the reverberant speech without the noise, and the network is told so
    p_level_step: float = 0.0  # from some moment on everything is louder or softer
    level_step_db: tuple[float, float] = (-30.0, 20.0)
    p_offset: float = 0.0  # an offset of the input,
    offset: float = 0.1  # of at most so much of full scale
    # What follows is done to the input alone, in this order.
    p_soft_clip: float = 0.0  # of the clipped ones: rounded off instead of cut
    p_bandwidth: float = 0.0  # what lies above a frequency is lost
    bandwidth_hz: tuple[float, float] = (1700.0, 5500.0)
    p_codec: float = 0.0  # encoded and decoded; the mixtures are then made on the CPU
    codecs: tuple[str, ...] = tuple(CODECS)  # drawn alike
    p_gaps: float = 0.0
    gap_ms: tuple[float, float] = (10.0, 200.0)
    gap_share: tuple[float, float] = (0.02, 0.2)  # of the segment, on average
    p_packet_loss: float = 0.5  # of those with gaps: packets of 20 ms are lost in bursts
    burst_packets: tuple[float, float] = (1.0, 5.0)  # mean length of a burst

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least, most = _LIMITS.get(name, (0, 1) if name.startswith("p_") else (-200, 200))
            ends = value if isinstance(value, (tuple, list)) else (value, value)
            if name != "codecs" and (len(ends) != 2 or not all(least <= end <= most for end in ends)):
                raise ValueError(f"{name} lies between {least:g} and {most:g}, got {written(value)}")
            if name != "codecs" and ends[0] > ends[1]:
                raise ValueError(f"{name} has its lower end first, got {written(value)}")
        if self.p_reverb_only > self.p_reverb or self.p_clean + self.p_reverb > 1:
            raise ValueError(
                f"p_reverb_only is part of p_reverb, and p_clean + p_reverb at most 1, got {self.p_reverb_only}, "
                f"{self.p_reverb} and {self.p_clean}"
            )
        if not self.codecs or not set(self.codecs) <= set(CODECS):
            raise ValueError(f"codecs are some of {', '.join(CODECS)}, got {written(self.codecs)}")

    @property
    def samples(self) -> int:
        return round(self.segment_seconds * RATE)


class Mixer:
    """Make segments of a split ("train", "valid", "report") from a corpus and a bank of rooms, on any device.

    Nothing waits for the device, and every shape is known beforehand. Codecs run on the CPU alone: with them, `device`
    is the CPU whatever was asked for.

    Raises ConfigError if the split has no speech or no noise.
    """

    def __init__(
        self,
        corpus: Corpus,
        bank: ResponseBank,
        config: MixConfig,
        split: str = "train",
        device: str | torch.device = "cpu",
    ) -> None:
        self.device = torch.device("cpu" if config.p_codec else device)
        self._segments = Segments(corpus, split, config.min_speech_snr_db, self.device)
        self._responses = Responses(bank, self.device)
        # What is validated is always the direct sound.
        self._config = config if split == "train" else replace(config, p_keep_room=0.0)
        self._stream = MIXTURE + 10 * SPLITS.index(split)
        self._played = math.ceil(config.samples * config.noise_speed[1])  # samples of noise that the fastest takes

    def batch(self, seed: int, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return (noisy, clean), float32 [items, samples] each; an item is a function of (seed, step, item) alone."""
        config, n = self._config, self._config.samples
        keys = torch.tensor(items).to(self.device, non_blocking=True)
        draws = Draws(seed, step, keys, self._stream, 64 + 12 * placements_in(self._played))
        kind = draws.uniform()
        reverberant = (kind >= config.p_clean) & (kind < config.p_clean + config.p_reverb)
        pair = self._speech(draws, reverberant)
        if config.p_keep_room:
            pair[:, 1] = torch.where(keep_room(config, seed, step, keys)[:, None], pair[:, 0], pair[:, 1])
        noise = self._noise(draws)
        index = self._responses.draw(draws, config.p_measured)
        chosen = reverberant & draws.chance(config.p_noise_reverb)
        change(noise, chosen, lambda rows: through_room(noise[rows], self._responses.read(index[rows])))
        with_noise = kind >= config.p_clean + config.p_reverb_only * reverberant
        gain = noise_gain(pair[:, 0], noise, draws.uniform(*config.snr_db))
        pair[:, 0] += (gain * with_noise)[:, None] * noise
        gain = db_ratio(draws.uniform(*config.floor_dbfs)) * draws.chance(config.p_floor)
        pair[:, 0] += gain[:, None] * draws.normal(FLOOR, slice(None), n)
        low_hz = torch.where(draws.chance(0.5), 300.0, 0.0)[:, None]  # as a telephone does
        high_hz = draws.uniform(*config.band_limit_hz)[:, None]
        chosen = draws.chance(config.p_band_limit)
        change(pair, chosen, lambda rows: band_limited(pair[rows], low_hz[rows], high_hz[rows]))
        if config.p_level_step:
            pair *= level_step(draws, config, n)[:, None]
        return self._at_level(draws, *pair.unbind(1))

    def _speech(self, draws: Draws, reverberant: Tensor) -> Tensor:
        """Return speech with and without late reverberation, [items, 2, samples]."""
        segments, config, n = self._segments, self._config, self._config.samples
        index = self._responses.draw(draws, config.p_measured)
        first = segments.utterances.draw(draws)
        dry = assemble(segments.store, segments.speech(draws, first, n), n)
        pair = self._in_room(dry, reverberant, index)
        if config.p_second_talker:
            others = draws.apart(SECOND_TALKER)
            second, differs = first, torch.zeros_like(reverberant)
            for _ in range(4):
                second = torch.where(differs, second, segments.utterances.draw(others))
                differs = segments.utterances.name[second] != segments.utterances.name[first]
            placements = segments.speech(others, second, n)
            level_db = others.uniform(*config.second_talker_db)

            def joined(rows: Rows) -> Tensor:
                other = assemble(segments.store, placements.of(rows), n)
                gain = (speech_power(dry[rows]) / speech_power(other)).sqrt() * db_ratio(level_db[rows])
                beside = self._responses.beside[index[rows]]
                return pair[rows] + self._in_room(gain[:, None] * other, reverberant[rows], beside)

            change(pair, differs & others.chance(config.p_second_talker), joined)
        return pair

    def _in_room(self, dry: Tensor, reverberant: Tensor, index: Tensor) -> Tensor:
        """Put speech [items, samples] into rooms where it is reverberant, and return it with its target."""
        pair, read = torch.stack([dry, dry], 1), self._responses.read
        change(pair, reverberant, lambda rows: torch.stack(reverberate(dry[rows], read(index[rows])), 1))
        return pair

    def _noise(self, draws: Draws) -> Tensor:
        """Return noise at about -26 dBFS, recorded or synthetic, [items, samples]."""
        segments, config, n, m = self._segments, self._config, self._config.samples, self._played
        noise = assemble(segments.store, segments.noise(draws, m), m)
        second, gain = segments.noise(draws, m), db_ratio(draws.uniform(-12, 0))[:, None]
        chosen = draws.chance(config.p_two_noises)
        change(noise, chosen, lambda rows: noise[rows] + gain[rows] * assemble(segments.store, second.of(rows), m))
        if config.p_noise_backwards or config.noise_speed != (1.0, 1.0):
            own = draws.apart(NOISE_SPEED)
            noise = played(noise, own.uniform(*config.noise_speed), own.chance(config.p_noise_backwards), n)
        low_db, high_db = (draws.uniform(-config.shelf_db, config.shelf_db) for _ in range(2))
        if config.shelf_db:
            noise = shelved(noise, low_db, high_db)
        colour, size, chosen = draw_colour(draws), fast_length(n), draws.chance(config.p_synthetic)
        change(noise, chosen, lambda rows: synthetic(draws.normal(COLOURED, rows, size), n, *(x[rows] for x in colour)))
        return noise

    def _at_level(self, draws: Draws, noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Set the level of the input, the target alike; hard clipping of the input where the recipe wants it."""
        config = self._config
        power, peak = active_power(noisy), noisy.abs().amax(-1)
        gain = db_ratio(draws.uniform(*config.level_dbfs)) / power.clamp_min(1e-10).sqrt()
        gain = torch.minimum(gain, 0.99 / peak.clamp_min(1e-10))[:, None]  # clipping comes from p_clipped only
        under = db_ratio(-draws.uniform(*config.clip_db) * draws.chance(config.p_clipped))
        ceiling = (peak * under)[:, None]
        clipped = torch.clamp(noisy, -ceiling, ceiling)
        if config.p_soft_clip:
            soft = (under < 1) & draws.apart(SOFT_CLIP).chance(config.p_soft_clip)
            clipped = torch.where(soft[:, None], ceiling * torch.tanh(noisy / ceiling.clamp_min(1e-10)), clipped)
        noisy = self._degraded(draws, clipped * gain)
        if config.p_offset:
            noisy = noisy + (draws.uniform(-config.offset, config.offset) * draws.chance(config.p_offset))[:, None]
        return noisy, clean * gain

    def _degraded(self, draws: Draws, noisy: Tensor) -> Tensor:
        """Return the input without some of its bandwidth, as a codec leaves it, and with gaps."""
        config, n = self._config, self._config.samples
        if config.p_bandwidth:
            own, size = draws.apart(BANDWIDTH), fast_length(n + 480)  # 30 ms for the rims of the filters
            chosen, gain = own.chance(config.p_bandwidth), low_pass(own, config.bandwidth_hz, size)
            change(noisy, chosen, lambda rows: filtered(noisy[rows], gain[rows], size))
        if config.p_codec:
            own = draws.apart(CODEC)
            chosen, number, compression = own.chance(config.p_codec), own.below(len(config.codecs)), own.uniform()
            change(noisy, chosen, lambda rows: coded(noisy[rows], config.codecs, number[rows], compression[rows]))
        if config.p_gaps:
            own = draws.apart(GAPS, gap_draws(config.gap_ms, n))
            chosen = own.chance(config.p_gaps)
            missing = gaps(own, config.gap_share, config.gap_ms, config.p_packet_loss, config.burst_packets, n)
            noisy = noisy.masked_fill(chosen[:, None] & missing, 0.0)
        return noisy


def keep_room(config: MixConfig, seed: int, step: int, items: Tensor) -> Tensor:
    """Return which items [items] ask for the reverberant speech: for the mixer, and for who tells the network."""
    return uniforms(seed, step, items, KEEP_ROOM, 1)[:, 0] < config.p_keep_room


def level_step(draws: Draws, config: MixConfig, samples: int) -> Tensor:
    """Return gains [items, samples] that change within 50 ms somewhere in the middle, 1 at first."""
    at, step_db = draws.uniform(0.1, 0.9) * samples, draws.uniform(*config.level_step_db)
    step_db = step_db * draws.chance(config.p_level_step)
    position = torch.arange(samples, device=at.device)
    return db_ratio(step_db[:, None] * ((position - at[:, None]) / (0.05 * RATE)).clamp(0, 1))


def noise_gain(speech: Tensor, noise: Tensor, snr_db: Tensor) -> Tensor:
    """Return the factors [items] for `noise` that set the active power of `speech` against the power of all the noise.

    Noise more than 20 dB below its usual -26 dBFS (a pause of the recording, the rustle of a codec) counts as 20 dB
    below and so stays quieter than asked.
    """
    power = noise.square().mean(-1).clamp_min(USUAL_POWER / 100)
    return (speech_power(speech) / power).sqrt() * db_ratio(-snr_db)


def speech_power(speech: Tensor) -> Tensor:
    """Return the active power [items] of speech; silence counts as -26 dBFS."""
    power = active_power(speech)
    return torch.where(power > 0, power, USUAL_POWER)


def change(values: Tensor, mask: Tensor, new: Callable[[Rows], Tensor]) -> None:
    """Replace the rows of values [items, ...] that a mask [items] chooses by `new(rows)`."""
    rows = rows_of(mask)
    if isinstance(rows, slice) or len(rows):
        values[rows] = torch.where(mask[rows].view(-1, *[1] * (values.ndim - 1)), new(rows), values[rows])
