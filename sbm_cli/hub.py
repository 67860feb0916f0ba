"""From the name of a model to a verified file: checkpoints.json, bundled weights, Hugging Face.

A model is NAME.safetensors, with its configuration NAME.json beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Mapping
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbm_cli.config import build, did_you_mean, parse_json
from sbm_cli.errors import ModelError

_PACKAGE = Path(__file__).parent
_SUFFIX = ".safetensors"
_REINSTALL = "Reinstall the package: pip install --force-reinstall sbm-cli"
_PATIENCE = 60.0  # s, for a download of no bytes
_SLOWEST = 20_000  # bytes/s of a download that does not hang


@dataclass(frozen=True)
class ModelEntry:
    """The entry of a model in checkpoints.json."""

    name: str
    source: str  # "bundled": in the package; "huggingface": at repository, revision
    file: str
    config: str
    bytes: int
    sha256: str
    config_sha256: str
    license: str
    training_data: tuple[str, ...]
    scores: Mapping[str, Any]
    command: str  # the one that measured the scores
    repository: str = ""
    revision: str = ""

    def __post_init__(self) -> None:
        if self.source not in ("bundled", "huggingface"):
            raise ModelError(f"{self.name}: source is {self.source!r}, expected 'bundled' or 'huggingface'")
        if Path(self.file).suffix != _SUFFIX or Path(self.file).with_suffix(".json") != Path(self.config):
            raise ModelError(f"{self.name}: file and config are {self.file!r} and {self.config!r}, expected "
                             "NAME.safetensors and NAME.json")  # fmt: skip
        for value in (self.sha256, self.config_sha256):
            if not re.fullmatch(r"[0-9a-f]{64}", value):
                raise ModelError(f"{self.name}: {value!r} is not a sha256 in lower-case hexadecimal digits")
        # Branches and tags can move; only a commit always names the same bytes, and is found in the cache offline.
        published = self.source == "huggingface" or self.repository or self.revision
        if published and not (self.repository and re.fullmatch(r"[0-9a-f]{40}", self.revision)):
            raise ModelError(f"{self.name}: a Hugging Face entry needs its repository and a commit of 40 digits")

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of each file, the weights first."""
        return {self.file: self.sha256, self.config: self.config_sha256}


def checkpoints_path() -> Path:
    """Return the path of checkpoints.json: inside the package of a wheel, at the top of a source tree."""
    inside = _PACKAGE / "checkpoints.json"
    return inside if inside.is_file() else _PACKAGE.parent / "checkpoints.json"


def entries() -> dict[str, ModelEntry]:
    """Return all models in checkpoints.json.

    Raises ModelError or ConfigError if the file is missing or invalid.
    """
    models = _read()["models"].items()
    return {name: build(ModelEntry, {"name": name} | record, f"checkpoints.json: {name}") for name, record in models}


def default_name() -> str:
    """Return the name of the default model."""
    return str(_read()["default"])


def resolve(name_or_path: str | Path | None = None) -> Path:
    """Return the .safetensors file of a model; the digests of a named one are checked first.

    None is the default model. A name in checkpoints.json comes before a file or folder: write ./NAME for those.
    A model on Hugging Face is downloaded only if it is missing from the cache or damaged there.

    Raises ModelError if there is no such model, if it is damaged or cannot be downloaded.
    """
    known = entries()
    name = default_name() if name_or_path is None else name_or_path
    if isinstance(name, str) and name in known:
        return _obtain(known[name])
    path = Path(os.path.expanduser(name))  # Path.expanduser raises without a home
    if path.is_dir():
        return _only_model(path)
    if path.is_file() and path.suffix == _SUFFIX:
        return path
    if path.is_file():
        raise ModelError(f"{path}: not a model: expected NAME{_SUFFIX}", "Other formats can run code when loaded.")
    if path.suffix == _SUFFIX or len(path.parts) > 1:
        raise ModelError(
            f"{path}: no such file or folder", f"Give a {_SUFFIX} file or its folder, or a name of `sbm models list`."
        )
    raise _unknown(str(name), known)


def entry(name: str | None = None) -> ModelEntry:
    """Return the entry of a model in checkpoints.json; None is the default model.

    Raises ModelError if there is none.
    """
    known = entries()
    name = default_name() if name is None else name
    if name not in known:
        raise _unknown(name, known)
    return known[name]


