"""The page in a real browser: what it shows, how it is used, and that it is silent."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recon_cli.conflicts.runs import Run
from recon_cli.errors import printable
from recon_cli.relations.relate import relate_tasks
from recon_cli.report.content import Content
from recon_cli.report.page import page_of
from tests.relations.making import of_five_tasks
from tests.report.making import HOSTILE, chain, content, scores

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is found on PATH"),
]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a page from its file; it may say nothing, raise nothing and ask for nothing."""
    heard: list[str] = []
    contexts = []

    def opened(said: Content, **options: Any) -> Any:
        path = tmp_path / "report.html"
        path.write_bytes(page_of(said))
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: heard.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: request.url == path.as_uri() or heard.append(f"request: {request.url}"))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [line for line in heard if line != "request: data:,"] == []


def some_content(**parts: Any) -> Content:
    """Three layers: `conv` conflicts most, then `fc`, then `norm`, which comes first by name in no order."""
    layers = {
        "conv": [[-0.5, -0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]],
        "norm": [[0.5] * 4, [-0.5, 0.5, 0.5, 0.5]],
        "fc": [[-0.5, -0.5, 0.5, 0.5], [0.5] * 4],
    }
    return content(scores(layers, sizes=[500, 40, 60], flow=chain(list(layers), flops=[10, 20, 70])), **parts)


def before_and_after() -> Content:
    before = scores({"conv": [[-0.5, -0.5]], "fc": [[-0.5, 0.5]]})
    after = scores({"fc": [[0.5, 0.5]]})
    return content(before, runs=(Run("joint", before), Run("recon", after)))


def names_in(page: Any, section: str) -> list[str]:
    """The layers of a table in the order in which they are seen."""
    return page.locator(f"#{section} tbody tr:visible th[scope=row] bdi").all_inner_texts()


def row(page: Any, section: str, layer: str) -> list[str]:
    line = page.locator(f"#{section} tbody tr", has=page.get_by_text(layer, exact=True))
    return [text.strip() for text in line.first.locator("td").all_inner_texts()]


def test_the_page_shows_what_was_found(open_page):
    page = open_page(some_content())
    assert page.title() == page.locator("h1").inner_text() == "Conflicting gradients of left and right"
    heads = ["Overview", "Ranking", "Layers and stages", "Cosines", "Tasks", "Cost of a split", "Where it comes from"]
    assert page.locator("h2").all_inner_texts() == heads
    assert names_in(page, "ranking") == ["conv", "fc", "norm"]
    assert row(page, "ranking", "conv")[:5] == ["1", "Linear", "5", "62.5%", "30.6 to 86.3%"]
    assert names_in(page, "stages") == ["conv", "norm", "fc"]
    assert row(page, "stages", "conv") == ["1", "75.0%", "50.0%", "62.5%"]
    assert page.locator("#stages tfoot td").all_inner_texts() == ["", "75.0%", "50.0%", "62.5%"]
    assert page.locator("#cosines figcaption").first.inner_text() == "all shared layers, as one: 8 pairs"
    assert page.locator(".minis figcaption").all_inner_texts() == ["conv\n62.5%", "fc\n25.0%", "norm\n12.5%"]
    assert (
        "K = 2: 87.5% of the conflicts, +560 parameters (93.33%, 0.00 MB), 2.00 \u00d7"
        in page.locator("#costs").inner_text()
    )
    assert page.locator("nav a").count() == 6


def test_every_table_has_heads_and_every_picture_a_name(open_page):
    page = open_page(some_content())
    for table in page.locator("table").all():
        assert table.locator("thead th[scope=col]").count() > 0
        assert table.locator("tbody tr").count() == table.locator("tbody th[scope=row]").count()
    for picture in page.locator("svg").all():
        assert picture.get_attribute("aria-label") or picture.get_attribute("aria-hidden") == "true"
    assert page.locator("[role=region]").count() == page.locator("[role=region][aria-label]").count()
    assert page.locator("input:not([type=checkbox]), select").count() == 3
    for field in page.locator("input, select").all():
        assert field.evaluate("field => field.labels.length") == 1


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(open_page):
    page = open_page(some_content())
    head = page.locator("#ranking th", has_text="Parameters")
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names_in(page, "ranking") == ["conv", "fc", "norm"]
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert names_in(page, "ranking") == ["norm", "fc", "conv"]
    by_name = page.locator("#ranking th", has_text="Layer")
    by_name.locator("button").focus()
    page.keyboard.press("Space")
    assert (by_name.get_attribute("aria-sort"), head.get_attribute("aria-sort")) == ("ascending", "none")
    assert names_in(page, "ranking") == ["conv", "fc", "norm"]


def test_what_is_not_known_is_sorted_last_both_ways(open_page):
    page = open_page(before_and_after())
    button = page.locator("#changes h3 ~ .scroll th", has_text="recon").first.locator("button")
    for _ in range(2):
        button.click()
        assert page.locator("#changes h3 ~ .scroll tbody th bdi").all_inner_texts() == ["fc", "conv"]


