"""What stands beside the samples comes over bit for bit, or is named."""

from __future__ import annotations

import base64
import io
import struct
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile as sf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sbm_cli.audio.format import AudioFormat, format_for
from sbm_cli.audio.io import SoundReader, read_format
from sbm_cli.audio.metadata import Metadata, read_metadata
from sbm_cli.audio.metadata.items import Item, splice
from sbm_cli.audio.pipe import Pipe
from sbm_cli.audio.writer import SoundWriter, open_writer
from sbm_cli.errors import AudioError
from tests.audio.conftest import encode, speech

PNG = b"\x89PNG" + bytes(range(256)) * 300  # more than a page of Ogg holds
PICTURE = b"\0\0\0\3\0\0\0\timage/png" + bytes(20) + len(PNG).to_bytes(4, "big") + PNG
W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # what follows a name of four letters there
BEXT = b"Scene 1".ljust(338, b"\0") + (48_000 * 3600).to_bytes(8, "little") + bytes(256)
CUE = b"\1\0\0\0" + b"\1\0\0\0\xa0\x0f\0\0data" + bytes(8) + b"\xa0\x0f\0\0"
INFO = b"INFOINAM\x0a\0\0\0Br\xe4utigam\0IART\4\0\0\0Zo\xeb\0"  # Latin-1
ID3 = b"ID3\3\0\0\0\0\0\x14APIC\0\0\0\x0a\0\0picture..."


def chunk(name: bytes, body: bytes, order: str = "little", size: int = 4) -> bytes:
    return name + len(body).to_bytes(size, order) + body + bytes(len(body) % 2 if size == 4 else 0)  # type: ignore[arg-type]


def sound(container: str, channels: int = 1, rate: int = 16000, **form: str) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, (4001, channels))
    sf.write(file, samples, rate, format=container, **form)
    return file.getvalue()


def carry(source: Path, target: str, rate: int | None = None, mono: bool = False) -> tuple[Path, tuple[str, ...]]:
    """Copy a sound as an enhancer would: return the copy, and what is said not to be in it."""
    path = source.with_name(target)
    with SoundReader(source) as reader:
        form = format_for(path, reader.format.converted(rate, mono))
        with SoundWriter(path, form, metadata=reader.metadata()) as writer:
            for block in reader.blocks(1000):
                writer.write(block[: form.channels])
    with SoundReader(path) as reader:
        assert sum(block.shape[1] for block in reader.blocks(1000)) == 4001
    return path, writer.not_carried


def metadata_of(path: Path) -> Metadata:
    with SoundReader(path) as reader:
        return reader.metadata()


def wave(path: Path, front: bytes, behind: bytes = b"", **form: str) -> Path:
    """Write a WAV with chunks before and behind its samples."""
    content = sound("WAV", **form)
    content += bytes(len(content) % 2) + behind
    order = "big" if content.startswith(b"RIFX") else "little"
    total = (len(content) + len(front) - 8).to_bytes(4, order)  # type: ignore[arg-type]
    path.write_bytes(content[:4] + total + content[8:12] + front + content[12:])
    return path


def test_chunks_of_a_wav_stay_as_they_are(tmp_path: Path) -> None:
    front = chunk(b"bext", BEXT) + chunk(b"iXML", b"<BWFXML/>\0\0") + chunk(b"LIST", INFO)
    behind = chunk(b"cue ", CUE) + chunk(b"smpl", bytes(36)) + chunk(b"id3 ", ID3) + chunk(b"odd!", b"123")
    found, lost = carry(wave(tmp_path / "a.wav", front, behind), "b.wav")
    content = found.read_bytes()
    assert lost == ()
    assert content[44 - 8 : 44 - 8 + len(front)] == front and content.endswith(behind)
    assert int.from_bytes(content[4:8], "little") == len(content) - 8
    assert content.count(b"LIST") == 1  # and no second one of libsndfile
    again, lost = carry(found, "c.wav")
    assert (again.read_bytes(), lost) == (content, ())


