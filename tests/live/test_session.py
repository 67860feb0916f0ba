"""Live sound from end to end with devices that need no hardware: latency, bypass, recordings, glitches, ends."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sbm_cli.audio.format import AudioFormat
from sbm_cli.audio.pipe import Pipe, PipeWriter
from sbm_cli.enhancer import Enhancer
from sbm_cli.errors import AudioError, DependencyError
from sbm_cli.live.devices import Loudspeaker, Microphone, list_devices, sound_system
from sbm_cli.live.pipes import Output, RawInput
from sbm_cli.live.session import Session
from sbm_cli.model import Model, ModelConfig
from sbm_cli.nn.backbones.ospatialnet import OSpatialNet
from sbm_cli.nn.configs import OSpatialNetConfig
from sbm_cli.options import DEFAULTS, Options
from tests.conftest import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import FakeSounddevice

Samples = NDArray[np.float32]
RATE, HOP = 16000, 256


@pytest.fixture(scope="module")
def enhancer() -> Enhancer:
    """A network of a few thousand parameters that, untrained, returns its input."""
    torch.manual_seed(0)
    small = OSpatialNetConfig(channels=8, blocks=1, d_state=4, cross_groups=2, squeeze=2, fullband_squeeze=0, head=2)
    return Enhancer(Model(OSpatialNet(small), ModelConfig("small", network=small)))


class Blocks:
    """A source of blocks that are there already."""

    latency = 0.0

    def __init__(self, blocks: list[Samples]) -> None:
        self.channels = len(blocks[0])
        self.glitches: dict[str, int] = {}
        self.notes: list[str] = []
        self._blocks = blocks
        self.closed = False

    def blocks(self) -> Iterator[Samples]:
        yield from self._blocks

    def close(self) -> None:
        self.closed = True


class Kept:
    """A sink, or a recorder, that keeps what it gets."""

    latency = 0.0

    def __init__(self, before: Callable[[int], None] = lambda written: None) -> None:
        self.written: list[Samples] = []
        self.closed = False
        self.glitches: dict[str, int] = {}
        self._before = before

    def write(self, block: Samples) -> None:
        self._before(len(self.written))
        self.written.append(block)

    def close(self) -> None:
        self.closed = True

    @property
    def samples(self) -> Samples:
        return np.concatenate(self.written, axis=1)


def noise(samples: int, channels: int = 1) -> Samples:
    return np.random.default_rng(samples).uniform(-0.3, 0.3, (channels, samples)).astype(np.float32)


def cut(waveform: Samples, size: int) -> list[Samples]:
    return [waveform[:, k : k + size] for k in range(0, waveform.shape[1], size)]


def run(session: Session) -> None:
    session.start()
    assert session.finished.wait(60)
    if session.error:
        raise session.error


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("size", [100, 256, 1000])
def test_live_sound_is_enhanced_as_a_file_is(enhancer: Enhancer, size: int) -> None:
    waveform, sink, record = noise(6000, 2), Kept(), Kept()
    source, options = Blocks(cut(waveform, size)), Options(strength=0.7)
    run(Session(enhancer, source, sink, options, record))
    assert np.allclose(sink.samples, enhancer.enhance(waveform, RATE, options), atol=1e-6)
    assert np.array_equal(record.samples, np.concatenate([waveform, sink.samples]))  # in step
    assert sink.closed and source.closed


def test_it_ends_after_so_many_seconds(enhancer: Enhancer) -> None:
    sink = Kept()
    session = Session(enhancer, Blocks(cut(noise(16000), 300)), sink, DEFAULTS, seconds=0.25)
    run(session)
    assert sink.samples.shape == (1, 4000) and session.seconds == 0.25


def test_the_bypass_fades_and_stays_in_step(enhancer: Enhancer) -> None:
    """The model is replaced by one that answers a constant: what comes through is the input's share."""
    waveform = np.ones((1, 20 * HOP), np.float32)
    sink = Kept(lambda written: setattr(session, "bypassed", 5 <= written < 12))
    session = Session(enhancer, Blocks(cut(waveform, HOP)), sink, DEFAULTS)
    feed, session._stream.feed = session._stream.feed, lambda block: 0 * feed(block)  # type: ignore[method-assign]
    run(session)
    share = sink.samples[0, : 18 * HOP]
    assert share[0] == 0 and share[10 * HOP] == 1 and share[-1] == 0
    assert float(np.abs(np.diff(share)).max()) < 1.01 / (0.02 * RATE)


