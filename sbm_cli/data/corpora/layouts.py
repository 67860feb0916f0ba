"""How public corpora lie on disk: from where a file is and what it is called to its row of a manifest.

A layout is a list of rules, each a pattern of the end of a path without the file's suffix. The first rule that fits
says what a file is; files that fit none are no part of the corpus as we use it. Names of speakers and of original
recordings mean the same in every layout ("freesound/437341" is that recording, whoever cut it), so that corpora which
share material can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sbm_cli.cells import read_table
from sbm_cli.config import parse_json
from sbm_cli.data.manifest import Clip
from sbm_cli.errors import ConfigError

# Completes a row, given the groups of its pattern, from what tables of the corpus say; None leaves the file out.
Details = Callable[[Clip, Mapping[str, str]], Clip | None]


@dataclass(frozen=True)
class Rule:
    """What the files are whose path ends in `pattern`; {names} in the other fields are groups of the pattern.

    split: that of all; or by the pattern's group `part`, `train` where it is not listed; None: 5 % `valid` and 5 %
    `report`, whole speakers or groups, by the hash of their names.
    """

    kind: str
    source: str
    pattern: str
    speaker: str = ""
    group: str = ""
    split: str | Mapping[str, str] | None = None


@dataclass(frozen=True)
class Layout:
    """A corpus (docs/data.md): what lies in it, for the error when nothing is found, and its rules."""

    expected: str
    rules: Sequence[Rule]
    skip: str = r"(?!)"  # paths in which this is found are left out
    details: Callable[[Path, Sequence[str]], Details] | None = None  # made from the folder and the wanted licences
    licensed: bool = False  # its tables say the licence of each file


def _fsd50k(root: Path, licences: Sequence[str]) -> Details:
    labels, splits, licence = {}, {}, {}
    for part in ("dev", "eval"):
        for row in read_table(_table(root, f"FSD50K.ground_truth/{part}.csv", needed=True)):
            labels[row["fname"]] = set(row["labels"].split(","))
            splits[row["fname"]] = {"train": "train", "val": "valid"}.get(row.get("split", ""), "report")
        if licences:
            table = _table(root, f"FSD50K.metadata/{part}_clips_info_FSD50K.json", needed=True)
            for name, clip in parse_json(table.read_text(encoding="utf-8")).items():
                licence[name] = next((short for url, short in LICENCES.items() if url in clip["license"]), "")

    def details(clip: Clip, found: Mapping[str, str]) -> Clip | None:
        name = found["id"]
        if labels.get(name, VOICES) & VOICES or (licences and licence.get(name) not in licences):
            return None
        return replace(clip, split=splits[name])

    return details


def _wham(root: Path, licences: Sequence[str]) -> Details:
    cut = {
        row["utterance_id"].removesuffix(".wav"): row["File ID"]
        for part in ("tr", "cv", "tt")
        for row in read_table(_table(root, f"metadata/noise_meta_{part}.csv"))
    }
    splits = {"Train": "train", "Valid": "valid", "Test": "report"}
    recordings = read_table(_table(root, "high_res_metadata.csv"))
    whole = {Path(row["Filename"]).stem: row["WHAM! Split"] for row in recordings}

    def details(clip: Clip, found: Mapping[str, str]) -> Clip | None:
        name = found["id"]
        if "part" in found:
            return replace(clip, group=f"wham/{cut[name]}") if name in cut else clip
        return replace(clip, split=splits[whole[name]]) if whole.get(name) in splits else None

    return details


def _musan(root: Path, licences: Sequence[str]) -> Details:
    lines = [
        line.split()
        for pattern in ("ANNOTATIONS", "*/ANNOTATIONS", "music/*/ANNOTATIONS", "*/music/*/ANNOTATIONS")
        for table in root.glob(pattern)
        for line in table.read_text(encoding="utf-8").splitlines()
    ]
    sung = {words[0] for words in lines if words[2:3] == ["Y"]}  # name, genres, vocals
    return lambda clip, found: None if found["id"] in sung else clip


def _table(root: Path, name: str, needed: bool = False) -> Path:
    """Find a table of a corpus in its folder, in the one above or in one below."""
    places = [root / name, root.parent / name, *root.glob(f"*/{name}")]
    found = next((path for path in places if path.is_file()), places[0])
    if needed and not found.is_file():
        raise ConfigError(f"{found}: no such file", "It says what the recordings are: download it too.")
    return found


# Labels of FSD50K.ground_truth/vocabulary.csv that mean a voice. Each clip also carries the labels above its own, so
# Human_voice would do but for Chatter, the talk of many, which stands under Human_group_actions.
VOICES = frozenset(
    "Human_voice Speech Male_speech_and_man_speaking Female_speech_and_woman_speaking Child_speech_and_kid_speaking "
    "Conversation Speech_synthesizer Whispering Shout Yell Screaming Singing Male_singing Female_singing Laughter "
    "Giggle Chuckle_and_chortle Crying_and_sobbing Sigh Chatter".split()
)
LICENCES = {
    "creativecommons.org/publicdomain/zero/": "cc0",
    "creativecommons.org/licenses/by/": "cc-by",
    "creativecommons.org/licenses/by-nc/": "cc-by-nc",
    "creativecommons.org/licenses/sampling+/": "sampling+",
}

# p232 and p257 are the test of VoiceBank-DEMAND and never train, whatever corpus brings them. Those to validate on
# are held out since MetricGAN-U (README of github.com/JasonSWFu/VQscore); the corpus itself names none.
VCTK = {"p226": "valid", "p287": "valid", "p232": "report", "p257": "report"}

# The rooms of SLR26 come again in SLR28 and the DNS Challenge, the point noises of SLR28 again in MUSAN. The names of
# what was measured are those that public code reads; the corpus explains none.
SLR26 = [
    Rule("rir", "slr26", r"(?P<size>small|medium|large)room/(?P<room>Room\d+)/[^/]+", group="slr26/{size}/{room}"),
]
REAL = r"real_rirs_isotropic_noises/"
SLR28 = [
    *SLR26,
    Rule("rir", "slr28", REAL + r"RVB2014_type\d_rir_(?P<room>[a-z]+\d)_[^/]+", group="slr28/{room}"),
    Rule("rir", "slr28", REAL + r"RWCP_type4_rir_[^/_]+", group="slr28/rwcp_type4"),
    Rule("rir", "slr28", REAL + r"RWCP_type\d_rir_[a-z]+_(?P<room>[a-z0-9]+)_[^/]+", group="slr28/rwcp_{room}"),
    Rule("rir", "slr28", REAL + r"air_type1_air_[a-z]+(?:_bt)?_(?P<room>[a-z]+)[^/]*", group="slr28/air_{room}"),
    Rule("noise", "slr28_room", REAL + r"RVB2014_type\d_noise_(?P<room>[a-z]+\d)_\d+", group="slr28/{room}"),
    Rule(
        "noise", "slr28_room", REAL + r"RWCP_type\d_noise_[a-z]+_(?P<room>[a-z0-9]+)_[^/]+", group="slr28/rwcp_{room}"
    ),
    Rule("noise", "slr28_point", r"pointsource_noises/(?P<id>noise-[a-z-]+-\d+)", group="musan/{id}"),
]

# 2020 (branch interspeech2020/master) has flat datasets/clean and noise; 2021 (README-DNS3.md) folders by language;
# 2022 (README.md, download-dns-challenge-4.sh) datasets_fullband/{clean_fullband,noise_fullband}. File names of the
# languages are those of the corpora they come from. Speakers who cannot be told apart train: split file by file, one
# voice would stand on both sides.
DNS = [
    # LibriSpeech and these number readers alike: "the ID of the reader in the LibriVox's database" (SPEAKERS.TXT).
    Rule("speech", "dns_read", r"book_\d+_chp_\d+_reader_0*(?P<reader>\d+)_[^/]+", "librispeech/{reader}"),
    Rule("speech", "dns_vctk", r"(?P<part>p\d{3}|s5)_\d{3}[^/]*", "vctk/{part}", split=VCTK),
    Rule("speech", "dns_mailabs", r"M-AILABS[^/]*/[^/]+/(?:fe)?male/(?P<reader>[^/]+)/.+", "mailabs/{reader}"),
    Rule("speech", "dns_mailabs", r"M-AILABS[^/]*/[^/]+/mix/(?P<book>[^/]+)/.+", "mailabs/mix/{book}", split="train"),
    Rule("speech", "dns_spanish", r"SLR39_native-[^/]*-(?P<id>\w+?)_[^/]+", "slr39/{id}"),
    Rule("speech", "dns_spanish", r"SLR39_(?P<id>\d+)_[^/]+", "slr39/{id}"),
    Rule("speech", "dns_spanish", r"SLR\d+_[^/]+_(?P<id>[a-z]{3}_\d{5})_[^/]+", "openslr/{id}"),
    Rule("speech", "dns_german", r"German_Wikipedia_(?P<id>.+?)_audio[^/]*", "german_wikipedia/{id}", split="train"),
    Rule("speech", "dns_mandarin", r"slr33_aishell/(?P<id>S\d{4})/[^/]+", "aishell/{id}"),
    Rule("speech", "dns_emotion", r"(?P<actor>1\d{3})_[A-Z]{3}_[A-Z]{3}_[A-Z]{2}[^/]*", "crema-d/{actor}"),
    Rule("speech", "dns_singing", r"vocalset_(?P<singer>(?:fe)?male\d+)_[^/]+", "vocalset/{singer}"),
    *SLR28,
    Rule("noise", "dns_freesound", r"[a-z_]+_Freesound_validated_(?P<id>[^/]+)_\d+", group="freesound/{id}"),
    Rule(
        "speech",
        "dns_other",
        r"(?:clean|clean_fullband|singing_voice|VocalSet_48kHz_mono|"
        r"(?:emotional|french|german|italian|mandarin|read|russian|spanish)_(?:speech|data))/.+",
        split="train",
    ),
    Rule("noise", "dns_audioset", r"noise(?:_fullband)?/(?:.+/)?(?P<id>[\w-]{11})", group="youtube/{id}"),
    Rule("noise", "dns_noise", r"noise(?:_fullband)?/(?:.+/)?(?P<id>[^/]+)", group="dns/{id}"),
]

LAYOUTS: Mapping[str, Layout] = {
    "voicebank-demand": Layout(
        "clean_trainset_28spk_wav, clean_trainset_56spk_wav or clean_testset_wav with p226_001.wav, …",
        [Rule("speech", "voicebank", r"clean_(?:train|test)set_[^/]+/(?P<part>p\d+)_\d+", "vctk/{part}", split=VCTK)],
    ),
    "dns": Layout(
        "datasets or datasets_fullband with clean, noise and impulse_responses",
        DNS,
        skip=r"test_?set|testclips|enrol|_fileid_|_mic2$",  # tests, mixtures made of the rest, a second microphone
    ),
    "librispeech": Layout(
        "train-clean-100, dev-clean, test-clean, … with 19/198/19-198-0000.flac, …",
        [
            Rule(
                "speech",
                "librispeech",
                r"(?P<part>train|dev|test)-(?:clean|other)(?:-\d+)?/(?P<reader>\d+)/\d+/[^/]+",
                "librispeech/{reader}",
                split={"dev": "valid", "test": "report"},
            )
        ],
    ),
    # Split, and styles left out (coughs, laughter, humming): github.com/sp-uhh/ears_benchmark, generate_ears_wham.py.
    "ears": Layout(
        "p001 to p107 with rainbow_01_regular.wav, …",
        [
            Rule(
                "speech",
                "ears",
                r"(?P<part>p[01]\d\d)/(?!interjection|melodic|nonverbal|vegetative)[^/]+",
                "ears/{part}",
                split={"p100": "valid", "p101": "valid"} | {f"p{n}": "report" for n in range(102, 108)},
            )
        ],
    ),
    # "All files from the same original recording share this ID" (File ID, README of the metadata).
    "wham": Layout(
        "wham_noise with tr, cv, tt and metadata, or high_res_wham with audio and high_res_metadata.csv",
        [
            Rule(
                "noise",
                "wham",
                r"(?P<part>tr|cv|tt)/(?P<id>[^/]+)",
                group="wham/{id}",
                split={"cv": "valid", "tt": "report"},
            ),
            Rule("noise", "wham", r"high_res_wham/audio/(?P<id>[^/]+)", group="wham/{id}", split="train"),
        ],
        details=_wham,
    ),
    "musan": Layout(
        "noise/free-sound/noise-free-sound-0000.wav, …, music/fma/music-fma-0000.wav, …",
        [
            Rule("noise", "musan_noise", r"noise/[a-z-]+/(?P<id>noise-[a-z-]+-\d+)", group="musan/{id}"),
            Rule("noise", "musan_music", r"music/[a-z-]+/(?P<id>music-[a-z-]+-\d+)", group="musan/{id}"),
        ],
        details=_musan,
    ),
    "fsd50k": Layout(
        "FSD50K.dev_audio and FSD50K.eval_audio with 64760.wav, …, and FSD50K.ground_truth",
        [Rule("noise", "fsd50k", r"FSD50K\.(?:dev|eval)_audio/(?P<id>\d+)", group="freesound/{id}", split="train")],
        details=_fsd50k,
        licensed=True,
    ),
    "slr26": Layout("simulated_rirs_16k/smallroom/Room001/Room001-00001.wav, …", SLR26),
    "slr28": Layout(
        "RIRS_NOISES with simulated_rirs, real_rirs_isotropic_noises and pointsource_noises",
        SLR28,
    ),
    "folder": Layout(
        "speech/SPEAKER/….wav or speech/….wav, noise/….wav, rir/….wav",
        [
            Rule("speech", "{root}", r"{root}/speech/(?P<id>[^/]+)/.+", "{root}/{id}"),
            Rule("speech", "{root}", r"{root}/speech/(?P<id>[^/]+)", group="{root}/{id}"),
            Rule("noise", "{root}", r"{root}/noise/(?P<id>.+)", group="{root}/{id}"),
            Rule("rir", "{root}", r"{root}/rir/(?P<id>.+)", group="{root}/{id}"),
        ],
    ),
}