def test_a_wav_of_another_byte_order_keeps_it(tmp_path: Path) -> None:
    front, behind = chunk(b"LIST", INFO, "big"), chunk(b"cue ", CUE[::-1], "big")
    found, lost = carry(wave(tmp_path / "a.wav", front, behind, endian="BIG", subtype="PCM_32"), "b.wav")
    content = found.read_bytes()
    assert lost == () and content[:4] == b"RIFX" and front in content and content.endswith(behind)
    assert int.from_bytes(content[4:8], "big") == len(content) - 8


def test_rf64_and_padding(tmp_path: Path) -> None:
    source = tmp_path / "a.wav"
    content = bytearray(sound("RF64") + chunk(b"JUNK", bytes(50)) + chunk(b"cue ", CUE) + bytes(40))
    source.write_bytes(content)
    found, lost = carry(source, "b.wav")
    made = found.read_bytes()
    assert lost == () and made[:4] == b"RF64" and made.endswith(chunk(b"cue ", CUE))
    assert int.from_bytes(made[20:28], "little") == len(made) - 8


def test_a_bw64_is_read_as_an_rf64(tmp_path: Path) -> None:
    source = tmp_path / "a.wav"
    content = b"BW64" + sound("RF64")[4:] + chunk(b"axml", b"<adm/>")
    content = content[:20] + (len(content) - 8).to_bytes(8, "little") + content[28:]
    source.write_bytes(content)
    found, lost = carry(source, "b.wav")
    assert lost == () and found.read_bytes().endswith(chunk(b"axml", b"<adm/>"))
    source.write_bytes(content[:4000])
    with pytest.raises(AudioError, match="truncated"):
        carry(source, "c.wav")


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("a.aiff", chunk(b"MARK", b"\0\0", "big") + chunk(b"ID3 ", ID3, "big")),
        ("a.caf", chunk(b"mark", bytes(12), "big", 8) + chunk(b"uuid", b"who am I? 123456", "big", 8)),
        ("a.w64", b"bext" + W64 + (24 + 602).to_bytes(8, "little") + BEXT + bytes(6)),
    ],
)
def test_chunks_of_other_containers(tmp_path: Path, name: str, extra: bytes) -> None:
    container = name[2:].upper()
    content = sound(container)
    place = content.index(b"data" + W64) if container == "W64" else len(content) + len(content) % 2
    (tmp_path / name).write_bytes(content[:place].ljust(place, b"\0") + extra + content[place:])
    found, lost = carry(tmp_path / name, f"b{Path(name).suffix}")
    made = found.read_bytes()
    assert lost == () and extra in made and made.endswith(extra) is (container != "W64")
    with sf.SoundFile(found) as file:
        assert "should be" not in file.extra_info  # which is what libsndfile says of sizes that are wrong


def test_what_is_behind_the_samples_of_a_w64_is_not_heard(tmp_path: Path) -> None:
    """libsndfile reads padding and chunks there as more samples."""
    content = sound("W64")
    extra = b"bext" + W64 + (24 + 602).to_bytes(8, "little") + BEXT
    (tmp_path / "a.w64").write_bytes(content + bytes(-len(content) % 8) + extra)
    found, lost = carry(tmp_path / "a.w64", "b.w64")
    assert lost == () and extra in found.read_bytes()
    with SoundReader(Pipe(io.BytesIO((tmp_path / "a.w64").read_bytes()))) as reader:
        assert sum(block.shape[1] for block in reader.blocks(1000)) == 4001


@pytest.mark.parametrize("name", ["a.wav", "a.aiff", "a.caf", "a.w64"])
def test_chunks_around_no_samples(tmp_path: Path, name: str) -> None:
    sf.write(tmp_path / name, np.zeros(0), 16000)
    item = Item({".wav": "WAVE", ".caf": "CAF", ".aiff": "AIFF", ".w64": "W64"}[Path(name).suffix], b"who?", b"1234")
    if name.endswith("w64"):
        item = replace(item, name=b"who?" + W64)
    form = read_format(tmp_path / name)
    assert Metadata(form, [item]).write(tmp_path / name, form) == ()
    assert read_format(tmp_path / name).samples == 0
    assert [found.data for found in metadata_of(tmp_path / name).items] == [b"1234"]