def test_levels_are_the_largest_since_they_were_last_asked(enhancer: Enhancer) -> None:
    waveform = np.concatenate([noise(4000), 0 * noise(4000)], axis=1)
    waveform[0, 2000] = 0.75
    session = Session(enhancer, Blocks(cut(waveform, HOP)), Kept(), DEFAULTS)
    run(session)
    heard, played = session.peaks()
    assert heard == 0.75 and played == pytest.approx(0.75, abs=0.01)
    assert session.peaks() == (0, 0)


def test_a_sink_that_stalls_costs_sound_but_no_order(sounddevice: FakeSounddevice, enhancer: Enhancer) -> None:
    stalled = Kept(lambda written: wait_for(lambda: not stalling) if written == 3 else None)
    stalling, source, record = [True], Microphone(None, RATE), Kept()
    session = Session(enhancer, source, stalled, DEFAULTS, record)
    session.start()
    wait_for(lambda: "input" in sounddevice.streams and sounddevice.streams["input"].active)
    for k in range(400):
        hear(sounddevice, np.full((1, 160), (k + 1) / 400, np.float32))
    stalling.clear()
    lost = session.glitches["input overruns"]
    assert lost >= 400 - 256 - 6
    wait_for(lambda: session.seconds * 100 >= 400 - lost)
    session.stop()
    assert session.finished.wait(60) and session.error is None
    kept = record.samples[0]
    assert len(kept) == 160 * (400 - lost) and float(np.diff(kept).min()) >= 0


def hear(devices: FakeSounddevice, block: Samples, overflow: bool = False) -> None:
    status = type("Status", (), {"input_overflow": overflow})
    devices.streams["input"].callback(block.T, block.shape[1], None, status)


def play(devices: FakeSounddevice, count: int, underflow: bool = False) -> Samples:
    stream, status = devices.streams["output"], type("Status", (), {"output_underflow": underflow})
    data = np.full((count, stream.channels), np.nan, np.float32)
    stream.callback(data, count, None, status)
    assert np.array_equal(data[:, 0], data[:, -1])
    return data[:, 0].copy()