def test_search_finds_layers_everywhere(open_page):
    page = open_page(some_content())
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("LINEAR c")
    assert names_in(page, "ranking") == ["conv", "fc"]
    page.keyboard.type("o")
    assert names_in(page, "ranking") == names_in(page, "stages") == ["conv"]
    assert page.locator(".minis figure:visible").count() == 1
    assert page.locator("#found").inner_text() == "1 of 3 layers"
    page.keyboard.press("Escape")
    assert len(names_in(page, "ranking")) == 3
    assert page.locator("#found").inner_text() == ""


def test_arrows_walk_over_the_layers_and_enter_shows_one(open_page):
    page = open_page(some_content())
    focused = "document.activeElement.querySelector('th').innerText"
    assert page.locator("#ranking tbody tr[tabindex='0']").count() == 1
    page.locator("#ranking tbody tr[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "fc"
    page.keyboard.press("End")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == "norm"
    page.keyboard.press("Home")
    assert page.evaluate(focused) == "conv"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    current = page.locator("[aria-current=true]")
    assert {text.split("\n")[0].split("\t")[-1] for text in current.locator("bdi").all_inner_texts()} == {"fc"}
    assert current.count() == 3
    assert page.locator("#of option:checked").inner_text() == "fc"
    assert page.locator("#cosines figcaption").first.inner_text() == "fc: 8 pairs"
    page.keyboard.press("Enter")
    assert page.locator("#of option:checked").inner_text() == "all shared layers, as one"
    page.locator("#of").select_option("norm")
    assert page.locator("#ranking [aria-current=true] th").inner_text() == "norm"


def test_everything_can_be_reached_by_the_tab_key_and_is_seen_there(open_page):
    page = open_page(some_content())
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        name = page.evaluate("document.activeElement.id || document.activeElement.tagName")
        if name == "BODY":
            break
        assert outline != "none", name
        reached.append(name)
    assert {"search", "theme", "of", "k", "TR", "BUTTON", "A", "SUMMARY"} <= set(reached)


def test_the_slider_tells_the_cost_at_every_k(open_page):
    page = open_page(some_content())
    page.locator("#k").focus()
    page.keyboard.press("Home")
    reading = page.locator("#costs .reading")
    assert reading.inner_text().startswith("K = 1: 62.5% of the conflicts, +500 parameters (83.33%")
    page.keyboard.press("End")
    assert reading.inner_text().startswith("K = 3: 100.0% of the conflicts, +600 parameters (100.00%")
    page.locator("summary").click()
    assert page.locator("#costs details tbody th").all_inner_texts() == ["conv", "fc", "norm"]


def test_the_matrix_of_the_tasks_is_of_the_layer_that_is_chosen(open_page):
    profile = of_five_tasks(200)
    page = open_page(content(profile))
    section = page.locator("#tasks")

    def matrix() -> list[list[str]]:
        return [line.locator("td").all_inner_texts() for line in section.locator(".matrix tbody tr").all()]

    def expected(layer: str | None) -> list[list[str]]:
        rates = relate_tasks(profile, -0.1, layer).rates
        return [["" if rate is None else f"{100 * rate:.1f}%" for rate in row] for row in rates]

    def groups(layer: str | None) -> list[str]:
        return [", ".join(group.tasks) for group in relate_tasks(profile, -0.1, layer).grouping.groups]

    assert matrix() == expected(None) != expected("layer1")
    assert section.locator(".groups li").all_inner_texts() == groups(None)
    page.locator("#between").select_option("layer1")
    assert matrix() == expected("layer1")
    assert section.locator(".groups li").all_inner_texts() == groups("layer1")
    assert page.locator("#ranking [aria-current=true] th").inner_text() == "layer1"
    page.locator("#ranking tbody tr", has_text="layer0").click()
    assert page.locator("#between option:checked").inner_text() == "layer0"
    assert matrix() == expected("layer0")


def test_the_measures_are_drawn_over_time(open_page):
    profile = of_five_tasks(200)
    page = open_page(content(profile))
    ends = [course.last for course in relate_tasks(profile, -0.1).courses]
    captions = page.locator(".courses figcaption").all_inner_texts()
    shown = [f"{end:.3f}".replace("-", "\u2212") for end in ends]
    assert captions == [f"GDS: {shown[0]} at the end", f"GMS: {shown[1]} at the end"]
    for picture in page.locator(".courses svg").all():
        for style in (".raw", ".curve"):
            assert picture.locator(style).get_attribute("d").count("L") == len(profile.windows) - 1
    assert "the last 50 measured steps" in page.locator("#tasks").inner_text()


def test_layers_without_a_matrix_on_the_page_are_told(open_page, monkeypatch):
    monkeypatch.setattr("recon_cli.report.tasks._MOST_RATES", 10)
    page = open_page(content(of_five_tasks(50)))
    assert page.locator("#between option").count() == 2
    assert "first 1 layer of the ranking; recon tasks --layer shows the other 1" in page.locator("#tasks").inner_text()
    page.locator("#ranking tbody tr").nth(1).click()
    assert page.locator("#between option:checked").inner_text() == "all shared layers, as one"


def test_runs_are_told_apart_and_can_be_hidden(open_page):
    page = open_page(before_and_after())
    curves = page.locator("#cosines > figure path.curve")
    assert curves.count() == 2
    styles = [curve.evaluate("curve => getComputedStyle(curve).strokeDasharray") for curve in curves.all()]
    assert len(set(styles)) == 2
    page.get_by_label("recon").uncheck()
    assert curves.count() == 0
    assert page.locator("#cosines figcaption").first.inner_text() == "all shared layers, as one: joint 2 pairs"
    pairs, *masses, below, reduction, gds = row(page, "changes", "recon")
    assert (pairs, masses, below, gds) == ("2", ["100.00%", *["0.00%"] * 4], "0.00% (0.0 to 65.8%)", "0.500")
    assert reduction.startswith("100.00% (")
    assert row(page, "changes", "conv") == ["1", "100.0%", "\u2013", "\u2013"]
    assert row(page, "changes", "fc") == ["2", "50.0%", "0.0%", "\u221250.0"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_until_it_is_switched(open_page, scheme):
    page = open_page(some_content(), color_scheme=scheme)

    def brightness() -> int:
        return sum(map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]))

    first, button = brightness(), page.locator("#theme")
    assert (first > 384) == (scheme == "light")
    assert button.get_attribute("aria-pressed") == str(scheme == "dark").lower()
    button.click()
    assert (brightness() > 384) == (scheme == "dark")
    assert button.get_attribute("aria-pressed") == str(scheme == "light").lower()
    button.click()
    assert brightness() == first