def test_what_counts_samples_does_not_outlive_another_rate(tmp_path: Path) -> None:
    behind = chunk(b"cue ", CUE) + chunk(b"LIST", b"adtllabl\4\0\0\0\1\0\0\0") + chunk(b"levl", bytes(8))
    source = wave(tmp_path / "a.wav", chunk(b"bext", BEXT), behind)
    with SoundReader(source) as reader:
        form = format_for("b.wav", reader.format.converted(8000, False))
        with SoundWriter(tmp_path / "b.wav", form, metadata=reader.metadata()) as writer:
            writer.write(np.zeros((1, 2000), np.float32))
    assert writer.not_carried == ("levl", "cue", "LIST adtl")
    assert (24_000 * 3600).to_bytes(8, "little") in (tmp_path / "b.wav").read_bytes()


def test_a_wav_becomes_a_flac(tmp_path: Path) -> None:
    source = wave(tmp_path / "a.wav", chunk(b"bext", BEXT) + chunk(b"LIST", INFO), chunk(b"id3 ", ID3))
    found, lost = carry(source, "b.flac")
    assert dict(read_format(found).tags) == {"title": "Bräutigam", "artist": "Zoë"}
    assert lost == ("bext", "cover picture")


def test_what_players_turn_the_old_sound_up_by_is_left_out(tmp_path: Path) -> None:
    gain = b"REPLAYGAIN_TRACK_GAIN=-9.00 dB"
    _, lost = carry(flac(tmp_path / "a.flac", (4, comments(*ENTRIES, gain))), "b.flac")
    assert lost == ("REPLAYGAIN_TRACK_GAIN",) and gain not in (tmp_path / "b.flac").read_bytes()

    text = "replaygain_track_gain".encode("utf-16")
    frames = b"TXXX" + len(text).to_bytes(4, "big") + b"\0\0" + text, b"TALB\0\0\0\2\0\0\0A"
    ape = b"APETAGEX\xd0\7\0\0\x2a\0\0\0\1\0\0\0\0\0\0\x80" + bytes(8)
    ape = b"\1\0\0\0\0\0\0\0MP3GAIN_" + b"1" + ape
    id3 = b"ID3\3\0\0\0\0\0" + bytes([len(b"".join(frames))]) + b"".join(frames)
    (tmp_path / "a.mp3").write_bytes(id3 + sound("MP3") + ape)
    found, lost = carry(tmp_path / "a.mp3", "b.mp3")
    assert lost == ("ReplayGain", "APE") and b"MP3GAIN" not in found.read_bytes()
    assert found.read_bytes().startswith(id3[:10] + frames[1] + bytes(len(frames[0])) + b"\xff")

    title, peak = (struct.pack("<II", 1, 0) + key + b"\0A" for key in (b"Title", b"replaygain_track_peak"))

    def tag(*items: bytes, headed: bool) -> bytes:
        size, ends = struct.pack("<III", 2000, len(b"".join(items)) + 32, len(items)), (0xA0000000, headed << 31)
        head, foot = (b"APETAGEX" + size + struct.pack("<I", flags) + bytes(8) for flags in ends)
        return head * headed + b"".join(items) + foot

    for headed in (True, False):
        (tmp_path / "a.mp3").write_bytes(sound("MP3") + tag(title, peak, headed=headed))
        found, lost = carry(tmp_path / "a.mp3", f"{headed}.mp3")
        assert lost == ("ReplayGain",) and found.read_bytes().endswith(tag(title, headed=headed))

    with av.open(tmp_path / "a.mka", "w", format="matroska") as file:
        file.metadata.update({"title": "T", "REPLAYGAIN_TRACK_GAIN": "-9.00 dB"})
        stream = file.add_stream("flac", rate=16000, layout="mono")
        for packet in encode(stream, speech(4001, 16000, 1), 16000):
            file.mux(packet)
    found, lost = carry(tmp_path / "a.mka", "b.mka")
    assert lost == ("REPLAYGAIN_TRACK_GAIN",) and b"REPLAYGAIN" not in found.read_bytes()

    bext = BEXT[:346] + b"\2\0" + bytes(64) + struct.pack("<5h", -2300, 700, -100, -2000, -2100) + BEXT[422:]
    found, lost = carry(wave(tmp_path / "a.wav", chunk(b"bext", bext)), "b.wav")
    assert lost == () and chunk(b"bext", bext[:412] + b"\xff\x7f" * 5 + bext[422:]) in found.read_bytes()


