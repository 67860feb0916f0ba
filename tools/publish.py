"""Publish a model on Hugging Face: upload weights, configuration and card, and note the commit in checkpoints.json.

    HF_TOKEN=hf_... python tools/publish.py owner/name sbm-tiny        the same as make publish REPO=... MODEL=...

The model must have an entry (tools/release.py) and a card, docs/models/NAME.md. A bundled one stays bundled: to take it
out of the wheel, delete its two files in sbm_cli/weights and set its "source" to "huggingface" afterwards.
"""

from __future__ import annotations

import argparse
import json
import posixpath
import re
import sys
from importlib.metadata import metadata
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download

from sbm_cli import hub
from sbm_cli.errors import SbmError


def publish(repository: str, name: str) -> str:
    """Upload the model, fetch it back, and return the commit once it holds what was meant to be there."""
    model = hub.entry(name)
    weights = hub.resolve(name)
    path = hub.checkpoints_path()
    text = (path.parent / "docs" / "models" / f"{name}.md").read_text(encoding="utf-8")
    card = with_absolute_links(text, project_url())
    files = {
        model.file: weights,
        model.config: weights.with_suffix(".json"),
        "README.md": f"---\nlicense: {model.license.lower()}\n---\n\n{card}".encode(),
    }
    api = HfApi()
    api.create_repo(repository, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    revision = api.create_commit(repository, operations, commit_message=f"{name} {model.sha256[:12]}").oid
    for file, sha256 in model.digests.items():
        if hub.digest(Path(hf_hub_download(repository, file, revision=revision))) != sha256:
            raise SbmError(f"{repository} at {revision}: {file} is not what was uploaded")
    document = json.loads(path.read_text(encoding="utf-8"))
    document["models"][name] |= {"repository": repository, "revision": revision}  # bytes and sha256 were compared
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return revision


def with_absolute_links(card: str, url: str) -> str:
    """Return a card whose relative links, dead on the hub, lead to the project; without its address they are text."""

    def absolute(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        place = posixpath.normpath(f"docs/models/{target}")
        return f"{mark}[{words}]({url}/{'raw' if mark else 'blob'}/main/{place})" if url else words

    return re.sub(r"(!?)\[([^]]*)\]\(([^)\s]+)\)", absolute, card)


def project_url() -> str:
    """Return the address of the repository, `Repository` in [project.urls] of pyproject.toml, "" if it has none."""
    urls = dict(entry.split(", ", 1) for entry in metadata("sbm-cli").get_all("Project-URL") or [])
    return urls.get("Repository", "").rstrip("/")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument("model", metavar="MODEL", help="a name of `sbm models list`")
    arguments = parser.parse_args()
    try:
        print(publish(arguments.repository, arguments.model))
    except (SbmError, OSError) as error:
        sys.exit(f"publish: {error}")