def test_print_shows_everything_on_white(open_page):
    page = open_page(some_content(), color_scheme="dark")
    page.emulate_media(media="print")
    assert "253, 253, 251" in page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert not page.locator("#bar").is_visible()
    assert not page.locator("#k").is_visible()
    assert page.locator(".scroll").first.evaluate("box => getComputedStyle(box).maxHeight") == "none"
    assert len(names_in(page, "ranking")) == 3
    assert len(page.pdf()) > 10_000


def test_hostile_names_are_shown_and_do_nothing(open_page):
    layers = {name: [[-0.5, -0.5, 0.5, 0.5]] for name in HOSTILE}
    before = scores(layers, tasks=HOSTILE[:2], flow=chain(HOSTILE, HOSTILE[:2]))
    page = open_page(content(before, runs=(Run(HOSTILE[0], before), Run(HOSTILE[-1], before))))
    shown = page.locator("#ranking tbody th bdi")
    assert [name.text_content() for name in shown.all()] == [printable(name) for name in HOSTILE]
    assert page.locator("img, iframe, object").count() == 0
    assert page.locator("script").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#search").fill("onerror")
    assert names_in(page, "ranking") == [HOSTILE[0]]
    page.locator("#ranking tbody tr").first.click()
    assert HOSTILE[0] in page.locator("#cosines figcaption").first.inner_text()


def test_hostile_tasks_are_shown_in_matrix_and_groups_and_do_nothing(open_page):
    profile, names = of_five_tasks(60), HOSTILE[:4] + HOSTILE[-1:]
    layers = tuple(layer.model_copy(update={"tasks": names}) for layer in profile.layers)
    page = open_page(content(profile.model_copy(update={"tasks": names, "layers": layers})))
    heads = page.locator("#tasks .matrix tbody th bdi")
    assert [name.text_content() for name in heads.all()] == [printable(name) for name in names]
    in_groups = page.locator("#tasks .groups bdi").all()
    assert sorted(name.text_content() for name in in_groups) == sorted(map(printable, names))
    assert page.locator("img, iframe, object").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_narrow_window_scrolls_tables_and_not_the_page(open_page):
    page = open_page(some_content(), viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    width = page.locator("#costs figure svg").first.evaluate("picture => picture.viewBox.baseVal.width")
    # Drawn for the room there is, not shrunk to it.
    assert 200 < width < 360


def test_without_scripts_there_is_the_overview_and_the_ranking(open_page):
    page = open_page(some_content(), java_script_enabled=False)
    assert "3 layers that left and right share" in page.locator("#overview").inner_text()
    assert page.locator("noscript tbody th").all_inner_texts() == ["conv", "fc", "norm"]
    assert not page.locator("#bar").is_visible()


def test_documents_without_scores_make_a_page_too(open_page):
    from recon_cli.artifacts.ranking import Ranking
    from recon_cli.ranking.reading import NamedRanking

    plain = Ranking.from_content({"conv1": 30, "fc": 10.5}, "r.json")
    page = open_page(content(rankings=(NamedRanking("r", plain),)))
    assert page.locator("h2").all_inner_texts() == ["Overview", "Ranking", "Where it comes from"]
    assert row(page, "ranking", "conv1") == ["1", "30"]
    assert page.locator("#ranking thead th").all_inner_texts() == ["#", "Layer", "Score"]
