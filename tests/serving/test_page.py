"""The page in a browser, headless: the form from the schema, samples as they form, cancel, history, recall, the grid, the slider,
the keyboard, the phone; and nothing that keeps people out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
sync = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
if BROWSER is None:
    pytest.skip("no chromium here", allow_module_level=True)

from tests.serving.small import Server, served, taken  # noqa: E402

pytestmark = pytest.mark.slow
WAIT = 60_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    with served(taken(folder, "classes", "classes_map", "policy"), folder, "--most-steps", "10000") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync.sync_playwright() as play:
        found = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = context.new_page()
    found.set_default_timeout(WAIT)
    said: list[str] = []
    elsewhere: list[str] = []
    found.on("console", lambda message: said.append(message.text)
             if message.type == "error" and "Failed to load resource" not in message.text else None)  # fmt: skip
    found.on("pageerror", lambda error: said.append(str(error)))
    own = f"http://localhost:{server.port}"
    found.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith((own, "data:", "blob:")) else None)
    found.goto(own)
    found.wait_for_selector("body[data-ready=true]")
    yield found
    context.close()
    assert said == []
    assert elsewhere == []


def done(page: Any) -> None:
    page.wait_for_selector(".card .state.done")


def test_the_form_follows_the_schema_of_the_run(page: Any):
    assert page.locator("#q-label option").all_inner_texts() == ["as usual", "blue", "green", "red"]
    assert page.locator("#q-vector").count() == 0  # the run has learned none
    page.select_option("#run", "policy")
    assert page.locator("#w-field").is_hidden()
    assert page.input_value("#steps") == "8"


def test_samples_form_and_are_kept_with_the_command_that_makes_them(page: Any):
    page.select_option("#q-label", "green")
    page.fill("#n", "3")
    page.fill("#steps", "60")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".card[data-first]")  # a look on the way
    done(page)
    page.wait_for_selector("#history li")
    assert page.locator(".card .things img").count() == 3
    assert page.locator(".command code").inner_text() == "sfumato sample classes -n 3 --seed 0 --label green --steps 60"
    page.fill("#seed", "99")
    page.locator("#history li button:text-is('Seed')").click()
    assert page.input_value("#seed") == "0"
    page.select_option("#q-label", "red")
    page.locator("#history li button:text-is('Use')").click()
    assert page.input_value("#q-label") == "green"
    page.reload()
    page.wait_for_selector("#history li")
    page.locator("#history li button:text-is('Look')").click()
    page.wait_for_selector("#dialog .things img")
    assert page.input_value("#seed") == "0"  # looking changes nothing in the form


def test_a_long_walk_is_given_up(page: Any):
    page.fill("#n", "64")
    page.fill("#steps", "10000")  # so long that no browser is too slow to give it up
    page.click("#go")
    page.wait_for_selector(".card progress")
    page.click("text=Cancel")
    page.wait_for_selector(".card .state.cancelled")


def test_what_is_wrong_is_said_beside_the_form(page: Any):
    page.click("summary")
    page.fill("#k-solver", "eulr")
    page.click("#go")
    page.wait_for_selector("#k-solver[aria-invalid=true]")
    assert "did you mean 'euler'" in page.inner_text("#complaint")
    assert page.evaluate("document.activeElement.id") == "k-solver"


def test_a_dropped_thing_fills_the_form(page: Any, server: Server, tmp_path: Path):
    job = server.draw(run="classes_map", n=2, seed=41, query={"label": "blue"}, walk={"steps": 3})
    (tmp_path / "thing.png").write_bytes(server.ask("GET", job["things"][1]["url"])[1])
    page.set_input_files("#file", tmp_path / "thing.png")
    sync.expect(page.locator("#seed")).to_have_value("41", timeout=WAIT)
    assert page.input_value("#run") == "classes_map"
    assert page.input_value("#q-label") == "blue"
    assert page.input_value("#steps") == "3"


def test_the_making_of_a_thing_that_is_no_picture_is_saved_and_recalled(page: Any, tmp_path: Path):
    page.select_option("#run", "policy")
    page.fill("#seed", "77")
    page.fill("#steps", "5")
    page.fill("#n", "1")
    page.click("#go")
    done(page)
    with page.expect_download() as download:
        page.click("figcaption button:text-is('Making')")
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    with page.expect_download() as download:
        page.click("figcaption button:text-is('Save npy')")
    assert download.value.suggested_filename == "0000.npy"
    page.fill("#seed", "1")
    page.fill("#steps", "9")
    page.select_option("#run", "classes")
    page.set_input_files("#file", file)
    sync.expect(page.locator("#seed")).to_have_value("77", timeout=WAIT)
    assert (page.input_value("#run"), page.input_value("#steps")) == ("policy", "5")


def test_a_grid_over_two_things_and_two_cards_side_by_side(page: Any):
    page.click("#plot")
    page.select_option("#axis-x", "steps")
    page.fill("#values-x", "2, 4")
    page.select_option("#axis-y", "label")
    page.fill("#values-y", "red, blue")
    page.click("text=Draw the grid")
    page.wait_for_selector("table[data-done=true]")
    assert page.locator("table[data-done=true] img").count() == 4
    for seed in ("1", "2"):
        page.fill("#seed", seed)
        page.fill("#n", "1")
        page.click("#go")
        done(page)
        page.wait_for_selector(f"#history li:nth-child({seed})")
    for i in range(2):
        page.locator("#history li").nth(i).locator("button:text-is('Mark')").click()
    page.click("#compare")
    page.wait_for_selector("#dialog .pair .card")
    assert page.locator("#dialog tbody th").all_inner_texts() == ["seed"]


def test_the_slider_goes_into_noise_and_back(page: Any):
    page.click("summary")
    page.check("#film")
    page.fill("#n", "1")
    page.fill("#steps", "5")
    page.click("#go")
    page.wait_for_selector(".film:not([hidden]) input[type=range]")
    slider = page.locator(".film input[type=range]")
    seen = set()
    slider.focus()
    page.keyboard.press("Home")
    for _ in range(11):
        page.wait_for_timeout(30)
        seen.add(page.inner_text(".film output"))
        page.keyboard.press("ArrowRight")
    assert any("noise added, 5 of 5" in each for each in seen)
    assert any("after step 4 of 5" in each for each in seen)
    assert "the sample" in seen


def test_all_of_it_is_done_by_the_keyboard(page: Any):
    reached = []
    page.keyboard.press("Tab")
    for _ in range(40):
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className || ''"))
        if reached[-1] == "go":
            break
        page.keyboard.press("Tab")
    assert {"run", "q-label", "n", "seed", "steps", "go"} <= set(reached)
    page.keyboard.press("Enter")
    done(page)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_nobody_is_kept_out(page: Any, dark: bool, width: int):
    """No serious fault of access by axe, no line of text of less contrast than 4.5, nothing wider than a phone."""
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.fill("#n", "2")
    page.click("#go")
    done(page)
    page.wait_for_selector("#history li")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    axe = pytest.importorskip("axe_core_python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text()
    page.evaluate(source)
    found = page.evaluate("axe.run()")
    serious = [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found["violations"]
               if each["impact"] in ("serious", "critical")]  # fmt: skip
    assert serious == []


def test_the_page_is_ours_alone():
    """No other origin is named in it, nothing is built, nothing stands in it that the policy would stop."""
    folder = Path(__file__).parents[2] / "src" / "sfumato" / "serving" / "page"
    for name in ("index.html", "app.js", "style.css"):
        text = (folder / name).read_text()
        assert not re.search(r"https?://|@import|//cdn", text.replace("http://www.w3.org/2000/svg", "")), name
    page = (folder / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=", page)