@pytest.mark.parametrize(
    ("version", "frames"),
    [
        (2, b"TT2\0\0\x0b\1" + "Grüß".encode("utf-16") + b"COM\0\0\x0c\0engiTunPGAP" + b"COM\0\0\x07\0eng\0Hi"),
        (3, b"TIT2\0\0\0\5\0\0\0Gr\xfc\xdf" + b"COMM\0\0\0\7\0\0\0eng\0Hi"),
        (4, b"TIT2\0\0\0\7\0\0\3Gr\xc3\xbc\xc3\x9f" + b"COMM\0\0\0\7\0\0\3eng\0Hi"),
    ],
)
@pytest.mark.parametrize("container", ["WAV", "AIFF"])
def test_id3_in_a_chunk_becomes_tags(tmp_path: Path, container: str, version: int, frames: bytes) -> None:
    id3 = b"ID3" + bytes([version, 0, 0, 0, 0, 0, len(frames)]) + frames
    if container == "WAV":
        source = wave(tmp_path / "a.wav", b"", chunk(b"id3 ", id3))
    else:
        source = tmp_path / "a.aiff"
        source.write_bytes(sound("AIFF") + chunk(b"ID3 ", id3, "big"))
    for name in ("b.flac", "b.m4a"):
        found, lost = carry(source, name)
        assert lost == () and dict(read_format(found).tags) == {"title": "Grüß", "comment": "Hi"}
    assert carry(source, "b.w64")[1] == ("title", "comment")
    for name, expected in (("c.aiff", chunk(b"ID3 ", id3, "big")), ("c.wav", chunk(b"id3 ", id3))):
        found, lost = carry(source, name)
        assert lost == () and expected in found.read_bytes()


def test_fields_of_a_nist_header_are_named(tmp_path: Path) -> None:
    head, end, rest = sound("NIST").partition(b"end_head")
    (tmp_path / "a.sph").write_bytes(head + b"speaker_id -s3 FC1\n" + end + rest.replace(bytes(19), b"", 1))
    assert carry(tmp_path / "a.sph", "b.sph")[1] == ("speaker_id",)


def test_what_stands_behind_an_id3_tag_is_carried_all_the_same(tmp_path: Path) -> None:
    plain = flac(tmp_path / "plain.flac", (4, comments(*ENTRIES)), (6, PICTURE)).read_bytes()
    source = tmp_path / "a.flac"
    source.write_bytes(ID3 + plain)
    found, lost = carry(source, "b.flac")
    assert lost == ("ID3",)
    assert {item.data for item in metadata_of(found).items} == {
        *ENTRIES,
        b"METADATA_BLOCK_PICTURE=" + base64.b64encode(PICTURE),
    }


def comments(*entries: bytes) -> bytes:
    data = b"\4\0\0\0test" + len(entries).to_bytes(4, "little")
    return data + b"".join(len(entry).to_bytes(4, "little") + entry for entry in entries)


def flac(path: Path, *blocks: tuple[int, bytes]) -> Path:
    """Write a FLAC with these blocks alone behind the first."""
    content = sound("FLAC")
    streaminfo, place, last = content[4:42], 4, False
    while not last:
        last = bool(content[place] & 0x80)
        place += 4 + int.from_bytes(content[place + 1 : place + 4], "big")
    head = b"fLaC" + bytes([0]) + streaminfo[1:]
    for number, (kind, data) in enumerate(blocks):
        head += bytes([kind | (0x80 if number == len(blocks) - 1 else 0)]) + len(data).to_bytes(3, "big") + data
    path.write_bytes(head + content[place:])
    return path


ENTRIES = (b"TITLE=Gr\xc3\xbc\xc3\x9fe", b"ARTIST=One", b"ARTIST=Two", b"MOOD=calm")


