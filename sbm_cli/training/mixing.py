"""The mixture generator: pairs of noisy and clean segments, each a pure function of (seed, step, item)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from sbm_cli.errors import ConfigError
from sbm_cli.training.data import LEVEL_DBFS, RATE, SPLITS, Corpus, Samples, active_power, db_ratio
from sbm_cli.training.filters import band_limited, reverberate, through_room
from sbm_cli.training.material import Material, Rng, synthetic
from sbm_cli.training.rooms import RoomBank


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
    p_synthetic: float = 0.07  # white to brown noise and hum instead of a recording
    shelf_db: float = 6.0  # largest tilt of the noise, at either end of the spectrum
    p_floor: float = 0.9
    floor_dbfs: tuple[float, float] = (-75.0, -55.0)  # beside speech at -26 dBFS: noise under gated pauses of the input
    p_band_limit: float = 0.1
    band_limit_hz: tuple[float, float] = (3400.0, 7000.0)
    p_clipped: float = 0.03
    clip_db: tuple[float, float] = (1.0, 9.0)  # ceiling below the peak
    level_dbfs: tuple[float, float] = (-40.0, -15.0)  # active RMS of the input

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("p_") and not 0 <= value <= 1:
                raise ConfigError(f"{field.name} is {value}", "a probability lies between 0 and 1")
            if isinstance(value, (tuple, list)) and not (len(value) == 2 and value[0] <= value[1]):
                raise ConfigError(f"{field.name} is {value}", "give the lower and the upper end of the range")
        if self.p_reverb_only > self.p_reverb or self.p_clean + self.p_reverb > 1:
            raise ConfigError(
                f"p_reverb_only {self.p_reverb_only}, p_reverb {self.p_reverb} and p_clean {self.p_clean} do not fit",
                "p_reverb_only is part of p_reverb, and p_clean + p_reverb is at most 1",
            )
        if not 0.5 <= self.segment_seconds <= 60:
            raise ConfigError(f"segment_seconds is {self.segment_seconds}", "0.5 to 60 s are possible")
        if not 1000 <= self.band_limit_hz[0] <= self.band_limit_hz[1] <= RATE / 2:
            raise ConfigError(f"band_limit_hz is {self.band_limit_hz}", f"1000 to {RATE // 2} Hz are possible")

    @property
    def samples(self) -> int:
        return round(self.segment_seconds * RATE)


class Mixer:
    """Make segments of a split ("train", "valid", "report") from a corpus and a bank of rooms.

    Raises ConfigError if the split has no speech or no noise.
    """

    def __init__(self, corpus: Corpus, rooms: RoomBank, config: MixConfig, split: str = "train") -> None:
        self._material = Material(corpus, split, config.min_speech_snr_db)
        self._rooms, self._config = rooms, config
        self._split = SPLITS.index(split)

    def item(self, seed: int, step: int, item: int) -> tuple[Samples, Samples]:
        """Return (noisy, clean), float32 [samples] each; the same key gives the same arrays, whatever came before."""
        rng = np.random.Generator(np.random.Philox(key=seed, counter=[0, self._split, item, step]))
        config, n = self._config, self._config.samples
        dry, _ = self._material.speech(rng, n)
        kind = rng.random()
        reverberant = config.p_clean <= kind < config.p_clean + config.p_reverb
        noisy, clean = reverberate(dry, self._rooms.draw(rng, config.p_measured)) if reverberant else (dry, dry)
        if kind >= config.p_clean + (config.p_reverb_only if reverberant else 0.0):
            noise = self._noise(rng, n)
            if reverberant and rng.random() < config.p_noise_reverb:
                noise = through_room(noise, self._rooms.draw(rng, config.p_measured))
            noisy = noisy + noise * noise_gain(noisy, noise, rng.uniform(*config.snr_db))
        if rng.random() < config.p_floor:
            noisy = noisy + rng.standard_normal(n, dtype=np.float32) * db_ratio(rng.uniform(*config.floor_dbfs))
        if rng.random() < config.p_band_limit:
            low_hz = 300.0 if rng.random() < 0.5 else 0.0  # as a telephone does
            noisy, clean = band_limited([noisy, clean], low_hz, rng.uniform(*config.band_limit_hz))
        return self._at_level(rng, noisy, clean)

    def _noise(self, rng: Rng, samples: int) -> Samples:
        if rng.random() < self._config.p_synthetic:
            return synthetic(rng, samples)
        return self._material.noise(rng, samples, self._config.p_two_noises, self._config.shelf_db)[0]

    def _at_level(self, rng: Rng, noisy: Samples, clean: Samples) -> tuple[Samples, Samples]:
        """Set the level of the input, the target alike; hard clipping of the input where the recipe wants it."""
        power, peak = active_power(noisy), float(np.abs(noisy).max())
        gain = db_ratio(rng.uniform(*self._config.level_dbfs)) / np.sqrt(max(power, 1e-10))
        gain = np.float32(min(float(gain), 0.99 / max(peak, 1e-10)))  # clipping comes from p_clipped only
        if rng.random() < self._config.p_clipped:
            ceiling = peak * db_ratio(-rng.uniform(*self._config.clip_db))
            noisy = np.clip(noisy, -ceiling, ceiling)
        return noisy * gain, clean * gain


def noise_gain(speech: Samples, noise: Samples, snr_db: float) -> np.float32:
    """Return the factor for `noise` that sets the active power of `speech` against the mean power of all the noise.

    Silent speech counts as -26 dBFS. Noise more than 20 dB below its usual -26 dBFS (a pause of the recording, the
    rustle of a codec) counts as 20 dB below and so stays quieter than asked.
    """
    power = max(float(np.mean(noise**2)), float(db_ratio(LEVEL_DBFS - 20)) ** 2)
    speech_power = active_power(speech) or float(db_ratio(LEVEL_DBFS)) ** 2
    return np.float32(np.sqrt(speech_power / power) * 10 ** (-snr_db / 20))
