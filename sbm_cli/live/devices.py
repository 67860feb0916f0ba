"""Microphones and loudspeakers, by PortAudio. Its callbacks only copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from sbm_cli.audio.resample import LIVE, StreamResampler
from sbm_cli.audio.samples import Samples
from sbm_cli.errors import AudioError, DependencyError, needing
from sbm_cli.live.buffers import PATIENCE, TICK, Inbox, JitterBuffer


@dataclass(frozen=True)
class Device:
    """What PortAudio knows of a device; default: as "input", "output", both or neither."""

    index: int
    name: str
    system: str  # that PortAudio reaches it through: ALSA, Core Audio, WASAPI, ...
    inputs: int
    outputs: int
    rate: int
    default: tuple[str, ...]


def sound_system() -> ModuleType:
    """Return sounddevice. Raises DependencyError if it or PortAudio is missing."""
    try:
        with needing("live", "live sound"):
            import sounddevice
    except OSError as error:
        raise DependencyError(
            "live sound needs the library PortAudio.",
            "Debian, Ubuntu: apt install libportaudio2. Fedora: dnf install portaudio. Arch: pacman -S portaudio.",
        ) from error
    return sounddevice


def list_devices() -> list[Device]:
    """Return all devices for sound."""
    sounddevice = sound_system()
    systems = sounddevice.query_hostapis()
    defaults = dict(zip(("input", "output"), sounddevice.default.device, strict=True))
    return [
        Device(
            index,
            found["name"],
            systems[found["hostapi"]]["name"],
            found["max_input_channels"],
            found["max_output_channels"],
            int(found["default_samplerate"]),
            tuple(kind for kind, default in defaults.items() if default == index),
        )
        for index, found in enumerate(sounddevice.query_devices())
    ]


class Microphone:
    """A device, or its first channel, as blocks [1, n] at `rate`.

    device: its index, or words of its name and its system; the default one if None.

    Raises AudioError if there is no such device or it cannot be opened, and later if it is gone.
    """

    channels = 1
    notes: list[str] = []

    def __init__(self, device: str | None, rate: int) -> None:
        self._overflows = 0
        self._inbox = Inbox()
        self._stream, self.name = _open("input", device, rate, self._capture)
        self._resampler = StreamResampler(int(self._stream.samplerate), rate, 1, LIVE)

    @property
    def latency(self) -> float:
        return float(self._stream.latency) + self._resampler.latency_seconds

    @property
    def glitches(self) -> dict[str, int]:
        return {"input overruns": self._overflows + self._inbox.overruns}

    def blocks(self) -> Iterator[Samples | None]:
        """Yield what is heard from now on, and None while that is nothing, until `close`."""
        self._stream.start()
        idle = 0.0
        for block in self._inbox:
            idle = idle + TICK if block is None else 0.0
            if idle > PATIENCE or (idle and not self._stream.active):
                raise AudioError(f"{self.name}: no sound comes any more.", "Is the device still plugged in?")
            yield None if block is None else self._resampler.feed(block)

    def close(self) -> None:
        self._inbox.close()
        self._stream.close()

    def _capture(self, data: Samples, frames: int, time: Any, status: Any) -> None:
        self._overflows += bool(status.input_overflow)
        self._inbox.offer(data[:, :1].T.copy())


class Loudspeaker:
    """A device that plays blocks [channels, n] at `rate`, on all its channels the mean of them.

    device: as of `Microphone`. hop: samples that usually come together. slack: seconds by which they may come late.
    wait: for the device, because the source can.
    """

    def __init__(self, device: str | None, rate: int, hop: int, slack: float, wait: bool) -> None:
        self._underflows = 0
        self._stream, self.name = _open("output", device, rate, self._play)
        self._rate = int(self._stream.samplerate)
        self._resampler = StreamResampler(rate, self._rate, 1, LIVE)
        self._buffer = JitterBuffer(-(-hop * self._rate // rate), round(slack * self._rate), wait)
        self._stream.start()

    @property
    def latency(self) -> float:
        return float(self._stream.latency) + self._resampler.latency_seconds + self._buffer.delay / self._rate

    @property
    def glitches(self) -> dict[str, int]:
        return {
            "output underruns": self._underflows + self._buffer.underruns,
            "output overruns": self._buffer.overruns,
        }

    def write(self, block: Samples) -> None:
        """Play a block after those before it. Raises AudioError if the device is gone."""
        samples = self._resampler.feed(block.mean(0, keepdims=True))[0]
        if not self._stream.active or not self._buffer.put(samples):
            raise AudioError(f"{self.name}: plays nothing any more.", "Is the device still plugged in?")

    def close(self) -> None:
        if self._stream.active:
            self._buffer.put(self._resampler.flush()[0])
            self._buffer.drain(seconds=1.0)
            self._stream.stop()  # which waits for what PortAudio has
        self._stream.close()

    def _play(self, data: Samples, frames: int, time: Any, status: Any) -> None:
        self._underflows += bool(status.output_underflow)
        data[:] = self._buffer.take(frames)[:, None]


def _open(
    kind: Literal["input", "output"], device: str | None, rate: int, callback: Callable[..., None]
) -> tuple[Any, str]:
    """Return a stream of a device and its name; at `rate` if it can, at its own rate otherwise."""
    sounddevice = sound_system()
    wanted = int(device) if device is not None and device.isdecimal() else device
    try:
        found = sounddevice.query_devices(wanted, kind)
    except (ValueError, sounddevice.PortAudioError) as error:
        problem, *candidates = str(error).splitlines() if device is not None else [f"no {kind} device"]
        hint = "\n".join(candidates) or "sbm live --list-devices shows what there is."
        raise AudioError(f"{problem[:1].lower()}{problem[1:].rstrip(':')}.", hint) from error
    most = found[f"max_{kind}_channels"]
    few = (1, 2) if kind == "input" else (2, 1)  # of two loudspeakers one channel might be the left one alone
    reason: Exception | None = None
    for wanted_rate in dict.fromkeys((rate, int(found["default_samplerate"]))):
        for channels in dict.fromkeys(count for count in (*few, most) if 0 < count <= most):
            make = sounddevice.InputStream if kind == "input" else sounddevice.OutputStream
            try:
                stream = make(
                    device=found["index"],
                    samplerate=wanted_rate,
                    channels=channels,
                    dtype="float32",
                    latency="low",
                    callback=callback,
                )
            except sounddevice.PortAudioError as error:
                reason = error
            else:
                return stream, found["name"]
    problem = f"has no {kind}" if reason is None else f"cannot be opened ({reason})"
    raise AudioError(
        f"{found['name']}: {problem}.", "Does another program hold it? sbm live --list-devices shows others."
    ) from reason
