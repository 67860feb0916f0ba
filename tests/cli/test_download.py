"""Models from Hugging Face and to it, by the real client, against a server on this machine that speaks its protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sbm_cli import hub
from tests.conftest import PATIENCE

ROOT = Path(hub.__file__).parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_owner"


class Hub(ThreadingHTTPServer):
    """What Hugging Face does for a download and for a commit, as far as the client asks for it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}  # (repository, commit) -> its files
        self.blobs: dict[str, bytes] = {}  # sha256 -> uploaded large files
        self.asked: list[str] = []  # method and path of all requests
        self.cuts = 0  # how many answers end in the middle

    def downloads(self) -> list[str]:
        """Return what was asked about files since the last call."""
        asked, self.asked = self.asked, []
        return [line for line in asked if "/resolve/" in line]


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def reply(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.command == "GET" and status < 300 and self.server.cuts:
            self.server.cuts -= 1
            content, self.close_connection = content[: len(content) // 2], True
        self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, headers={"X-Error-Code": code})

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        found = re.fullmatch(r"/(\w+/\w+)/resolve/(\w+)/([\w.-]+)", self.path)
        # The client has questions of its own too, such as /api/agent-harnesses; it does without the answers.
        repository, commit, file = found.groups() if found else ("", "", "")
        if not any(repository == name for name, _ in self.server.files):
            return self.refuse(401, "RepoNotFound")
        content = self.server.files.get((repository, commit))
        if content is None:
            return self.refuse(404, "RevisionNotFound")
        if file not in content:
            return self.refuse(404, "EntryNotFound")
        etag = hashlib.sha256(content[file]).hexdigest()
        self.reply(200, content[file], {"X-Repo-Commit": commit, "ETag": f'"{etag}"'})

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(f"PUT {self.path}")
        assert "Authorization" not in self.headers  # the address is a signed one of another house
        self.server.blobs[self.path.rpartition("/")[2]] = content
        self.reply(200)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append(f"POST {self.path}")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "Unauthorized")
        lines = [json.loads(line) for line in body.splitlines()]
        answer = getattr(self, self.path.split("?")[0].rsplit("/", 2)[-2].replace("-", "_"))(*lines)
        self.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    # Named after the second last part of the address: /api/repos/create, /api/models/o/m/commit/main, ...

    def repos(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"url": f"{self.server.url}/{asked['organization']}/{asked['name']}"}

    def api(self, card: dict[str, Any]) -> dict[str, Any]:  # /api/validate-yaml
        assert card["content"].startswith("---\nlicense: apache-2.0\n---\n")
        return {}

    def preupload(self, asked: dict[str, Any]) -> dict[str, Any]:
        def mode(path: str) -> str:
            return "lfs" if path.endswith(".safetensors") else "regular"

        return {
            "files": [
                {"path": file["path"], "uploadMode": mode(file["path"]), "shouldIgnore": False}
                for file in asked["files"]
            ]
        }

    def objects(self, asked: dict[str, Any]) -> dict[str, Any]:  # /o/m.git/info/lfs/objects/batch
        def upload(oid: str) -> dict[str, Any]:
            return {"upload": {"href": f"{self.server.url}/storage/{oid}"}}

        return {"objects": [{**each, "actions": upload(each["oid"])} for each in asked["objects"]]}

    def commit(self, header: dict[str, Any], *operations: dict[str, Any]) -> dict[str, Any]:
        repository = "/".join(self.path.split("/")[3:5])
        files = {}
        for operation in operations:
            value = operation["value"]
            large = operation["key"] == "lfsFile"
            files[value["path"]] = self.server.blobs[value["oid"]] if large else base64.b64decode(value["content"])
        oid = hashlib.sha1(repr(files).encode()).hexdigest()
        self.server.files[repository, oid] = files
        return {"commitUrl": f"{self.server.url}/{repository}/commit/{oid}", "commitOid": oid}


