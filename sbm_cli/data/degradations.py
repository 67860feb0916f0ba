"""What happens to the input on its way, and not to the target: lost bandwidth, speech codecs, gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import torch
from torch import Tensor
from torch.nn import functional as F

from sbm_cli.data.filters import frequencies
from sbm_cli.data.manifest import RATE
from sbm_cli.data.random import Draws

PACKET = RATE // 50  # 20 ms, as telephony over IP usually sends
PAUSE = RATE // 100  # between two gaps at least


@dataclass(frozen=True)
class Codec:
    """A codec as libsndfile names it.

    rate: Hz, of what it is given. compression: range of libsndfile's compression level. delay: samples that its
    decoder puts first.
    """

    rate: int
    container: str
    subtype: str
    compression: tuple[float, float] | None = None
    delay: int = 0


CODECS = {
    "ulaw": Codec(8000, "WAV", "ULAW"),  # G.711
    "alaw": Codec(8000, "WAV", "ALAW"),
    "gsm": Codec(8000, "WAV", "GSM610"),
    "opus": Codec(16000, "OGG", "OPUS", (0.9, 1.0)),  # 31 to 6 kbit/s; the lowest rates are narrow-band
    "mp3": Codec(16000, "MP3", "MPEG_LAYER_III", (0.9, 0.98), 1105),  # 24 to 8 kbit/s
}


def low_pass(draws: Draws, cutoff_hz: tuple[float, float], size: int) -> Tensor:
    """Draw low-pass filters and return their gains [items, frequencies] for a transform of `size` samples.

    A third each: Butterworth and Chebyshev (type I, 0.1 to 3 dB of ripple) filters of order 2 to 10, and windowed
    sinc functions of 8 to 64 zero crossings a side, as resamplers have. All run twice, as forward and backward and as
    there and back, and so delay nothing: the network could not tell by how much.
    """
    cutoff = draws.uniform(*cutoff_hz)[:, None]
    order, ripple_db, kind = 2 + draws.below(9)[:, None], draws.uniform(0.1, 3)[:, None], draws.below(3)[:, None]
    crossings = draws.uniform(8, 64)[:, None]
    f = frequencies(size, cutoff)
    x = torch.tan(math.pi / RATE * f).abs() / torch.tan(math.pi / RATE * cutoff)  # of the analogue filter
    butterworth = 1 / (1 + x ** (2 * order))
    polynomial = torch.where(
        x <= 1, torch.cos(order * x.clamp_max(1).acos()), torch.cosh(order * x.clamp_min(1).acosh())
    )
    chebyshev = 1 / (1 + (10 ** (ripple_db / 10) - 1) * polynomial.square())
    place = torch.arange(size, device=cutoff.device)
    phase = 2 * cutoff / RATE * torch.minimum(place, size - place)  # in zero crossings from the middle
    window = torch.cos(math.pi / 2 * (phase / crossings).clamp_max(1)).square()
    sinc = torch.fft.rfft(2 * cutoff / RATE * torch.sinc(phase) * window).real.square()
    return torch.where(kind == 0, butterworth, torch.where(kind == 1, chebyshev, sinc))


def coded(waveforms: Tensor, codecs: Sequence[str], number: Tensor, compression: Tensor) -> Tensor:
    """Encode and decode waveforms [items, samples], without delay; on the CPU alone.

    number: which of `codecs`, [items]; compression: 0 to 1 of the codec's range, [items].
    """
    rows = zip(waveforms, number.tolist(), compression.tolist(), strict=True)
    return torch.stack([_coded(waveform, CODECS[codecs[i]], place) for waveform, i, place in rows])


def _coded(waveform: Tensor, codec: Codec, place: float) -> Tensor:
    import soundfile
    import soxr

    options: dict[str, object] = {"format": codec.container, "subtype": codec.subtype}
    if codec.compression is not None:
        low, high = codec.compression
        options["compression_level"] = low + (high - low) * place
    if codec.container == "MP3":
        options["bitrate_mode"] = "CONSTANT"
    file = BytesIO()
    soundfile.write(file, soxr.resample(waveform.clamp(-1, 1).numpy(), RATE, codec.rate), codec.rate, **options)
    file.seek(0)
    samples, _ = soundfile.read(file, dtype="float32")
    decoded = torch.from_numpy(soxr.resample(samples[codec.delay :], codec.rate, RATE))[: len(waveform)]
    return F.pad(decoded, (0, len(waveform) - len(decoded)))


def gap_draws(gap_ms: tuple[float, float], samples: int) -> int:
    """Return how many numbers an item needs: whether it has gaps, and what `gaps` draws."""
    return 4 + 2 * _most_gaps(gap_ms, samples)


def gaps(
    draws: Draws,
    share: tuple[float, float],
    gap_ms: tuple[float, float],
    p_packet_loss: float,
    burst_packets: tuple[float, float],
    samples: int,
) -> Tensor:
    """Draw which samples are missing, [items, samples].

    share: of the segment that is missing on average. Gaps are as long as `gap_ms` says, after pauses without memory;
    or, with a probability of `p_packet_loss`, bursts of packets are lost by Gilbert's model: a chain of two states,
    of which one loses every packet; burst_packets: the mean length of its stays there. Both are geometric.

    Source: Gilbert 1960, "Capacity of a burst-noise channel", with h = 0.
    """
    rate, burst = draws.uniform(*share)[:, None], draws.uniform(*burst_packets)[:, None]
    packets = draws.chance(p_packet_loss)[:, None]
    first, second = (draws.uniform(many=_most_gaps(gap_ms, samples)) for _ in range(2))
    rest = (1 - rate) / rate  # as long as what is missing
    low, high = (RATE * ms / 1000 for ms in gap_ms)
    length = torch.where(packets, PACKET * _geometric(first, burst), low + (high - low) * first).round().long()
    pause = -torch.log1p(-second) * rest * (low + high) / 2
    pause = torch.where(packets, PACKET * _geometric(second, burst * rest), pause.clamp_min(PAUSE)).round().long()
    end = (pause + length).cumsum(1)
    marks = torch.zeros(len(end), samples + 1, dtype=torch.int64, device=end.device)
    for place, step in ((end - length, 1), (end, -1)):
        marks.scatter_add_(1, place.clamp_max(samples), torch.full_like(place, step))
    return marks[:, :samples].cumsum(1) > 0


def _most_gaps(gap_ms: tuple[float, float], samples: int) -> int:
    return math.ceil(samples / min(2 * PACKET, PAUSE + RATE * gap_ms[0] / 1000))


def _geometric(uniform: Tensor, mean: Tensor) -> Tensor:
    """Return geometric numbers from 1 on with a mean of at least 1, from uniform ones."""
    return 1 + torch.floor(torch.log1p(-uniform) / torch.log1p(-1 / mean.clamp_min(1)))
