"""Corpora by their real names: what each file is, who speaks, which split; and the manifest that comes of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from sbm_cli.data.corpora.layouts import LAYOUTS, VOICES, Rule
from sbm_cli.data.corpora.prepare import _hashed, find_clips, follow, thin
from sbm_cli.data.corpus import lengths
from sbm_cli.data.manifest import COLUMNS, Clip, identity, read_manifest, write_manifest
from sbm_cli.errors import ConfigError

Paths = Mapping[str, str | None]  # path: "kind speaker-or-group split", "hash" for a split by name; None: left out


def tree(root: Path, names: Iterable[str]) -> None:
    """Write a file of ten samples under each name: audio by its suffix, tables stay to the test."""
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(10, (index + 1) / 1000), 16000)


def under(folder: str, paths: Paths) -> Paths:
    return {f"{folder}/{path}": expected for path, expected in paths.items()}


def table(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


VOICEBANK: Paths = {
    "clean_trainset_28spk_wav/p227_001.wav": "speech vctk/p227 train",
    "clean_trainset_28spk_wav/p226_001.wav": "speech vctk/p226 valid",
    "clean_trainset_28spk_wav/p287_424.wav": "speech vctk/p287 valid",
    "clean_trainset_56spk_wav/p234_001.wav": "speech vctk/p234 train",
    "clean_testset_wav/p232_001.wav": "speech vctk/p232 report",
    "clean_testset_wav/p257_434.wav": "speech vctk/p257 report",
    "noisy_trainset_28spk_wav/p227_001.wav": None,
    "noisy_testset_wav/p232_001.wav": None,
    "__MACOSX/clean_testset_wav/._p232_001.wav": None,
}
LIBRISPEECH = {
    "LibriSpeech/train-clean-100/19/198/19-198-0000.flac": "speech librispeech/19 train",
    "LibriSpeech/train-other-500/20/205/20-205-0000.flac": "speech librispeech/20 train",
    "LibriSpeech/train-clean-5/32/21625/32-21625-0000.flac": "speech librispeech/32 train",
    "LibriSpeech/dev-clean/84/121123/84-121123-0000.flac": "speech librispeech/84 valid",
    "LibriSpeech/dev-clean-2/1272/128104/1272-128104-0000.flac": "speech librispeech/1272 valid",
    "LibriSpeech/test-other/1688/142285/1688-142285-0000.flac": "speech librispeech/1688 report",
    "LibriSpeech/intro/19/198/19-198-0000.flac": None,
}
EARS = {
    "p001/rainbow_01_regular.wav": "speech ears/p001 train",
    "p001/emo_adoration_freeform.wav": "speech ears/p001 train",
    "p099/sentences_02_whisper.wav": "speech ears/p099 train",
    "p100/freeform_speech_01.wav": "speech ears/p100 valid",
    "p101/freeform_speech_01.wav": "speech ears/p101 valid",
    "p102/freeform_speech_01.wav": "speech ears/p102 report",
    "p107/freeform_speech_01.wav": "speech ears/p107 report",
    "p001/interjection_greetings.wav": None,
    "p001/melodic_01.wav": None,
    "p001/nonverbal_laugh.wav": None,
    "p001/vegetative_cough.wav": None,
    "blind_testset/0001.wav": None,
}
WHAM = {
    "wham_noise/tr/050a0501_1.7783_442o030z_-1.7783.wav": "noise wham/12 train",
    "wham_noise/tr/050a0502_1.7783_442o030z_-1.7783.wav": "noise wham/12 train",
    "wham_noise/cv/01to030v_0.76421_20ga010m_-0.76421.wav": "noise wham/7 valid",
    "wham_noise/tt/22hc010i_1.2_050c0109_-1.2.wav": "noise wham/22hc010i_1.2_050c0109_-1.2 report",
    "high_res_wham/audio/bar01.wav": "noise wham/bar01 train",
    "high_res_wham/audio/bar02.wav": "noise wham/bar02 report",
    "high_res_wham/audio/unlisted.wav": None,
}
MUSAN = {
    "musan/noise/free-sound/noise-free-sound-0000.wav": "noise musan/noise-free-sound-0000 hash",
    "musan/noise/sound-bible/noise-sound-bible-0000.wav": "noise musan/noise-sound-bible-0000 hash",
    "musan/music/fma/music-fma-0000.wav": "noise musan/music-fma-0000 hash",
    "musan/music/fma/music-fma-0001.wav": None,  # sung
    "musan/music/hd-classical/music-hd-0000.wav": "noise musan/music-hd-0000 hash",
    "musan/speech/librivox/speech-librivox-0000.wav": None,
    "musan/speech/us-gov/speech-us-gov-0000.wav": None,
}
FSD50K = {
    "FSD50K.dev_audio/64760.wav": "noise freesound/64760 train",
    "FSD50K.dev_audio/345111.wav": "noise freesound/345111 valid",
    "FSD50K.dev_audio/100.wav": None,  # speech
    "FSD50K.eval_audio/37199.wav": "noise freesound/37199 report",
    "FSD50K.eval_audio/99.wav": None,  # chatter
    "FSD50K.eval_audio/98.wav": None,  # not in the tables
}
SLR26 = {
    "simulated_rirs_16k/smallroom/Room001/Room001-00001.wav": "rir slr26/small/Room001 hash",
    "simulated_rirs_16k/mediumroom/Room001/Room001-00002.wav": "rir slr26/medium/Room001 hash",
    "simulated_rirs_16k/largeroom/Room200/Room200-00100.wav": "rir slr26/large/Room200 hash",
}
REAL = "RIRS_NOISES/real_rirs_isotropic_noises/"
SLR28 = {
    "RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav": "rir slr26/small/Room001 hash",
    REAL + "RVB2014_type1_rir_largeroom1_near_angla.wav": "rir slr28/largeroom1 hash",
    REAL + "RVB2014_type2_rir_simroom1_far_anglb.wav": "rir slr28/simroom1 hash",
    REAL + "RVB2014_type1_noise_largeroom1_10.wav": "noise slr28/largeroom1 hash",
    REAL + "RWCP_type1_rir_circle_e1c_imp010.wav": "rir slr28/rwcp_e1c hash",
    REAL + "RWCP_type2_rir_cirline_ofc_imp130.wav": "rir slr28/rwcp_ofc hash",
    REAL + "RWCP_type4_rir_p30l.wav": "rir slr28/rwcp_type4 hash",
    REAL + "RWCP_type5_noise_cirline_ofc_ambient1.wav": "noise slr28/rwcp_ofc hash",
    REAL + "air_type1_air_binaural_aula_carolina_1_3_0_3.wav": "rir slr28/air_aula hash",
    REAL + "air_type1_air_binaural_stairway_1_1_90.wav": "rir slr28/air_stairway hash",
    REAL + "air_type1_air_phone_stairway1_hfrp.wav": "rir slr28/air_stairway hash",
    REAL + "air_type1_air_phone_bt_corridor_hhp.wav": "rir slr28/air_corridor hash",
    "RIRS_NOISES/pointsource_noises/noise-free-sound-0000.wav": "noise musan/noise-free-sound-0000 hash",
}
DNS_2020 = under("datasets/clean", {"book_00000_chp_0009_reader_06709_11.wav": "speech librispeech/6709 hash"}) | {
    "datasets/noise/--9VR_F7CtY.wav": "noise youtube/--9VR_F7CtY hash",
    "datasets/noise/door_Freesound_validated_235661_0.wav": "noise freesound/235661 hash",
    "datasets/noise/breath_spit_Freesound_validated_406647_1.wav": "noise freesound/406647 hash",
    "datasets/test_set/synthetic/no_reverb/clean/clean_fileid_0.wav": None,
    "datasets/test_set/synthetic/no_reverb/noisy/clnsp1_train_69005_1_snr15_tl-21_fileid_158.wav": None,
    "datasets/ICASSP_blind_test_set/track_1/noisy/ms_realrec_english_A3QAYS5AMRH4FS_Chip_Bag_Clip.wav": None,
    "training/clean/clean_fileid_17.wav": None,
    "training/noise/noise_fileid_17.wav": None,
}
MAILABS, WIKIPEDIA = "M-AILABS_Speech_Dataset", "CC_BY_SA_4.0_249hrs_339spk_German_Wikipedia_16k"
DNS_2021 = {
    **under(
        "datasets/clean",
        {
            "read_speech/book_00002_chp_0005_reader_11980_10.wav": "speech librispeech/11980 hash",
            f"french_data/{MAILABS}/fr_FR_190hrs_16k/female/ezwa/epouvante/wavs/x_f01.wav": "speech mailabs/ezwa hash",
            f"italian_speech/{MAILABS}/it_IT_128hrs_16k/mix/novelle/wavs/x_f02.wav": "speech mailabs/mix/novelle train",
            f"german_speech/{WIKIPEDIA}/data/German_Wikipedia_Asphalt_audio2_48kHz.wav": (
                "speech german_wikipedia/Asphalt train"
            ),
            "spanish_speech/SLR61_es_ar_female_arf_06592_00774535859.wav": "speech openslr/arf_06592 hash",
            "mandarin_speech/slr33_aishell/S0002/BAC009S0002W0122.wav": "speech aishell/S0002 hash",
            "mandarin_speech/SLR18_THCHS00/A11_0.wav": "speech - train",
            "emotional_speech/crema_d/1001_DFA_ANG_XX.wav": "speech crema-d/1001 hash",
        },
    ),
    **under(
        "datasets/impulse_responses",
        {
            "SLR26/simulated_rirs_16k/largeroom/Room001/Room001-00004.wav": "rir slr26/large/Room001 hash",
            f"SLR28/{REAL}RWCP_type4_rir_p30r.wav": "rir slr28/rwcp_type4 hash",
        },
    ),
    "datasets/noise/fan_Freesound_validated_361372_19.wav": "noise freesound/361372 hash",
    "datasets/dev_testset/noisy_testclips/ms_pns_HPdesktop_fan_fileid_3.wav": None,
}
DNS_2022 = {
    **under(
        "datasets_fullband/clean_fullband",
        {
            "read_speech/book_00000_chp_0009_reader_06709_0_seg_0.wav": "speech librispeech/6709 hash",
            "vctk_wav48_silence_trimmed/p225/p225_001_mic1.wav": "speech vctk/p225 train",
            "vctk_wav48_silence_trimmed/p225/p225_001_mic2.wav": None,
            "vctk_wav48_silence_trimmed/p226/p226_001_mic1.flac": "speech vctk/p226 valid",
            "vctk_wav48_silence_trimmed/p232/p232_001_mic1.wav": "speech vctk/p232 report",
            "vctk_wav48_silence_trimmed/p257/p257_001_mic2.wav": None,
            "spanish_speech/SLR39_48kHz/SLR39_100_11_48kHz.wav": "speech slr39/100 hash",
        },
    ),
    **under(
        "datasets_fullband",  # as unpacked from some of the archives
        {
            "spanish_speech/SLR39_native-f-Mexico-190-45-62-NA-mgh8170_s120_48kHz.wav": "speech slr39/mgh8170 hash",
            "VocalSet_48kHz_mono/vocalset_female7_scales_fast_f7_scales_i_48kHz.wav": "speech vocalset/female7 hash",
            "russian_speech/unheard_of.wav": "speech - train",
            "noise_fullband/-0ZfNOPDvPM.wav": "noise youtube/-0ZfNOPDvPM hash",
            "noise_fullband/munching_Freesound_validated_B32_Chips_e_10.wav": "noise freesound/B32_Chips_e hash",
            "noise_fullband/some_machine.wav": "noise dns/some_machine hash",
            "dev_testset/enrollment_data/primary_1.wav": None,
        },
    ),
    "impulse_responses/SLR28/RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav": (
        "rir slr26/small/Room001 hash"
    ),
}
FOLDER = {
    "speech/anna/one.wav": "speech mine/anna hash",
    "speech/anna/deep/two.flac": "speech mine/anna hash",
    "speech/ben/one.wav": "speech mine/ben hash",
    "speech/three.wav": "speech - hash",
    "noise/kitchen/fridge.wav": "noise mine/kitchen/fridge hash",
    "noise/car.ogg": "noise mine/car hash",
    "rir/hall.wav": "rir mine/hall hash",
    "other/song.wav": None,
}
CORPORA = {
    "voicebank-demand": [VOICEBANK],
    "librispeech": [LIBRISPEECH],
    "ears": [EARS],
    "wham": [WHAM],
    "musan": [MUSAN],
    "fsd50k": [FSD50K],
    "slr26": [SLR26],
    "slr28": [SLR28],
    "dns": [DNS_2020, DNS_2021, DNS_2022, DNS_2020 | DNS_2021 | DNS_2022],
    "folder": [FOLDER],
}


def tables(name: str, root: Path) -> None:
    """Write the tables that come with a corpus."""
    if name == "wham":
        head = "utterance_id,Noise Band,File ID,L to R Width (cm),Reverberation Level,Location ID,Location Day ID"
        rows = [f"050a050{n}_1.7783_442o030z_-1.7783.wav,1,12,15.2 cm,l,3,1" for n in (1, 2)]
        table(root / "wham_noise/metadata/noise_meta_tr.csv", head, *rows)
        table(
            root / "wham_noise/metadata/noise_meta_cv.csv",
            head,
            "01to030v_0.76421_20ga010m_-0.76421.wav,0,7,9 cm,h,1,1",
        )
        table(
            root / "high_res_wham/high_res_metadata.csv",
            "Filename,File Length (sec),WHAM! Split",
            "bar01.wav,150.1,Train",
            "bar02.wav,150.1,Test",
        )
    elif name == "musan":
        table(
            root / "musan/music/fma/ANNOTATIONS", "music-fma-0000 rock N Somebody", "music-fma-0001 pop Y Somebody", ""
        )
    elif name == "fsd50k":
        zero, by = "http://creativecommons.org/publicdomain/zero/1.0/", "http://creativecommons.org/licenses/by/3.0/"
        table(
            root / "FSD50K.ground_truth/dev.csv",
            "fname,labels,mids,split",
            '64760,"Electric_guitar,Music","/m/02sgy,/m/04rlf",train',
            '345111,"Rain,Water","/m/06mb1,/m/0838f",val',
            '100,"Male_speech_and_man_speaking,Speech,Human_voice","/m/05zppz,/m/09x0r,/m/09l8g",train',
        )
        table(
            root / "FSD50K.ground_truth/eval.csv",
            "fname,labels,mids",
            '37199,"Engine","/m/02mk9"',
            '99,"Chatter,Crowd,Human_group_actions","/m/07rkbfh,/m/03qtwd,/t/dd00012"',
        )
        for part, clips in (("dev", {"64760": zero, "345111": by}), ("eval", {"37199": by.replace("/by/", "/by-nc/")})):
            text = json.dumps({clip: {"title": "t", "license": licence} for clip, licence in clips.items()})
            table(root / f"FSD50K.metadata/{part}_clips_info_FSD50K.json", text)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        pytest.param(name, paths, id=f"{name}-{i}")
        for name, several in CORPORA.items()
        for i, paths in enumerate(several)
    ],
)
def test_layout(tmp_path: Path, name: str, paths: Paths) -> None:
    root = tmp_path / "mine"
    tree(root, paths)
    tables(name, root)
    clips = {Path(clip.path).relative_to(root).as_posix(): clip for clip in find_clips(name, root)}
    assert set(clips) == {path for path, expected in paths.items() if expected}
    for path, clip in clips.items():
        split = "hash" if (paths[path] or "").endswith(" hash") else clip.split
        assert " ".join([clip.kind, named(clip)[1] or "-", split]) == paths[path], path
        assert clip.source and "{" not in clip.source
    for one in clips.values():  # no voice and no original recording on two sides
        assert all(one.split == other.split for other in clips.values() if named(one) == named(other) and named(one)[1])


def named(clip: Clip) -> tuple[str, str]:
    return clip.kind, clip.speaker if clip.kind == "speech" else clip.group


def test_every_layout_is_tested() -> None:
    assert set(CORPORA) == set(LAYOUTS)


@pytest.mark.parametrize(
    ("name", "inside", "paths"),
    [
        ("voicebank-demand", "clean_testset_wav", VOICEBANK),
        ("librispeech", "LibriSpeech/dev-clean", LIBRISPEECH),
        ("wham", "wham_noise/cv", WHAM),
        ("musan", "musan/noise", MUSAN),
        ("fsd50k", "FSD50K.dev_audio", FSD50K),
        ("slr28", "RIRS_NOISES/pointsource_noises", SLR28),
        ("dns", "datasets/noise", DNS_2020),
    ],
)
def test_root_may_be_a_folder_of_the_corpus(tmp_path: Path, name: str, inside: str, paths: Paths) -> None:
    tree(tmp_path, paths)
    tables(name, tmp_path)
    found = {Path(clip.path).relative_to(tmp_path).as_posix() for clip in find_clips(name, tmp_path / inside)}
    assert found == {path for path, expected in paths.items() if expected and path.startswith(f"{inside}/")}


def test_voicebank_test_speakers_never_train_whatever_brings_them(tmp_path: Path) -> None:
    tree(
        tmp_path,
        [f"clean/vctk/{who}_{end}.wav" for who in ("p232", "p257") for end in ("001", "002_mic1", "003_seg_0")],
    )
    assert {clip.split for clip in find_clips("dns", tmp_path) if clip.speaker} == {"report"}
    assert all(clip.speaker for clip in find_clips("dns", tmp_path))


def test_licences(tmp_path: Path) -> None:
    tree(tmp_path, FSD50K)
    tables("fsd50k", tmp_path)

    def found(*licences: str) -> list[str]:
        return sorted(Path(clip.path).stem for clip in find_clips("fsd50k", tmp_path, licences))

    assert found("cc0") == ["64760"] and found("cc0", "cc-by") == ["345111", "64760"] and found("cc-by-nc") == ["37199"]
    with pytest.raises(ConfigError, match="no file of fsd50k under sampling"):
        found("sampling+")
    with pytest.raises(ConfigError, match="musan does not say the licence"):
        find_clips("musan", tmp_path, ["cc0"])
    (tmp_path / "FSD50K.metadata/dev_clips_info_FSD50K.json").unlink()
    with pytest.raises(ConfigError, match=r"dev_clips_info_FSD50K\.json: no such file"):
        found("cc0")


def test_fsd50k_without_labels_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, FSD50K)
    with pytest.raises(ConfigError, match=r"FSD50K\.ground_truth/dev\.csv"):
        find_clips("fsd50k", tmp_path)
    assert {"Speech", "Singing", "Conversation", "Chatter"} <= VOICES


def test_nothing_found_says_what_was_expected_and_what_is_there(tmp_path: Path) -> None:
    tree(tmp_path, ["p232/p232_001.wav", "readme/a.wav"])
    with pytest.raises(ConfigError) as error:
        find_clips("voicebank-demand", tmp_path)
    assert "no file of voicebank-demand" in error.value.message
    assert "clean_trainset_28spk_wav" in error.value.hint and "Found p232, readme" in error.value.hint
    with pytest.raises(ConfigError, match="not a folder"):
        find_clips("ears", tmp_path / "none")


@given(st.lists(st.text("abcdef0123456789", min_size=1, max_size=6), min_size=1, max_size=60, unique=True))
def test_hashed_splits(names: list[str]) -> None:
    """Every split has something where there is enough, most train, and a split hardly depends on the other names."""
    rule = Rule("noise", "s", "x")
    clips = {
        clip.group: clip.split for clip in _hashed([(rule, Clip("p", "noise", "s", group=name)) for name in names])
    }
    splits = list(clips.values())
    assert len(set(splits)) == min(len(names), 3) and splits.count("train") >= len(names) - 2 - len(names) // 2
    if len(names) > 30:
        again = [(rule, Clip("p", "noise", "s", group=name)) for name in names[::2]]
        assert (
            sum(clips[clip.group] != clip.split for clip in _hashed(again)) <= 2
        )  # at most those that had to be filled


@pytest.mark.parametrize("count", [2, 3, 10, 40])
def test_every_split_has_something_whatever_the_names(count: int) -> None:
    rule = Rule("noise", "s", "x")
    for first in range(300):
        clips = [(rule, Clip("p", "noise", "s", group=f"speaker{first + i:03}")) for i in range(count)]
        assert len({clip.split for clip in _hashed(clips)}) == min(count, 3)


def test_about_one_in_twenty_is_held_out() -> None:
    rule = Rule("rir", "s", "x")
    splits = [clip.split for clip in _hashed([(rule, Clip("p", "rir", "s", group=f"{i}")) for i in range(2000)])]
    assert 70 < splits.count("valid") < 130 and 70 < splits.count("report") < 130


def test_manifest_is_what_training_reads(tmp_path: Path) -> None:
    tree(tmp_path / "data", MUSAN)
    tree(tmp_path / "data", ["musan/noise/free-sound/noise-free-sound-0009.wav"])
    broken = tmp_path / "data/musan/noise/free-sound/noise-free-sound-0008.wav"
    broken.write_bytes(b"RIFF")
    clips = find_clips("musan", tmp_path / "data")
    calls: list[tuple[int, int]] = []
    seconds = lengths(clips, lambda done, total: calls.append((done, total)), broken=0.0)
    assert calls[-1] == (len(clips), len(clips))
    assert {Path(clip.path).name for clip, length in zip(clips, seconds, strict=True) if not length} == {broken.name}

    kept = [pair for pair in zip(clips, seconds, strict=True) if pair[1]]
    beside, elsewhere = tmp_path / "data" / "musan.csv", tmp_path / "manifests" / "musan.csv"
    for path in (beside, elsewhere):
        write_manifest(path, kept)
        assert [(c.kind, c.source, c.group, c.split) for c in read_manifest(path)] == [
            (c.kind, c.source, c.group, c.split) for c, _ in kept
        ]
    rows = list(csv.DictReader(beside.read_text(encoding="utf-8").splitlines()))
    assert tuple(rows[0]) == COLUMNS and rows[0]["path"].startswith("musan/") and rows[0]["seconds"] == "0.00"
    assert elsewhere.read_text(encoding="utf-8").splitlines()[1].startswith(str(tmp_path))
    write_manifest(beside, kept[:1])
    assert len(read_manifest(beside)) == 1 and not list(tmp_path.rglob("*.part"))


def test_follow_takes_the_splits_of_other_manifests(tmp_path: Path) -> None:
    tree(tmp_path / "a", LIBRISPEECH)
    tree(tmp_path / "b", ["clean/book_1_chp_1_reader_00084_1.wav", "clean/book_1_chp_1_reader_01688_1.wav"])
    tree(tmp_path / "b", [f"clean/book_1_chp_1_reader_{i:05}_1.wav" for i in range(3)])
    write_manifest(tmp_path / "a.csv", [(clip, 1.0) for clip in find_clips("librispeech", tmp_path / "a")])
    clips = find_clips("dns", tmp_path / "b")
    splits = {clip.speaker: clip.split for clip in follow(clips, [tmp_path / "a.csv"])}
    assert splits["librispeech/84"] == "valid" and splits["librispeech/1688"] == "report"
    assert {clip.speaker: clip.split for clip in clips}.items() - splits.items() <= {
        ("librispeech/84", split) for split in ("train", "report")
    } | {("librispeech/1688", split) for split in ("train", "valid")}


def test_thin_keeps_some_of_each_group(tmp_path: Path) -> None:
    tree(tmp_path, [f"smallroom/Room00{room}/Room00{room}-0000{i}.wav" for room in range(3) for i in range(4)])
    clips = find_clips("slr26", tmp_path)
    few = thin(clips, 2)
    assert [sum(clip.group == group for clip in few) for group in {clip.group for clip in clips}] == [2, 2, 2]
    assert thin(clips, 9) == clips and {identity(clip) for clip in few} == {clip.group for clip in clips}
