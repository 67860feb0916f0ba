"""The choice of the output's format: suffix, nearest subtype, limits."""

import re
from dataclasses import replace

import pytest

from sbm_cli.audio.format import OUTPUT_SUFFIXES, AudioFormat, changes, format_for
from sbm_cli.errors import AudioError

WAV = AudioFormat(rate=48000, channels=2, samples=1000, container="WAV", subtype="PCM_24")


def of(container: str, subtype: str) -> AudioFormat:
    return replace(WAV, container=container, subtype=subtype)


@pytest.mark.parametrize(
    ("source", "name", "container", "subtype"),
    [
        (of("WAV", "PCM_24"), "a.wav", "WAV", "PCM_24"),
        (of("WAV", "ULAW"), "a.wav", "WAV", "ULAW"),
        (of("WAVEX", "FLOAT"), "a.wav", "WAVEX", "FLOAT"),
        (of("RF64", "PCM_16"), "a.WAV", "RF64", "PCM_16"),
        (of("FLAC", "PCM_24"), "a.wav", "WAV", "PCM_24"),
        (of("FLAC", "PCM_S8"), "a.wav", "WAV", "PCM_U8"),
        (of("WAV", "PCM_U8"), "a.flac", "FLAC", "PCM_S8"),
        (of("WAV", "FLOAT"), "a.flac", "FLAC", "PCM_24"),
        (of("WAV", "DOUBLE"), "a.caf", "CAF", "DOUBLE"),
        (of("WAV", "PCM_32"), "a.flac", "FLAC", "PCM_24"),
        (of("CAF", "ALAC_20"), "a.wav", "WAV", "PCM_24"),
        (of("CAF", "ALAC_20"), "a.caf", "CAF", "ALAC_20"),
        (of("MP3", "MPEG_LAYER_III"), "a.wav", "WAV", "PCM_16"),
        (of("MP3", "MPEG_LAYER_III"), "a.mp3", "MP3", "MPEG_LAYER_III"),
        (of("OGG", "OPUS"), "a.ogg", "OGG", "OPUS"),
        (of("OGG", "VORBIS"), "a.opus", "OGG", "OPUS"),
        (of("OGG", "VORBIS"), "a.flac", "FLAC", "PCM_16"),
        (of("WAV", "PCM_16"), "a.oga", "OGG", "VORBIS"),
        (of("WAV", "PCM_16"), "a.opus", "OGG", "OPUS"),
        (of("WAV", "PCM_16"), "a.mp3", "MP3", "MPEG_LAYER_III"),
        (of("WAV", "IMA_ADPCM"), "a.wav", "WAV", "PCM_16"),
        (of("AIFF", "PCM_16"), "dir.wav/a.aif", "AIFF", "PCM_16"),
    ],
)
def test_container_follows_the_suffix_and_subtype_the_source(
    source: AudioFormat, name: str, container: str, subtype: str
) -> None:
    found = format_for(name, source)
    assert (found.container, found.subtype) == (container, subtype)
    assert (found.rate, found.channels, found.samples) == (source.rate, source.channels, source.samples)


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_every_suffix_has_a_format(suffix: str) -> None:
    rate = {".amr": 8000, ".g722": 16000}.get(suffix, 48000)
    assert format_for("a" + suffix, replace(WAV, rate=rate, channels=1)).subtype


