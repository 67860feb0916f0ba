"""The page, alive in a browser: files in, sound and pictures out, by mouse, by keys and at the width of a phone."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from sbm_cli.serve.jobs import Limits
from tests.conftest import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import Browser
    from tests.serve.conftest import Server

HOSTILE = "<img src=x onerror=document.title=1>\u202e & 'talk'.wav"
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "b": 66}
DONE = "cards.size === {} && [...cards.values()].every(card => !card.get('.result').hidden)"


class Page:
    """What a person does on a page."""

    def __init__(self, browser: Browser, address: str) -> None:
        self.browser = browser
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            browser.call(f"{domain}.enable")
        browser.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && typeof about === 'object'")

    def run(self, script: str) -> Any:
        return self.browser.run(script)

    def wait(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while self.run(condition) is not True:
            assert time.monotonic() < end, condition
            time.sleep(0.05)

    def choose(self, *paths: Path) -> None:
        root = self.browser.call("DOM.getDocument")["root"]["nodeId"]
        node = self.browser.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
        self.browser.call("DOM.setFileInputFiles", files=[str(path) for path in paths], nodeId=node)

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(() => {{const place = document.querySelector({selector!r}).getBoundingClientRect();"
            "return [place.x + place.width / 2, place.y + place.height / 2]})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        text = {"Enter": "\r", "Tab": "", "ArrowRight": ""}.get(key, key)
        for kind in ("keyDown", "keyUp"):
            self.browser.call(
                "Input.dispatchKeyEvent", type=kind, key=key, text=text, windowsVirtualKeyCode=KEYS[key], code=key
            )

    def tab_to(self, selector: str) -> None:
        for _ in range(60):
            self.press("Tab")
            if self.run(f"document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(f"no key leads to {selector}")

    def check(self, server: Server) -> None:
        """Check that nothing went wrong that a person would not see."""
        methods = [event["method"] for event in self.browser.events if "method" in event]
        assert not {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"} & set(methods)
        asked = [
            e["params"]["request"]["url"] for e in self.browser.events if e.get("method") == "Network.requestWillBeSent"
        ]
        assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "data:", "blob:")) for url in asked)


@pytest.fixture
def page(browser: Browser, server: Server) -> Page:
    return Page(browser, f"http://127.0.0.1:{server.port}/")


@pytest.fixture
def talk(server: Server, tmp_path: Path) -> Path:
    """An m4a of two seconds, in stereo at 48 kHz."""
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, (96000, 2))
    soundfile.write(tmp_path / "talk.wav", sound, 48000)
    server.enhancer.enhance_file(tmp_path / "talk.wav", tmp_path / "talk.m4a")
    return tmp_path / "talk.m4a"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / HOSTILE
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, 32000), 16000)
    return path


def test_files_go_in_and_come_out(page: Page, server: Server, talk: Path, hostile: Path) -> None:
    page.choose(talk, hostile)
    page.wait(DONE.format(2))
    assert page.run("[...document.querySelectorAll('h2')].map(head => head.textContent)") == [HOSTILE, "talk.m4a"]
    assert page.run("[document.title, document.images.length]") == ["sbm: clean speech", 0]
    first = "[...cards.values()][0]"  # the first that was sent
    assert page.run(f"{first}.all('canvas').map(canvas => canvas.height)") == [256, 256]
    assert page.run(f"{first}.get('.download').download") == "talk-clean.m4a"
    assert page.run(f"{first}.job.listening") == {
        **{"rate": 48000, "channels": [2, 2], "rows": 256, "columns": 1000},
        "samples": page.run(f"{first}.job.seconds * 48000"),
    }
    size = page.run(f"fetch({first}.get('.download').href).then(answer => answer.blob()).then(blob => blob.size)")
    assert size == page.run(f"{first}.job.bytes") > 5000

    assert page.run("wishes().toString()") == ""  # all stands at its default
    page.run("document.querySelector('#strength').value = 0.5; settingsChanged()")
    page.wait("cards.size === 2 && [...cards.values()].every(card => !card.get('.again').hidden)")
    page.click("article:last-child .again")
    page.wait(f"{first}.job.query === 'strength=0.5' && !{first}.get('.result').hidden")
    assert page.run(f"{first}.get('.again').hidden")

    page.browser.call("Page.reload")  # and nothing is lost
    page.wait(f"typeof cards === 'object' && {DONE.format(2)}")
    for _ in range(2):
        page.click(".remove")
    page.wait("cards.size === 0 && !document.querySelector('article')")
    assert server.is_empty()
    page.check(server)


def test_before_and_after_are_played_from_one_clock(page: Page, server: Server, hostile: Path) -> None:
    page.choose(hostile)
    page.wait(DONE.format(1))
    sound, _ = soundfile.read(hostile, dtype="int16")
    played = "current.player.fetch(0.1).then(pair => pair.map(buffer => [...buffer.getChannelData(0)]))"
    before, after = page.run(played)
    assert np.array_equal(np.array(before) * 2**15, sound[1600:]) and len(after) == len(before)
    page.click(".play")
    page.wait("current.player.position > 0.1")
    assert page.run("current.get('.play').textContent") == "Pause"
    page.click(".side label")
    assert page.run("[current.player.side, current.get('.heard figcaption').textContent]") == [0, "Before"]
    page.wait("current.player.gains[0].gain.value > 0.9 && current.player.gains[1].gain.value < 0.1")
    page.wait("!current.player.playing && current.player.start === current.player.duration")  # at its end
    page.click(".pictures")
    assert page.run("current.player.start / current.player.duration") == pytest.approx(0.5, abs=0.01)
    page.click(".remove")
    page.check(server)


def test_all_of_it_by_keys_alone(page: Page, server: Server, hostile: Path) -> None:
    page.tab_to("#files")
    page.tab_to("#record")
    page.tab_to("#strength")
    page.choose(hostile)
    page.wait(DONE.format(1))
    page.tab_to(".position")
    page.press("ArrowRight")
    assert page.run("current.player.start > 0")
    page.tab_to(".play")
    page.press("Enter")
    page.wait("current.player.playing")
    page.press("b")
    assert page.run("current.player.side") == 0
    page.tab_to(".download")
    page.run("document.activeElement.blur()")
    page.press(" ")
    page.wait("current.get('.play').textContent === 'Play' || !current.player.playing")
    page.tab_to(".remove")
    page.press("Enter")
    page.wait("cards.size === 0")
    page.check(server)


def test_a_recording_from_the_microphone(page: Page, server: Server) -> None:
    page.click("#record")
    page.wait("recorder?.seconds > 1.2")  # the browser's microphone beeps once in a second
    assert page.run("document.querySelector('#record').textContent").startswith("Stop 0:0")
    page.click("#record")
    page.wait(DONE.format(1))
    sound, rate = soundfile.read(
        io.BytesIO(server("GET", f"/jobs/{page.run('[...cards.keys()][0]')}/file").body), dtype="int16"
    )
    assert len(sound) > 1.2 * rate and np.abs(sound).max() > 1000
    assert page.run("document.querySelector('h2').textContent").endswith(".wav")
    page.click(".remove")
    page.check(server)


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(page: Page, server: Server, talk: Path, dark: bool) -> None:
    page.browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.browser.call("Emulation.setEmulatedMedia", features=[feature])
    name = talk.with_name("a_very_long_name_without_a_single_space_" * 2 + ".m4a")
    page.choose(talk.rename(name))
    page.wait(DONE.format(1))
    assert page.run("document.documentElement.scrollWidth") <= 390
    assert page.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 23, 26)" if dark else "rgb(250, 249, 246)"
    )
    page.click(".remove")
    page.check(server)


def test_what_goes_wrong_is_told(page: Page, server: Server, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no sound at all")
    (tmp_path / "huge.wav").write_bytes(bytes(3_000_001))
    page.choose(tmp_path / "notes.txt", tmp_path / "huge.wav")
    page.wait("[...document.querySelectorAll('article .problem')].every(problem => !problem.hidden)")
    huge, notes = page.run("[...document.querySelectorAll('article .problem')].map(problem => problem.textContent)")
    assert huge.startswith("larger than 3 MB.") and notes.startswith("notes.txt: ")
    for _ in range(2):
        page.click(".remove")
    page.wait("!document.querySelector('article')")


def test_what_is_removed_while_it_is_sent_is_gone(
    serving: Callable[..., Server], browser: Browser, tmp_path: Path
) -> None:
    server = serving()
    page = Page(browser, f"http://127.0.0.1:{server.port}/")
    soundfile.write(tmp_path / "long.wav", np.zeros(2**22), 16000)
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2**22}
    browser.call("Network.emulateNetworkConditions", **slow)
    page.choose(tmp_path / "long.wav")
    page.wait("document.querySelector('article progress')?.value > 0")
    page.click(".remove")
    assert server.is_empty()
    time.sleep(2)  # until all would have been sent
    assert page.run("cards.size") == 0 and server.is_empty()


def test_it_asks_now_and_then_however_short_recordings_are_kept(
    serving: Callable[..., Server], browser: Browser, talk: Path
) -> None:
    server = serving(limits=Limits(keep=0))
    page = Page(browser, f"http://127.0.0.1:{server.port}/")
    page.choose(talk)
    page.wait(DONE.format(1))
    page.run("(performance.clearResourceTimings(), new Promise(go => setTimeout(go, 2500)))")
    assert page.run("performance.getEntriesByType('resource').length") < 5


def test_settings_that_are_refused_leave_the_result(page: Page, server: Server, talk: Path) -> None:
    page.choose(talk)
    page.wait(DONE.format(1))
    page.run("(find('#loudness').value = 5, settingsChanged(), current.again())")
    page.wait("!document.querySelector('article .problem').hidden")
    assert page.run("document.querySelector('article .problem').textContent").startswith("loudness must be between")
    assert page.run(DONE.format(1)) is True
    page.run("(find('#loudness').value = -20, settingsChanged())")
    page.click(".again")
    page.wait("document.querySelector('article .problem').hidden && " + DONE.format(1))
    page.click(".remove")


def test_with_a_token_the_page_works_as_well(serving: Callable[..., Server], browser: Browser, hostile: Path) -> None:
    server = serving(token="secret", hosts=None)
    # As from a link in a mail, which is a page of another site.
    link = f"location = 'http://127.0.0.1:{server.port}/?token=secret'"
    page = Page(browser, f"data:text/html,<script>{link}</script>")
    assert page.run("location.search") == ""
    page.choose(hostile)
    page.wait(DONE.format(1))
    page.check(server)
    assert server("GET", "/about").status == 401
