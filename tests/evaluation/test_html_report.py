"""The report: one file without a network, names that cannot harm it, and all of it alive in a browser."""

from __future__ import annotations

import os
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sbm_cli.audio.samples import Samples
from sbm_cli.evaluation.folders import Item
from sbm_cli.evaluation.html_report import chosen, make_player, to_html
from sbm_cli.evaluation.report import Evaluation, summarise
from sbm_cli.evaluation.scoring import evaluate

if TYPE_CHECKING:
    from tests.conftest import Browser

HOSTILE = (
    "\"'><script>document.title='broken'</script><img src=x onerror=alert(1)> $title & a_very_long_name" + 60 * "x"
)


class Quieter:
    name, timed = "<b>quieter</b>", True

    def enhance(self, id: str, noisy: Samples) -> Samples:
        return noisy / 2


@pytest.fixture(scope="module")
def html() -> str:
    rng = np.random.default_rng(0)
    names = (HOSTILE, "b", "c", "broken")

    def load(name: str) -> tuple[Samples, Samples]:
        if name == "broken":
            raise OSError(5, "gone")
        clean = rng.uniform(-0.3, 0.3, 8000).astype(np.float32)
        return clean + rng.normal(0, 0.01 + 0.05 * len(name) % 0.1, 8000).astype(np.float32), clean

    items = [Item(name, "a half", lambda name=name: load(name)) for name in names]  # type: ignore[misc]
    players = []
    metrics = ["si_sdr"]
    records = list(
        evaluate(
            items,
            [Quieter()],
            metrics,
            on_item=lambda number, item, sounds: players.append(make_player(item, sounds)) if number < 2 else None,
        )
    )
    result = Evaluation("a <set>", records, summarise(records, metrics), {"pesq": "not installed"})
    return to_html(result, players, "Scored & shown.")


class Reader(HTMLParser):
    """Collects tags, attributes and text, and knows whether every tag that was opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_is_whole_and_needs_no_network(html: str) -> None:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    kinds = [tag for tag, _ in reader.tags]
    assert (kinds.count("audio"), kinds.count("img"), kinds.count("script"), kinds.count("svg")) == (4, 3, 1, 0)
    assert not {"link", "iframe", "object", "embed", "base"} & set(kinds)
    for _, attributes in reader.tags:
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?:|url\(|@import|fetch\(", html)
    assert sum(attributes.get("src", "")[:15] == "data:audio/flac" for _, attributes in reader.tags) == 4  # type: ignore[index]


def test_names_are_text_and_nothing_else(html: str) -> None:
    reader = Reader()
    reader.feed(html)
    assert HOSTILE in reader.text and "<b>quieter</b>" in reader.text
    assert not any(name.startswith("on") for _, attributes in reader.tags for name in attributes)
    assert {tag for tag, _ in reader.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "section", "script"),
        *("table", "thead", "tbody", "tr", "th", "td", "button", "audio", "img"),
    }


def test_players_stand_evenly_over_the_set() -> None:
    assert chosen(824, 4) == [0, 206, 412, 618]
    assert chosen(3, 12) == [0, 1, 2]
    assert chosen(10, 0) == []


def test_the_report_lives_in_a_browser(html: str, browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    for domain in ("Page", "Runtime", "Log", "Network"):
        browser.call(f"{domain}.enable")
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.call("Emulation.setEmulatedMedia", features=[dark])
    browser.call("Page.navigate", url=path.as_uri())
    loaded = "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', () => done()))"
    while browser.run("location.href") != path.as_uri():
        pass
    browser.run(loaded)
    assert browser.run("document.title") == "Evaluation on a <set>"

    players = """Promise.all([...document.querySelectorAll("audio")].map(player => new Promise((done, failed) => {
        const ready = () => done([player.readyState >= 1, player.duration]);
        if (player.readyState >= 1) ready();
        setTimeout(() => failed("a player that does not load"), 20000);
        player.addEventListener("loadedmetadata", ready);
        player.addEventListener("error", () => failed(player.error.message));
    })))"""
    assert browser.run(players) == [[True, 0.5]] * 4
    assert browser.run("[...document.images].map(image => image.complete && image.width > 500)") == [True] * 3

    for number in range(4):
        browser.run(f"document.querySelectorAll('audio')[{number}].focus()")
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", text=" ", windowsVirtualKeyCode=32)
        played = f"""new Promise((done, failed) => {{
            const player = document.querySelectorAll("audio")[{number}];
            setTimeout(() => failed("a player that does not play"), 20000);
            const look = () => player.currentTime > 0 ? done(true) : setTimeout(look, 20);
            look();
        }})"""
        assert browser.run(played)

    column = """[...document.querySelectorAll("[tabindex] table")].at(-1).tBodies[0].rows"""
    scores = f"[...{column}].map(row => row.cells[4].textContent)"
    before = browser.run(scores)
    numbers = sorted(float(text) for text in before if text != "–")
    assert before.count("–") == 2
    browser.run("""document.querySelectorAll("th button")[4].click()""")
    assert browser.run(scores) == [f"{x:.3f}" for x in numbers] + ["–"] * 2
    browser.run("""document.querySelectorAll("th button")[4].focus()""")
    for kind in ("keyDown", "keyUp"):
        browser.call(
            "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
        )
    assert browser.run(scores) == [f"{x:.3f}" for x in reversed(numbers)] + ["–"] * 2
    assert browser.run("""document.querySelectorAll("th button")[4].parentElement.ariaSort""") == "descending"

    assert browser.run("innerWidth") == 390
    assert browser.run("document.documentElement.scrollWidth") <= 390
    cards = "[...document.querySelectorAll('.cards td')].map(cell => cell.getBoundingClientRect())"
    assert browser.run(f"Math.max(...{cards}.map(box => box.right))") <= 390
    assert len(set(browser.run(f"{cards}.map(box => box.top)"))) == browser.run(f"{cards}.length")  # one below another
    if pictures := os.environ.get("SBM_SCREENSHOTS"):
        shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(pictures, "report.png").write_bytes(b64decode(shot))
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 22)"
    methods = [event["method"] for event in browser.events if "method" in event]
    assert not {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} & set(methods)
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