def local_file(model: ModelEntry, file: str | None = None) -> Path | None:
    """Return the path of a model's file (None: its weights) on this machine, unverified; None if it is not here."""
    file = file or model.file
    if model.source == "bundled":
        path = _PACKAGE / "weights" / file
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(model.repository, file, revision=model.revision)
    return Path(cached) if isinstance(cached, str) else None


def check(model: ModelEntry) -> Path:
    """Return the weights of a model after checking the digests of both its files; nothing is downloaded.

    Raises ModelError if one is missing or damaged.
    """
    bundled = model.source == "bundled"
    cure = _REINSTALL if bundled else f"Download it: sbm models download {model.name}"
    paths = []
    for file, sha256 in model.digests.items():
        path = local_file(model, file)
        if path is None:
            raise ModelError(f"{model.name}: {file} is not on this machine", cure)
        found = digest(path)
        if found != sha256:
            raise ModelError(f"{path}: damaged or changed (sha256 {found[:12]}…, expected {sha256[:12]}…)", cure)
        paths.append(path)
    return paths[0]


def _read() -> dict[str, Any]:
    path = checkpoints_path()
    try:
        document: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file", _REINSTALL) from None
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from None
    models = document["models"] if isinstance(document, dict) and document.keys() == {"default", "models"} else None
    if not isinstance(models, dict) or not all(isinstance(record, dict) for record in models.values()):
        raise ModelError(f"{path}: expected exactly the keys 'default' and 'models', and an entry for every model")
    return document


def _obtain(model: ModelEntry) -> Path:
    """Return the verified weights of a model; download files that are missing from the cache or damaged there."""
    if model.source == "huggingface":
        for file, sha256 in model.digests.items():
            cached = local_file(model, file)
            if cached is None or digest(cached) != sha256:
                _fetch(model, file, cached)
    return check(model)


def _fetch(model: ModelEntry, file: str, damaged: Path | None) -> None:
    from huggingface_hub import errors, hf_hub_download

    if damaged:  # otherwise the client would return it again
        damaged.resolve().unlink(missing_ok=True)  # the target of the link, if the system has links
        damaged.unlink(missing_ok=True)
    page = f"https://huggingface.co/{model.repository}/tree/{model.revision}"
    by_hand = f"Or download {model.file} and {model.config} from {page} and pass their folder: `model=FOLDER`"
    limit = _PATIENCE + model.bytes / _SLOWEST
    arrived: futures.Future[str] = futures.Future()

    def download() -> None:
        try:
            arrived.set_result(hf_hub_download(model.repository, file, revision=model.revision))
        except Exception as error:
            arrived.set_exception(error)

    # The client limits only silence: a server that sends a byte now and then would hold it for ever.
    threading.Thread(target=download, daemon=True).start()
    try:
        arrived.result(limit)
    except futures.TimeoutError:
        raise ModelError(
            f"{model.name}: {file} did not arrive within {limit:.0f} s: the server or the network hangs",
            f"Try again later.\n{by_hand}",
        ) from None
    except errors.LocalEntryNotFoundError:
        raise ModelError(
            f"{model.name}: not on this machine, and the network cannot be used (HF_HUB_OFFLINE set, or no connection)",
            f"Try again with a network connection.\n{by_hand}",
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.EntryNotFoundError):
        raise ModelError(
            f"{model.name}: {model.repository} has no {file} at commit {model.revision[:12]}, or it is private",
            "Update sbm-cli, or set HF_TOKEN for a private repository; `sbm models list` shows the bundled models.",
        ) from None
    except Exception as error:  # of requests, httpx or httpx2, whichever this version of the client uses
        raise ModelError(f"{model.name}: downloading {file} failed ({error})", f"Try again.\n{by_hand}") from error


def _only_model(folder: Path) -> Path:
    # A training's folder also holds last.safetensors, which has no configuration and is no model.
    found = sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.with_suffix(".json").is_file())
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "none"
    raise ModelError(f"{folder}: expected one {_SUFFIX} file with its .json, found {names}", "Pass the file itself.")


def _unknown(name: str, known: Mapping[str, ModelEntry]) -> ModelError:
    listed = ", ".join(known) or "none"
    return ModelError(
        f"unknown model {name!r}{did_you_mean(name, known)}",
        f"Choose one of {listed}, or pass a {_SUFFIX} file or its folder.",
    )


def digest(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()