def test_comments_and_pictures_of_flac_and_ogg(tmp_path: Path) -> None:
    cuesheet, riff = (5, bytes(395) + b"\1" + bytes(8) + b"\xff" + bytes(27)), (2, b"riffRIFF")
    source = flac(tmp_path / "a.flac", (4, comments(*ENTRIES)), (6, PICTURE), cuesheet, riff)
    found, lost = carry(source, "b.flac")
    assert lost == () and all(found.read_bytes().count(part) == 1 for part in (*ENTRIES, PICTURE, cuesheet[1], riff[1]))
    for suffix in (".ogg", ".opus"):
        found, lost = carry(source, f"b{suffix}")
        assert lost == ("CUESHEET", "APPLICATION")
        again, lost = carry(found, f"c{suffix}")
        assert lost == () and dict(read_format(again).tags)["title"] == "Grüße"
        for path in (found, again):
            assert whole(path.read_bytes())
            assert [item.data for item in metadata_of(path).items] == [
                *ENTRIES,
                b"METADATA_BLOCK_PICTURE=" + base64.b64encode(PICTURE),
            ]
        back, lost = carry(again, "back.flac")
        assert lost == () and PICTURE in back.read_bytes()
        back.unlink()
    _, lost = carry(source, "c.wav")
    assert lost == ("MOOD", "cover picture", "CUESHEET", "APPLICATION")


def test_comments_of_codecs_that_are_only_read() -> None:
    for first, second in ((b"\x7fFLAC....", b"\x84...."[:4] + comments(*ENTRIES)), (b"Speex   ", comments(*ENTRIES))):
        pages = b""
        for number, packet in enumerate((first, second)):
            head = b"OggS\0\0" + bytes(8) + b"1234" + number.to_bytes(4, "little") + bytes(4)
            pages += head + b"\1" + bytes([len(packet)]) + packet
        form = AudioFormat(16000, 1, 4001, "OGG", "SPEEX")
        assert [item.data for item in read_metadata(io.BytesIO(pages), form).items] == list(ENTRIES)


def whole(ogg: bytes) -> bool:
    """Whether the pages of an Ogg follow each other, and each checksum is right, computed bit by bit."""
    number = 0
    while ogg:
        sizes = ogg[27 : 27 + ogg[26]]
        page, ogg = ogg[: 27 + len(sizes) + sum(sizes)], ogg[27 + len(sizes) + sum(sizes) :]
        if number < 4:  # slow
            crc = 0
            for byte in page[:22] + bytes(4) + page[26:]:
                crc ^= byte << 24
                for _ in range(8):
                    crc = (crc << 1 ^ (0x04C11DB7 if crc & 2**31 else 0)) & 0xFFFFFFFF
            assert crc.to_bytes(4, "little") == page[22:26]
        assert page[:4] == b"OggS" and int.from_bytes(page[18:22], "little") == number
        number += 1
    return number > 2


def test_tags_of_an_mp3(tmp_path: Path) -> None:
    source, body = tmp_path / "a.mp3", sound("MP3")
    ape = b"APETAGEX\xd0\7\0\0\x20\0\0\0\0\0\0\0\0\0\0\xa0" + bytes(8)
    ape += b"APETAGEX\xd0\7\0\0\x20\0\0\0\0\0\0\0\0\0\0\x80" + bytes(8)
    id3v1 = b"TAGBr\xe4utigam".ljust(128, b"\0")
    source.write_bytes(ID3 + body + ape + id3v1)
    found, lost = carry(source, "b.mp3")
    content = found.read_bytes()
    assert lost == () and content.startswith(ID3 + b"\xff") and content.endswith(ape + id3v1)
    found, lost = carry(source, "b.wav")
    assert lost == ("APE",) and chunk(b"id3 ", ID3) in found.read_bytes()
    found, lost = carry(found, "c.mp3")
    assert lost == () and found.read_bytes().startswith(ID3 + b"\xff")
    _, lost = carry(source, "b.flac")
    assert lost == ("cover picture", "APE")