@pytest.mark.parametrize(
    ("source", "name", "container", "subtype", "bit_rate"),
    [
        (of("MP4", "AAC"), "a.m4a", "M4A", "AAC", 97_000),
        (of("MP4", "ALAC_24"), "a.m4a", "M4A", "ALAC_24", 0),
        (of("MP4", "AAC"), "a.wav", "WAV", "PCM_16", 97_000),
        (of("MP4", "ALAC_24"), "a.wav", "WAV", "PCM_24", 0),
        (of("WAV", "PCM_24"), "a.m4a", "M4A", "AAC", 160_000),
        (of("WAV", "PCM_24"), "a.wv", "WV", "WAVPACK_32", 0),
        (of("WAV", "PCM_24"), "a.tta", "TTA", "TTA_24", 0),
        (of("WAV", "PCM_24"), "a.mov", "MOV", "PCM_24", 0),
        (of("MP4", "DOUBLE"), "a.mov", "MOV", "FLOAT", 0),
        (of("MP3", "MPEG_LAYER_II"), "a.mp2", "MP2", "MPEG_LAYER_II", 112_000),
        (of("MP3", "MPEG_LAYER_II"), "a.mp3", "MP2", "MPEG_LAYER_II", 112_000),
        (of("MP3", "MPEG_LAYER_III"), "a.mkv", "MATROSKA", "MPEG_LAYER_III", 112_000),
        (of("MATROSKA", "OPUS"), "a.webm", "WEBM", "OPUS", 97_000),
        (of("MATROSKA", "VORBIS"), "a.webm", "WEBM", "OPUS", 97_000),
        (of("OGG", "FLAC_24"), "a.ogg", "OGG", "FLAC_24", 0),
        (of("OGG", "SPEEX"), "a.ogg", "OGG", "VORBIS", 97_000),
        (of("MP4", "AAC"), "a.ac3", "AC3", "AC3", 112_000),
        (replace(of("AVI", "MPEG_LAYER_III"), rate=8000), "a.avi", "AVI", "MPEG_LAYER_III", 64_000),
    ],
)
def test_codecs_stay_with_their_bit_rate_or_the_next(
    source: AudioFormat, name: str, container: str, subtype: str, bit_rate: int
) -> None:
    found = format_for(name, replace(source, bit_rate=97_000))
    assert (found.container, found.subtype, found.bit_rate) == (container, subtype, bit_rate)


@pytest.mark.parametrize(
    ("source", "name", "told"),
    [
        (of("WAV", "IMA_ADPCM"), "a.wav", ["IMA_ADPCM becomes PCM_16"]),
        (of("MATROSKA", "VORBIS"), "a.webm", ["VORBIS becomes OPUS"]),
        (of("OGG", "SPEEX"), "a.ogg", ["SPEEX becomes VORBIS"]),
        (of("MP4", "AAC"), "a.wav", []),
        (of("MP4", "AAC"), "a.m4a", []),
        (replace(of("MP4", "AAC"), channels=6, layout="5.1(side)"), "a.mp4", []),
        (
            replace(of("MP4", "OPUS"), channels=6, layout="5.1(side)"),
            "a.webm",
            ["the channels 5.1(side) become 5.1"],
        ),
    ],
)
def test_what_is_not_kept_is_told(source: AudioFormat, name: str, told: list[str]) -> None:
    assert changes(name, source, format_for(name, source)) == told


def test_the_users_subtype_wins_in_any_case_of_letters() -> None:
    assert format_for("a.wav", WAV, "float").subtype == "FLOAT"
    assert format_for("a.ogg", WAV, "Opus").subtype == "OPUS"


def test_endian_stays_within_a_container_only() -> None:
    little = replace(of("AIFF", "PCM_16"), endian="LITTLE")
    assert format_for("a.aiff", little).endian == "LITTLE"
    assert format_for("a.wav", little).endian == "FILE"


def test_tags_travel_along() -> None:
    assert format_for("a.flac", replace(WAV, tags=(("title", "x"),))).tags == (("title", "x"),)


def test_an_odd_aiff_of_single_bytes_would_grow_by_a_sample() -> None:
    odd = replace(of("WAV", "PCM_U8"), channels=1, samples=31)
    assert format_for("a.aiff", odd).subtype == "PCM_16"
    assert format_for("a.aiff", replace(odd, samples=30)).subtype == "PCM_U8"


def test_large_wav_becomes_rf64() -> None:
    hours = replace(WAV, samples=8 * 3600 * 48000)
    assert format_for("a.wav", hours).container == "RF64"
    assert format_for("a.wav", hours, "PCM_U8").container == "WAV"
    assert format_for("a.wav", replace(hours, container="WAVEX")).container == "RF64"
    assert format_for("a.flac", hours).container == "FLAC"
    with pytest.raises(AudioError, match=r"7\.7 GiB is too much for AIFF"):
        format_for("a.aiff", hours)