@pytest.mark.parametrize(("rate", "block"), [(16000, 256), (16000, 100), (48000, 768), (48000, 480), (44100, 441)])
def test_a_click_comes_as_late_as_stated(
    sounddevice: FakeSounddevice, enhancer: Enhancer, rate: int, block: int
) -> None:
    sounddevice.rates, sounddevice.latency = (rate,), block / rate
    written = Kept()
    speaker = Loudspeaker(None, RATE, HOP, 0.01, wait=False)
    put = speaker.write
    speaker.write = lambda samples: (put(samples), written.write(samples))[0]  # type: ignore[method-assign]
    session = Session(enhancer, Microphone(None, RATE), speaker, DEFAULTS)
    session.start()
    wait_for(lambda: "input" in sounddevice.streams and sounddevice.streams["input"].active)
    click, played = 40 * block + 17, []
    waveform = np.zeros((1, 100 * block), np.float32)
    waveform[0, click : click + rate // 2000] = 0.5  # short, and in the model's band
    for k, samples in enumerate(cut(waveform, block)):
        # A block is heard when it is over, and the one that is played then begins to sound when PortAudio says.
        hear(sounddevice, samples)
        wait_for(lambda k=k: len(written.written) > k)
        played.append(play(sounddevice, block))
    stated = sum(session.latency.values())
    heard = np.concatenate(played)
    late = (int(np.argmax(np.convolve(heard, np.ones(rate // 2000), "valid"))) - click) / rate
    measured = late + 2 * block / rate  # block by block they are a block apart, and the output is a latency late
    assert abs(measured - stated) <= HOP / RATE
    assert session.glitches == {"input overruns": 0, "output underruns": 0, "output overruns": 0}
    session.stop()
    assert session.finished.wait(60)


def test_what_devices_report_is_counted(sounddevice: FakeSounddevice, enhancer: Enhancer) -> None:
    session = Session(enhancer, Microphone(None, RATE), Loudspeaker(None, RATE, HOP, 0, wait=False), DEFAULTS)
    hear(sounddevice, noise(100), overflow=True)
    play(sounddevice, 100, underflow=True)
    assert session.glitches == {"input overruns": 1, "output underruns": 1, "output overruns": 0}


def test_a_device_that_is_unplugged_ends_it(sounddevice: FakeSounddevice, enhancer: Enhancer) -> None:
    record = Kept()
    session = Session(enhancer, Microphone(None, RATE), Kept(), DEFAULTS, record)
    session.start()
    wait_for(lambda: "input" in sounddevice.streams and sounddevice.streams["input"].active)
    for block in cut(noise(4096), HOP):
        hear(sounddevice, block)
    sounddevice.streams["input"].active = False
    assert session.finished.wait(60)
    assert isinstance(session.error, AudioError) and "Headset" in session.error.message
    assert record.samples.shape[1] == round(session.seconds * RATE) >= 4096 - HOP
    speaker = Loudspeaker(None, RATE, HOP, 0, wait=False)
    sounddevice.streams["output"].active = False
    with pytest.raises(AudioError, match="Speakers"):
        speaker.write(noise(HOP))
    speaker.close()


def test_devices_are_found_by_number_and_name_and_opened_as_they_can(sounddevice: FakeSounddevice) -> None:
    assert [device.name for device in list_devices()] == ["Headset", "Speakers"]
    assert list_devices()[1].default == ("output",)
    Microphone("Head", RATE)
    assert sounddevice.streams["input"].samplerate == 16000 and sounddevice.streams["input"].channels == 1
    sounddevice.rates = (48000,)
    speaker = Loudspeaker("1", RATE, HOP, 0, wait=False)
    assert sounddevice.streams["output"].samplerate == 48000 and sounddevice.streams["output"].channels == 2
    assert speaker.latency == pytest.approx(0.002)  # the resampler's
    with pytest.raises(AudioError, match="^no input device matching 'Tuba'.\n") as error:
        Microphone("Tuba", RATE)
    assert "--list-devices" in error.value.hint
    with pytest.raises(AudioError, match="^multiple input devices found for 's'.\n") as error:
        Microphone("s", RATE)
    assert error.value.hint == "[0] Headset, ALSA\n[1] Speakers, ALSA"
    with pytest.raises(AudioError, match="has no input"):
        Microphone("Speakers", RATE)
    sounddevice.default.device = (-1, -1)
    with pytest.raises(AudioError, match="no input device"):
        Microphone(None, RATE)


@pytest.mark.parametrize(
    ("missing", "hint"), [(ImportError(), "sbm-cli[live]"), (OSError("PortAudio library not found"), "libportaudio2")]
)
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, missing: Exception, hint: str) -> None:
    real = __import__

    def without(name: str, *rest: Any) -> Any:
        if name == "sounddevice":
            raise missing
        return real(name, *rest)

    monkeypatch.setattr("builtins.__import__", without)
    with pytest.raises(DependencyError) as error:
        sound_system()
    assert hint in error.value.hint


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2), (44100, 1)])
def test_through_pipes_as_many_samples_come_as_go(enhancer: Enhancer, rate: int, channels: int) -> None:
    form = AudioFormat(rate, channels, None, "RAW", "PCM_16")
    given = np.round(noise(rate // 2 + 3, channels) * 2**15).astype("<i2")
    taken = io.BytesIO()
    with PipeWriter(Pipe(taken), form) as writer:
        source = RawInput(Pipe(io.BytesIO(given.T.tobytes()), raw=form), RATE, HOP)
        run(Session(enhancer, source, Output(writer, form, RATE), DEFAULTS))
    found = np.frombuffer(taken.getvalue(), "<i2").reshape(-1, channels).T
    assert found.shape == given.shape
    if rate == RATE:
        assert np.abs(found / 2**15 - enhancer.enhance(given / np.float32(2**15), rate)).max() <= 1.5 / 2**15


def test_a_source_that_fails_ends_it_with_its_error(enhancer: Enhancer) -> None:
    class Broken(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    source = RawInput(Pipe(Broken(), raw=AudioFormat(RATE, 1, None, "RAW", "PCM_16")), RATE, HOP)
    with pytest.raises(OSError, match="Input/output"):
        run(Session(enhancer, source, Kept(), DEFAULTS))