def test_texts_that_do_not_say_how_they_are_encoded(tmp_path: Path) -> None:
    mp3 = tmp_path / "a.mp3"
    mp3.write_bytes(sound("MP3") + b"TAGBr\xe4utigam".ljust(127, b"\0") + b"\xff")
    aiff = tmp_path / "a.aiff"
    aiff.write_bytes(sound("AIFF") + chunk(b"NAME", b"Br\xe4utigam", "big"))
    for source in (mp3, aiff):
        found, lost = carry(source, "b.flac")
        assert lost == () and dict(read_format(found).tags) == {"title": "Bräutigam"}
        found.unlink()
    found, lost = carry(aiff, "b.m4a")
    assert lost == () and dict(read_format(found).tags) == {"title": "Bräutigam"}
    found, lost = carry(mp3, "b.mp3")
    assert lost == () and found.read_bytes()[0] == 0xFF  # no second tag before the sound


def test_an_mp3_gets_tags_that_are_not_ascii(tmp_path: Path) -> None:
    source = flac(tmp_path / "a.flac", (4, comments(*ENTRIES)))
    found, lost = carry(source, "b.mp3")
    assert lost == ("MOOD",) and dict(read_format(found).tags)["title"] == "Grüße"


def test_a_pipe_that_seeks_is_a_file_and_one_that_gets_a_wav_says_what_is_lost(tmp_path: Path) -> None:
    source = wave(tmp_path / "a.wav", chunk(b"bext", BEXT))
    taken = io.BytesIO()
    with SoundReader(Pipe(io.BytesIO(source.read_bytes()))) as reader:
        with open_writer(Pipe(taken), reader.format, metadata=reader.metadata()) as writer:
            for block in reader.blocks(1000):
                writer.write(block)
    assert writer.not_carried == ("bext",)


class Forward(io.BytesIO):
    def seekable(self) -> bool:
        return False


def test_what_comes_through_a_pipe_is_carried_or_named(tmp_path: Path) -> None:
    """Chunks before the samples come in time to be carried; what stands behind them can only be named."""
    source = wave(tmp_path / "a.wav", chunk(b"bext", BEXT), chunk(b"iXML", b"<x/>") + chunk(b"cue ", bytes(28)))
    for name, lost in (
        ("b.wav", ("iXML", "cue")),
        ("b.flac", ("iXML", "cue", "bext")),
        ("b.m4a", ("iXML", "cue", "bext")),
    ):
        with SoundReader(Pipe(Forward(source.read_bytes()))) as reader:
            form = format_for(tmp_path / name, reader.format)
            with SoundWriter(tmp_path / name, form, metadata=reader.metadata()) as writer:
                for block in reader.blocks(1000):
                    writer.write(block)
        assert writer.not_carried == lost
    assert metadata_of(tmp_path / "b.wav").items[0].data == BEXT


def test_what_waits_for_the_end_of_a_pipe_is_as_a_file(tmp_path: Path) -> None:
    source = flac(tmp_path / "a.flac", (4, comments(*ENTRIES)))
    with SoundReader(Pipe(Forward(source.read_bytes()))) as reader:
        assert reader.metadata().items == metadata_of(source).items != []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rubbish_is_no_obstacle(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever stands in a file, to read its metadata ends without an error."""
    container = data.draw(st.sampled_from(["WAV", "AIFF", "W64", "CAF", "FLAC", "OGG", "MP3"]))
    content = bytearray(sound(container))
    for _ in range(3):
        place = data.draw(st.integers(0, 199))
        content[place : place + 4] = data.draw(st.binary(min_size=4, max_size=4) | st.just(b"\xff\xff\xff\x7f"))
    form = replace(AudioFormat(16000, 1, 4001, "WAV", "PCM_16"), container=container)
    read_metadata(io.BytesIO(content[: data.draw(st.integers(0, len(content)))]), form)


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("data", [b"", b"1", b"12", b"123456"])
def test_splice(tmp_path: Path, start: int, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sbm_cli.audio.metadata.items._BLOCK", 4)
    path, content = tmp_path / "a", bytes(range(100, 121))
    path.write_bytes(content)
    with path.open("r+b") as file:
        splice(file, start, start + 2, data)
    assert path.read_bytes() == content[:start] + data + content[start + 2 :]