@dataclass
class House:
    """A machine with `sbm` on it, whose checkpoints.json is ours, and the hub that it knows."""

    tree: Path
    server: Hub
    environment: dict[str, str]

    def describe(self, **models: dict[str, Any]) -> None:
        (self.tree / "checkpoints.json").write_text(json.dumps({"default": next(iter(models)), "models": models}))

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run Python in a process of its own: the client reads its environment when it is imported."""
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=self.tree,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert "Traceback" not in done.stderr
        return done

    def sbm(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "sbm_cli", *arguments, **environment)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "sbm_cli").symlink_to(ROOT / "sbm_cli")
    (tree / "docs").symlink_to(ROOT / "docs")
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tree / "sitecustomize.py").write_text("import time; time.sleep = lambda _: None")  # before the client tries again
    # Nothing of the person who runs the tests: no proxy, no token, no cache.
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(tree),
        "HOME": str(tmp_path),
        "HF_HOME": str(tree / "cache"),
        "HF_ENDPOINT": server.url,
        "HF_HUB_DISABLE_XET": "1",
    }
    yield House(tree, server, environment)
    server.shutdown()
    server.server_close()


@pytest.fixture
def far(house: House, model_file: Path) -> dict[str, Any]:
    """Put a model on the hub, and its entry into checkpoints.json."""
    weights, config = model_file.read_bytes(), model_file.with_suffix(".json").read_bytes()
    house.server.files["owner/far", COMMIT] = {"far.safetensors": weights, "far.json": config}
    entry = {
        "source": "huggingface",
        "file": "far.safetensors",
        "config": "far.json",
        "bytes": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "config_sha256": hashlib.sha256(config).hexdigest(),
        "license": "Apache-2.0",
        "training_data": [],
        "scores": {},
        "command": "",
        "repository": "owner/far",
        "revision": COMMIT,
    }
    house.describe(far=entry)
    return entry


def test_a_model_is_fetched_once(house: House, far: dict[str, Any]) -> None:
    assert house.sbm("models", "list").stdout.split()[4:6] == ["Hugging", "Face"]
    assert house.sbm("models", "path").stderr.startswith("sbm: far: far.safetensors is not on this machine\n")
    assert house.server.asked == []
    fetched = house.sbm("models", "download")
    assert fetched.returncode == 0
    path = Path(fetched.stdout.strip())
    assert path.is_relative_to(house.tree / "cache")
    assert path.read_bytes() == house.server.files["owner/far", COMMIT]["far.safetensors"]
    assert len(house.server.downloads()) == 4  # head and body of weights and configuration
    for arguments in (["models", "download", "far", "--json"], ["models", "path"], ["models", "verify"]):
        assert house.sbm(*arguments).returncode == 0
    assert house.sbm("models", "list").stdout.split()[4] == "downloaded"
    assert house.server.asked == []  # what is in the cache needs no network
    offline = house.sbm("models", "download", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, fetched.stdout)


def test_enhance_fetches_and_then_needs_no_network(house: House, far: dict[str, Any], noisy: Path) -> None:
    first = house.sbm("enhance", noisy, "-o", "first.wav", "-m", "far")
    assert first.returncode == 0, first.stderr
    house.server.asked.clear()
    assert house.sbm("enhance", noisy, "-o", "second.wav").returncode == 0
    assert house.server.asked == []
    assert (house.tree / "first.wav").read_bytes() == (house.tree / "second.wav").read_bytes()


def test_a_corrupted_file_is_refused_and_replaced(house: House, far: dict[str, Any]) -> None:
    files = house.server.files["owner/far", COMMIT]
    whole = files["far.safetensors"]
    files["far.safetensors"] = whole[:-1] + bytes([whole[-1] ^ 1])
    bad = house.sbm("models", "download", "far")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "far.safetensors: damaged or changed (sha256 " in bad.stderr
    assert house.sbm("models", "verify").returncode == 1
    files["far.safetensors"] = whole
    assert house.sbm("models", "download", "far").returncode == 0
    assert house.sbm("models", "verify").stdout == "far: ok\n"


def test_what_is_damaged_in_the_cache_is_fetched_again(house: House, far: dict[str, Any]) -> None:
    path = Path(house.sbm("models", "download").stdout.strip())
    path.write_bytes(b"bits rot")
    house.server.asked.clear()
    assert house.sbm("models", "download").returncode == 0
    assert path.read_bytes() == house.server.files["owner/far", COMMIT]["far.safetensors"]
    assert len(house.server.downloads()) == 2  # the configuration was intact


def test_a_wrong_digest_is_refused(house: House, far: dict[str, Any]) -> None:
    house.describe(far={**far, "sha256": "0" * 64})
    result = house.sbm("models", "download")
    assert result.returncode == 1
    assert "expected 000000000000…)\n     Download it: sbm models download far\n" in result.stderr


def test_a_cut_connection_is_taken_up_again(house: House, far: dict[str, Any]) -> None:
    house.server.cuts = 1
    assert house.sbm("models", "download").returncode == 0
    assert [line.split()[0] for line in house.server.downloads()] == ["HEAD", "GET", "GET", "HEAD", "GET"]


def test_a_connection_that_is_cut_again_and_again_is_one_message(house: House, far: dict[str, Any]) -> None:
    house.server.cuts = 100
    result = house.sbm("models", "download")
    assert (result.returncode, result.stdout) == (1, "")
    assert "sbm: far: downloading far.safetensors failed (" in result.stderr
    assert list(house.tree.rglob("blobs/*")) == []


@pytest.mark.parametrize(
    "environment", [{"HF_ENDPOINT": "http://127.0.0.1:1"}, {"HF_HUB_OFFLINE": "1"}], ids=["no network", "offline"]
)
def test_without_a_network_there_is_one_message(house: House, far: dict[str, Any], environment: dict[str, str]) -> None:
    result = house.sbm("models", "download", "far", **environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert "sbm: far: not on this machine, and the network cannot be used" in result.stderr
    assert f"https://huggingface.co/owner/far/tree/{COMMIT}" in result.stderr
    assert house.server.asked == []


@pytest.mark.parametrize(
    "change", [{"repository": "owner/none"}, {"revision": "f" * 40}, {"file": "x.safetensors", "config": "x.json"}]
)
def test_what_the_hub_does_not_have(house: House, far: dict[str, Any], change: dict[str, str]) -> None:
    house.describe(far={**far, **change})
    result = house.sbm("models", "download")
    assert result.returncode == 1
    assert re.match(r"sbm: far: owner/\w+ has no \w+\.safetensors at commit \w{12}, or it is private\n", result.stderr)


def test_publish_uploads_what_download_then_finds(house: House) -> None:
    name, checkpoints = hub.default_name(), house.tree / "checkpoints.json"
    checkpoints.write_bytes((ROOT / "checkpoints.json").read_bytes())
    publish = (ROOT / "tools" / "publish.py", "owner/tiny", name)
    assert "publish: Client error '401 Unauthorized'" in house.run(*publish).stderr  # without a token
    assert checkpoints.read_bytes() == (ROOT / "checkpoints.json").read_bytes()
    done = house.run(*publish, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    ((repository, commit), files) = next(iter(house.server.files.items()))
    assert (repository, f"{commit}\n") == ("owner/tiny", done.stdout)
    weights = hub.resolve(name)
    assert files == {
        f"{name}.safetensors": weights.read_bytes(),
        f"{name}.json": weights.with_suffix(".json").read_bytes(),
        "README.md": files["README.md"],
    }
    card = files["README.md"].decode()
    original = (ROOT / "docs" / "models" / f"{name}.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n---\n\n" + original.partition("\n")[0])
    assert all(re.match(r"https?:|#", target) for target in re.findall(r"\]\((\S+?)\)", card))
    entry = json.loads(checkpoints.read_text())["models"][name]
    before = json.loads((ROOT / "checkpoints.json").read_text())["models"][name]
    assert entry == before | {"repository": repository, "revision": commit}
    house.describe(**{name: entry | {"source": "huggingface"}})
    path = Path(house.sbm("models", "download", HF_HOME=str(house.tree / "another")).stdout.strip())
    assert path.read_bytes() == weights.read_bytes()
    assert (path.stat().st_size, hub.digest(path)) == (entry["bytes"], entry["sha256"])


def test_links_of_a_card_lead_to_the_project() -> None:
    links = runpy.run_path(str(ROOT / "tools" / "publish.py"))["with_absolute_links"]
    card = "[log](../log.md#a), [tiny](tiny.md), ![loss](a.svg), [paper](https://arxiv.org/x), [below](#data)"
    assert links(card, "https://x.org/sbm") == (
        "[log](https://x.org/sbm/blob/main/docs/log.md#a), [tiny](https://x.org/sbm/blob/main/docs/models/tiny.md), "
        "![loss](https://x.org/sbm/raw/main/docs/models/a.svg), [paper](https://arxiv.org/x), [below](#data)"
    )
    assert links(card, "") == "log, tiny, loss, [paper](https://arxiv.org/x), [below](#data)"