@pytest.mark.parametrize(
    ("name", "source", "subtype", "message", "hint"),
    [
        ("a.xyz", WAV, None, r"a\.xyz: no sound format for suffix \.xyz", r"\.wav .*\.flac .*\.mp4"),
        ("a.ape", WAV, None, r"a\.ape: Monkey's Audio can be read but not written", "--ext flac"),
        ("a.amr", WAV, None, r"AMR_NB is mono at 8000 Hz; the input has 2 channels", "mono=True, rate=8000"),
        ("a.m4a", WAV, "OPUS", "M4A has no subtype OPUS", "AAC, ALAC_16"),
        ("a.m4a", replace(WAV, rate=37000), None, "AAC does not support 37000 Hz, only 7350, 8000", "`rate`"),
        ("a.ac3", replace(WAV, channels=7), None, "AC3 AC3 with 7 channels at 48000 Hz cannot", "wav"),
        ("a", WAV, None, "a name without suffix", r"\.wav"),
        ("a.flac", WAV, "FLOAT", "FLAC has no subtype FLOAT", "PCM_16, PCM_24"),
        ("a.wav", WAV, "MPEG_LAYER_III", "WAV has no subtype", "PCM_16"),
        ("a.opus", WAV, "VORBIS", "OGG has no subtype VORBIS", "Use one of OPUS$"),
        ("a.opus", replace(WAV, rate=44100), None, "Opus does not support 44100 Hz, only 8000, 12000", "wav"),
        ("a.mp3", replace(WAV, rate=96000), None, "MP3 does not support 96000 Hz", "flac"),
        ("a.mp3", replace(WAV, channels=3), None, "MP3 holds at most 2 channels; the input has 3", "wav"),
        ("a.flac", replace(WAV, channels=9), None, "FLAC holds at most 8 channels", "wav"),
    ],
)
def test_what_cannot_be_is_said_with_a_way_out(
    name: str, source: AudioFormat, subtype: str | None, message: str, hint: str
) -> None:
    with pytest.raises(AudioError, match=message) as caught:
        format_for(name, source, subtype)
    assert re.search(hint, caught.value.hint)


@pytest.mark.parametrize(
    ("name", "container", "subtype", "bit_rate"),
    [
        ("a.mp3", "MP3", "MPEG_LAYER_III", 100_000),
        ("a.opus", "OGG", "OPUS", 100_000),
        ("a.ogg", "OGG", "VORBIS", 100_000),
        ("a.m4a", "M4A", "AAC", 100_000),
        ("a.mp2", "MP2", "MPEG_LAYER_II", 112_000),
    ],
)
def test_a_bit_rate_can_be_chosen(name: str, container: str, subtype: str, bit_rate: int) -> None:
    found = format_for(name, AudioFormat(48000, 2, 48000, "WAV", "PCM_16"), bit_rate=100_000)
    assert (found.container, found.subtype, found.bit_rate) == (container, subtype, bit_rate)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.g722"])
def test_without_a_codec_there_is_no_bit_rate_to_choose(name: str) -> None:
    with pytest.raises(AudioError, match="no bit rate to choose"):
        format_for(name, AudioFormat(16000, 1, 16000, "WAV", "PCM_16"), bit_rate=100_000)


@pytest.mark.parametrize(("name", "hint"), [("a.m4a", "`subtype`"), ("a.wav", r"write \.mp3")])
def test_a_subtype_without_bit_rates_is_to_be_left_out_where_that_helps(name: str, hint: str) -> None:
    subtype = "ALAC_16" if name == "a.m4a" else "PCM_16"
    with pytest.raises(AudioError, match="no bit rate to choose") as caught:
        format_for(name, AudioFormat(16000, 1, 16000, "M4A", "AAC"), subtype, bit_rate=100_000)
    assert re.search(f"Leave out `bit_rate`, or {hint}", caught.value.hint)
