"""Names become verified files; everything that can be wrong with them has its own message."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sbm_cli import hub
from sbm_cli.errors import ConfigError, ModelError, SbmError


def test_checkpoints_are_found_beside_the_package(bundle: Any) -> None:
    assert hub.checkpoints_path() == bundle.package.parent / "checkpoints.json"


def test_the_copy_inside_the_package_comes_first(bundle: Any) -> None:
    bundle.describe({}, default="other", inside=True)
    assert hub.checkpoints_path() == bundle.package / "checkpoints.json"
    assert hub.default_name() == "other"


def test_no_name_is_the_default(bundle: Any) -> None:
    assert hub.resolve() == hub.resolve(None) == hub.resolve("small") == bundle.weights


def test_a_file_or_its_folder_is_taken_as_it_is(bundle: Any, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / "x.safetensors"
    mine.parent.mkdir()
    mine.write_bytes(b"anything")
    mine.with_suffix(".json").touch()
    (mine.parent / "last.safetensors").touch()  # a training's state is no model
    assert hub.resolve(mine) == hub.resolve(str(mine)) == hub.resolve(mine.parent) == mine


def test_a_name_comes_before_a_folder(bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    for suffix in ("safetensors", "json"):
        (tmp_path / "small" / f"y.{suffix}").touch()
    assert hub.resolve("small") == bundle.weights
    assert hub.resolve("./small") == hub.resolve(Path("small")) == Path("small/y.safetensors")


@pytest.mark.parametrize("name", ["small.safetensors", "small.json"])
def test_damaged_files_are_refused(bundle: Any, name: str) -> None:
    (bundle.weights.parent / name).write_bytes(b"weightz")
    with pytest.raises(ModelError, match=f"{name}: damaged") as caught:
        hub.resolve("small")
    assert "pip install --force-reinstall" in caught.value.hint


def test_a_missing_bundled_file_is_an_error(bundle: Any) -> None:
    bundle.config.unlink()
    with pytest.raises(ModelError, match=r"small\.json is not on this machine"):
        hub.resolve("small")


def test_unknown_names_list_the_known_ones(bundle: Any) -> None:
    with pytest.raises(ModelError, match=r"unknown model 'smal', did you mean 'small'\?") as caught:
        hub.resolve("smal")
    assert "Choose one of small" in caught.value.hint
    with pytest.raises(ModelError, match="unknown model 'zzz'\n"):
        hub.entry("zzz")


def test_paths_that_hold_no_model_say_so(bundle: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file or folder"):
        hub.resolve(tmp_path / "absent.safetensors")
    with pytest.raises(ModelError, match="found none"):
        hub.resolve(tmp_path)
    pickled = tmp_path / "model.pt"
    pickled.touch()
    with pytest.raises(ModelError, match="not a model: expected NAME.safetensors"):
        hub.resolve(pickled)
    for name in "ab":
        (tmp_path / f"{name}.safetensors").touch()
        (tmp_path / f"{name}.json").touch()
    with pytest.raises(ModelError, match="found a.safetensors, b.safetensors"):
        hub.resolve(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "checkpoints.json: small: unknown key 'extra'"),
        ({"bytes": "many"}, "checkpoints.json: small: bytes: expected a whole number, got 'many'"),
        ({"source": "ftp"}, "source is 'ftp'"),
        ({"sha256": "abc"}, "'abc' is not a sha256"),
        ({"config": "other.json"}, "expected NAME.safetensors and NAME.json"),
        ({"file": "small.pt"}, "expected NAME.safetensors and NAME.json"),
        ({"source": "huggingface"}, "needs its repository and a commit"),
        ({"source": "huggingface", "repository": "o/m", "revision": "main"}, "needs its repository and a commit"),
        ({"repository": "o/m"}, "needs its repository and a commit"),
    ],
)
def test_entries_are_strict(bundle: Any, change: dict[str, Any], message: str) -> None:
    bundle.describe({"small": bundle.record() | change})
    with pytest.raises(SbmError, match=message):
        hub.entries()


def test_entries_lack_nothing(bundle: Any) -> None:
    whole = bundle.record()
    del whole["license"]
    bundle.describe({"small": whole})
    with pytest.raises(ConfigError, match="checkpoints.json: small: .* missing .* 'license'"):
        hub.entries()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON .nested too deeply"),
        ("[]", "exactly the keys"),
        ("{}", "exactly the keys"),
        ('{"default": "a", "models": []}', "exactly the keys"),
        ('{"default": "a", "models": {"a": 1}}', "an entry for every model"),
    ],
)
def test_a_broken_checkpoints_file_is_one_message(bundle: Any, text: str, message: str) -> None:
    hub.checkpoints_path().write_text(text)
    with pytest.raises(ModelError, match=message):
        hub.entries()


def test_a_missing_checkpoints_file_is_one_message(bundle: Any) -> None:
    hub.checkpoints_path().unlink()
    with pytest.raises(ModelError, match="no such file"):
        hub.entries()


def test_named_models_need_no_hub_client(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import of it raises
    assert hub.resolve().is_file()


def test_the_shipped_checkpoints_describe_the_shipped_files() -> None:
    models = hub.entries()
    assert hub.default_name() in models
    for model in models.values():
        if model.source == "bundled":
            path = hub.resolve(model.name)
            assert path.stat().st_size == model.bytes
            assert path.with_suffix(".json").is_file()
            assert model.scores and model.training_data and model.command and model.license


def test_no_shipped_weights_lack_an_entry() -> None:
    described = {model.file for model in hub.entries().values() if model.source == "bundled"}
    assert {path.name for path in (Path(hub.__file__).parent / "weights").glob("*.safetensors")} == described


def test_entries_are_plain_data(bundle: Any) -> None:
    assert json.loads(json.dumps(asdict(hub.entry())))["name"] == "small"


def test_a_hub_that_hangs_is_given_up(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    released = threading.Event()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: released.wait(60))
    monkeypatch.setattr(hub, "_PATIENCE", 0.1)
    bundle.describe({"far": bundle.record(source="huggingface", repository="a/b", revision="0" * 40)}, "far")
    try:
        with pytest.raises(ModelError, match=r"far: small.safetensors did not arrive within 0 s: .* hangs") as caught:
            hub.resolve("far")
    finally:
        released.set()
    assert "Try again later" in caught.value.hint and "huggingface.co/a/b" in caught.value.hint
