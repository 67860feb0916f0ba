"""The dimensions of the backbones, as they are stored beside the weights. To read them takes no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from sbm_cli.config import check_ranges, written

if TYPE_CHECKING:
    from sbm_cli.nn.network import Network

WINDOW = 512  # frames of a window, for networks that see whole utterances
SEQUENCES = ("mamba", "lstm", "attention")  # of `nn/sequence.py`
OUTPUTS = {"mask+residual": (1.0, 0.0, 0.0, 0.0), "mask": (1.0, 0.0), "direct": (0.0, 0.0)}  # and the untrained G, R


@dataclass(frozen=True)
class NetworkConfig:
    """Dimensions of a backbone, stored beside its weights, and what it can do.

    bins: frequencies of the spectrum. lookahead: frames of the future that the network sees; its output is that many
    frames late. keep_room: whether it can keep the reverberation on request and remove only the noise. jumps: whether
    it is told the time to go to, beside that of the state.
    """

    bins: int = 257
    lookahead: int = 0
    keep_room: bool = False
    jumps: bool = False

    causal: ClassVar[bool] = True  # except for the look-ahead; others see whole utterances, or windows of them

    @property
    def timed(self) -> bool:
        """Whether the network gets the time of the state, and so can take several steps."""
        raise NotImplementedError

    def build(self) -> Network:
        """Return an untrained network of these dimensions."""
        raise NotImplementedError

    def grown(self, wanted: NetworkConfig) -> NetworkConfig:
        """Return the wanted dimensions where a trained network can grow to them, and its own elsewhere.

        It can grow where its weights, padded with zeros, and more blocks that do nothing still compute the same.
        """
        return replace(self, jumps=self.jumps or wanted.jumps)


@dataclass(frozen=True)
class OSpatialNetConfig(NetworkConfig):
    """Dimensions of an oSpatialNet-Mamba.

    bins: stride * bands + 1. d_state: states of every Mamba channel. embedding: size of the time embedding; 0 is a
    network without time, which sees only the noisy spectrum (a mapping baseline, or a bridge model folded at t = 1).
    untimed: such a network sees the state too, and is not told its time.
    filter_frames: taps of a complex filter along time beside the mask, below `filter_bins`; 1 leaves it out. It can
    resolve harmonics that one window does not ("deep filtering", Mack & Habets, arXiv 1904.08369).
    sequence: what walks along time, "mamba", "lstm" or "attention" (`nn/sequence.py`).
    output: "mask+residual"; "mask", G with its size bounded by tanh (Hu et al., arXiv 2008.00264), untrained tanh(1);
    or "direct", R alone, untrained silence.
    """

    stride: int = 8  # bins per band
    kernel: tuple[int, int] = (3, 16)  # of the encoder: frames, bins
    channels: int = 64
    blocks: int = 4
    d_state: int = 16
    cross_kernel: int = 5  # bands
    cross_groups: int = 8
    squeeze: int = 8  # channels of the full-band linear map
    fullband_squeeze: int = 3  # channels per band of the full-band Mamba; 0 leaves it out
    head: int = 12  # channels at full frequency resolution
    embedding: int = 16
    filter_frames: int = 1
    filter_bins: int = 128
    untimed: bool = False
    sequence: str = "mamba"
    output: str = "mask+residual"

    def __post_init__(self) -> None:
        sizes = ("stride", "kernel", "channels", "cross_kernel", "cross_groups", "squeeze", "head")
        check_ranges(self, **dict.fromkeys(sizes, "[1, 4096]"), fullband_squeeze="[0, 4096]", embedding="[0, 4096]")
        check_ranges(self, **dict.fromkeys(("blocks", "d_state", "filter_frames"), "[1, 256]"), lookahead="[0, 256]")
        check_ranges(self, bins=f"[1, {2**14 + 1}]")
        if (self.bins - 1) % self.stride:
            raise ValueError(f"bins - 1 must be a multiple of stride, got {self.bins} and {self.stride}")
        if self.channels % self.cross_groups:
            raise ValueError(f"channels must be a multiple of cross_groups, got {self.channels}, {self.cross_groups}")
        if (self.kernel[1] - self.stride) % 2 or self.kernel[1] < self.stride:
            raise ValueError(f"kernel must exceed stride by an even number, got {self.kernel} and {self.stride}")
        if self.embedding % 2:
            raise ValueError(f"embedding must be even, got {self.embedding}")
        if self.untimed and self.embedding:
            raise ValueError(f"an untimed network has no time embedding, got embedding {self.embedding}; set it to 0")
        if self.filter_frames > 1:
            check_ranges(self, filter_bins=f"[1, {self.bins}]")
        if (self.keep_room or self.jumps) and not self.embedding:
            raise ValueError("keep_room and jumps need a time embedding: set embedding above 0")
        if self.sequence not in SEQUENCES:
            raise ValueError(f"sequence is one of {', '.join(SEQUENCES)}, got {self.sequence!r}")
        if self.output not in OUTPUTS:
            raise ValueError(f"output is one of {', '.join(OUTPUTS)}, got {self.output!r}")

    def build(self) -> Network:
        from sbm_cli.nn.backbones.ospatialnet import OSpatialNet

        return OSpatialNet(self)

    def grown(self, wanted: NetworkConfig) -> NetworkConfig:
        if not isinstance(wanted, OSpatialNetConfig):
            return self
        return replace(
            self,
            blocks=max(self.blocks, wanted.blocks),
            lookahead=max(self.lookahead, wanted.lookahead),
            kernel=(self.kernel[0] + max(0, wanted.lookahead - self.lookahead), self.kernel[1]),
            filter_frames=wanted.filter_frames if self.filter_frames == 1 else self.filter_frames,
            filter_bins=wanted.filter_bins,
            keep_room=self.keep_room or wanted.keep_room,
            jumps=self.jumps or wanted.jumps,
        )

    @property
    def timed(self) -> bool:
        return self.embedding > 0

    @property
    def bands(self) -> int:
        return (self.bins - 1) // self.stride

    @property
    def sees_state(self) -> bool:
        """Whether the state is an input beside the noisy spectrum."""
        return self.embedding > 0 or self.untimed

    @property
    def filter_ahead(self) -> int:
        """Taps of the filter that lie after the frame it estimates."""
        return min(self.lookahead, self.filter_frames // 2)


@dataclass(frozen=True)
class NCSNppConfig(NetworkConfig):
    """Dimensions of an NCSN++.

    channels: of each resolution, finest first; every next one has half the bins and half the frames.
    blocks: residual blocks of each resolution on the way down; one more on the way up.
    With the defaults it has 25.7 million parameters; the variant in the paper's table has 25.16.
    """

    channels: tuple[int, ...] = (128, 128, 192, 256)
    blocks: int = 2

    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_ranges(self, bins=f"[1, {2**14 + 1}]", channels="[1, 4096]", blocks="[1, 64]")
        if not 1 <= len(self.channels) <= 8:
            raise ValueError(f"channels are of 1 to 8 resolutions, got {written(self.channels)}")
        if self.lookahead or self.keep_room:
            raise ValueError(
                "NCSN++ has no lookahead or keep_room: it sees whole utterances, and always removes the room"
            )

    def build(self) -> Network:
        from sbm_cli.nn.backbones.ncsnpp import NCSNpp

        return NCSNpp(self)

    @property
    def timed(self) -> bool:
        return True


BACKBONES: dict[str, type[NetworkConfig]] = {"ospatialnet": OSpatialNetConfig, "ncsnpp": NCSNppConfig}
Backbone = Annotated[NetworkConfig, BACKBONES]
