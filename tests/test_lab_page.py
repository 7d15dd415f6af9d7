"""The lab page in a real browser: opened from a file, looked at, and used as a reader would."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

import crossent
from crossent import reference
from crossent.lab.layer import trained_layer
from crossent.lab.page import assemble
from lab_browser import chromium, watch, watched_page

WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
SECTIONS = ["price", "slowdown", "neuron", "softmax", "tails", "layer"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def layer() -> dict[str, Any]:
    return trained_layer()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, layer: dict[str, Any]) -> Path:
    path = tmp_path_factory.mktemp("lab") / "lab.html"
    path.write_text(assemble(layer), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def window(browser: Browser, file: Path) -> tuple[Page, list[str]]:
    page = browser.new_page(viewport=WIDE)
    problems = watch(page)
    page.goto(file.as_uri())
    return page, problems


@pytest.fixture
def page(window: tuple[Page, list[str]], file: Path) -> Iterator[Page]:
    """Yield the one page that most tests share, with every setting at its default."""
    page, problems = window
    page.goto(f"{file.as_uri()}#theme=auto")
    page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
    yield page
    found, problems[:] = "; ".join(problems), []
    assert not found


def number(page: Page, name: str, section: str = "main") -> float:
    """Return a number that the page shows, with all its digits."""
    value = page.locator(f"{section} [data-show='{name}']").first.evaluate("data => data.value")
    return float(value.replace("Infinity", "inf"))


def shown(page: Page, name: str) -> str:
    return page.locator(f"[data-show='{name}']").first.inner_text()


def reading(page: Page, section: str) -> str:
    return page.locator(f"#{section}-reading").inner_text()


def set_control(page: Page, name: str, value: float | str) -> None:
    """Move a slider, or choose a radio button, as the page itself would be told."""
    page.evaluate(
        """([name, value]) => {
            const all = [...document.querySelectorAll(`[name="${name}"]`)];
            const control = all.find((c) => c.type !== "radio" || c.value === value);
            if (control.type === "radio") control.checked = true; else control.value = value;
            control.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        [name, str(value)],
    )


def settled_fragment(page: Page) -> str:
    """Return the fragment once the page has caught up with its controls."""
    before = page.url
    page.wait_for_function("before => location.href !== before", arg=before)
    return page.url.partition("#")[2]


# One file that needs nothing else ----------------------------------------------------------------


def test_the_page_is_small_and_asks_for_nothing(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.encode()) < 400_000
    addresses = set(re.findall(r"https?://[\w./-]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text
    assert not re.search(r"<(link|script)[^>]+(href|src)=\"(?!data:)", text)


def test_nothing_in_the_data_can_end_the_script_that_holds_it(
    layer: dict[str, Any], browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "lab.html"
    path.write_text(assemble({**layer, "note": "</script><script>throw 1</script>"}))
    with watched_page(browser) as page:
        page.goto(path.as_uri())
        note = page.evaluate("JSON.parse(document.getElementById('layer-data').textContent).note")
    assert note == "</script><script>throw 1</script>"


def test_a_request_or_an_error_on_the_page_fails_the_test(browser: Browser) -> None:
    with pytest.raises(AssertionError, match=r"request for http://localhost/x"):
        with watched_page(browser) as page:
            page.set_content("<img src='http://localhost/x'>")
    with pytest.raises(AssertionError, match="error: broken"):
        with watched_page(browser) as page:
            page.set_content("<script>throw Error('broken')</script>")


# Every figure is drawn ---------------------------------------------------------------------------


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_is_drawn_and_fits(
    browser: Browser, file: Path, viewport: Any, scheme: Any
) -> None:
    with watched_page(browser, viewport=viewport, color_scheme=scheme) as page:
        page.goto(file.as_uri())
        charts = page.locator("svg.chart")
        assert charts.count() == 10
        for chart in charts.all():
            paths = chart.locator("path.line").evaluate_all(
                "all => all.map(p => p.getTotalLength())"
            )
            assert len(paths) >= 2
            assert min(paths) > 50
        assert page.locator("#weights svg").count() == 10
        assert page.locator("#wrong svg").count() >= 4
        assert page.locator("#jacobian td.heat").count() == 16
        assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
        # Text in a chart stays inside it, and labels do not lie on each other.
        assert page.evaluate(TEXT_OUTSIDE) == []
        assert page.evaluate(LABELS_ON_EACH_OTHER) == []


TEXT_OUTSIDE = """() => [...document.querySelectorAll("svg.chart text")].filter((text) => {
    const [inner, outer] = [text, text.ownerSVGElement].map((e) => e.getBoundingClientRect());
    return inner.left < outer.left - 1 || inner.right > outer.right + 1;
}).map((text) => text.textContent)"""

LABELS_ON_EACH_OTHER = """() => [...document.querySelectorAll("svg.chart")].flatMap((svg) => {
    const boxes = [...svg.querySelectorAll("text.label")].map((text) => {
        const { left, right, top, bottom } = text.getBoundingClientRect();
        return { left, right, top: top + 2, bottom: bottom - 2, name: text.textContent };
    });
    return boxes.flatMap((a, i) => boxes.slice(i + 1).filter((b) =>
        a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
    ).map((b) => `${a.name} on ${b.name}`));
})"""


def luminance(colour: str) -> float:
    channels = np.array([float(c) for c in re.findall(r"[\d.]+", colour)[:3]]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_against_its_ground(browser: Browser, file: Path, scheme: Any) -> None:
    with watched_page(browser, color_scheme=scheme) as page:
        page.goto(file.as_uri())
        colours = page.evaluate(
            """() => {
                const style = (what) => getComputedStyle(document.querySelector(what)).color;
                const ground = getComputedStyle(document.body).backgroundColor;
                const texts = ["body", "b.cross", "b.quadratic", "b.two", ".results th", "footer",
                               ".swatch.minus"];
                return [ground, texts.map(style)];
            }"""
        )
    ground, texts = colours
    assert (luminance(ground) > 0.5) == (scheme == "light")
    for text in texts:
        low, high = sorted([luminance(ground), luminance(text)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, text


def test_the_reader_can_choose_light_or_dark(page: Page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_label("Colours").select_option("dark")
    dark = page.evaluate(ground)
    assert luminance(dark) < 0.1 < luminance(light)


# Numbers, before anything is touched and after ---------------------------------------------------


def neuron_by(
    cost: str, weight: float, bias: float, rate: float, target: float
) -> dict[str, float]:
    """Return what the slowdown figure should say, from reference.py."""
    gradient, price = {
        "quadratic": (reference.quadratic_cost_gradient, quadratic_cost),
        "cross": (reference.binary_cross_entropy_gradient, reference.binary_cross_entropy),
    }[cost]
    outputs = []
    for _ in range(301):
        outputs.append(float(reference.sigmoid(weight + bias)))
        slope = float(gradient(outputs[-1], target))
        weight, bias = weight - rate * slope, bias - rate * slope
    side = [(a - 0.5) * (target - 0.5) > 0 for a in outputs]
    return {
        "slope": float(gradient(outputs[0], target)),
        "crossing": side.index(True) if any(side) else -1,
        "output": outputs[-1],
        "cost": float(price(outputs[-1], target)),
    }


def quadratic_cost(a: float, y: float) -> Any:
    return reference.quadratic_cost([a], [y])


def assert_slowdown(page: Page, starts: Any, rate: float, target: float) -> None:
    for which, start in enumerate(starts, 1):
        for cost in ("quadratic", "cross"):
            for name, true in neuron_by(cost, *start, rate, target).items():
                ours = number(page, f"{name}-{cost}{which}")
                assert ours == pytest.approx(true, rel=1e-11), f"{name} {cost} {which}"


def test_the_slowdown_shows_its_point_untouched(page: Page) -> None:
    assert_slowdown(page, [(0.6, 0.9), (2.0, 2.0)], rate=0.15, target=0.0)
    assert shown(page, "output-quadratic1") == "0.0940"
    assert shown(page, "output-quadratic2") == "0.203"
    assert shown(page, "output-cross1") == "0.0116"
    assert shown(page, "output-cross2") == "0.0120"
    assert shown(page, "slope-quadratic2") == "0.0173"
    assert shown(page, "slope-cross2") == "0.982"
    crossings = [shown(page, f"crossing-{c}{i}") for i in (1, 2) for c in ("quadratic", "cross")]
    assert crossings == ["36", "8", "232", "17"]
    assert "57 times" in reading(page, "slowdown")
    assert "at epoch 17" in reading(page, "slowdown")


def test_the_slowdown_follows_its_sliders(page: Page) -> None:
    for name, value in [("weight1", -1.5), ("bias2", -0.5), ("rate", 0.4), ("target", 0.9)]:
        set_control(page, name, value)
    assert_slowdown(page, [(-1.5, 0.9), (2.0, -0.5)], rate=0.4, target=0.9)
    set_control(page, "epoch", 10)
    expect(page.locator(".epoch-now").first).to_have_text("10")


def test_the_rate_of_the_well_known_text(page: Page) -> None:
    page.get_by_role("button", name="Set the rate to 0.005").click()
    assert round(number(page, "output-cross1"), 2) == 0.42
    assert round(number(page, "output-cross2"), 2) == 0.78
    assert_slowdown(page, [(0.6, 0.9), (2.0, 2.0)], rate=0.005, target=0.0)


def test_a_neuron_that_needs_no_training_says_so(page: Page) -> None:
    for name, value in [("weight1", 0), ("bias1", 0), ("target", 0.5)]:
        set_control(page, name, value)
    assert shown(page, "crossing-cross1") == "never"
    assert "NaN" not in page.locator("#slowdown").inner_text()


def test_price_of_an_answer(page: Page) -> None:
    assert "charges 2.30 nats, the quadratic cost 0.405" in reading(page, "price")
    set_control(page, "p", 0.5)
    assert "charges 0.693 nats, the quadratic cost 0.125" in reading(page, "price")
    set_control(page, "p", 1)
    assert "charges 0 nats, the quadratic cost 0." in reading(page, "price")


@pytest.mark.parametrize(("z", "y"), [(4.0, 0.0), (-3.2, 0.0), (6.5, 0.35), (-8.0, 1.0)])
def test_one_neurons_gradient(page: Page, z: float, y: float) -> None:
    set_control(page, "z", z)
    set_control(page, "y", y)
    a = reference.sigmoid(z)
    truths = {
        "sigma-prime": reference.sigmoid_prime(z),
        "by-output-quadratic": reference.quadratic_cost_dE_da(a, y),
        "by-output-cross": reference.binary_cross_entropy_dE_da(a, y),
        "gradient-quadratic": reference.quadratic_cost_gradient(a, y),
        "gradient-cross": reference.binary_cross_entropy_gradient(a, y),
    }
    for name, true in truths.items():
        assert number(page, name) == pytest.approx(float(true), rel=1e-11), name


def table(page: Page, part: str) -> list[list[float]]:
    """Return the numbers of #jacobian, row by row."""
    rows = page.locator(f"#jacobian {part} tr").all()
    read = "cells => cells.map((cell) => Number(cell.dataset.value))"
    return [row.locator("td[data-value]").evaluate_all(read) for row in rows]


REFERENCE = {
    "one": (
        reference.cross_entropy,
        reference.cross_entropy_dE_dp,
        reference.cross_entropy_gradient,
    ),
    "two": (
        reference.two_term_cross_entropy,
        reference.two_term_dE_dp,
        reference.two_term_gradient,
    ),
}


@pytest.mark.parametrize("kind", ["one", "two"])
@pytest.mark.parametrize(
    ("scores", "right"), [([2.5, -1.0, 3.2, 0.5], 0), ([-4.0, 0.3, 1.1, 5.0], 2)]
)
def test_softmax_and_every_link(page: Page, kind: str, scores: list[float], right: int) -> None:
    for j, score in enumerate(scores, 1):
        set_control(page, f"s{j}", score)
    set_control(page, "right", right)
    set_control(page, "kind", kind)
    error, by_output, gradient = REFERENCE[kind]
    p, c = reference.softmax(scores), np.eye(4)[right]
    outer, jacobian = by_output(p, c), reference.softmax_jacobian(p)
    shares = page.locator("#classes [data-show=p]").evaluate_all("all => all.map((d) => d.value)")
    np.testing.assert_allclose([float(share) for share in shares], p, rtol=1e-12)
    decision = page.locator("#classes [data-show=decision]").all_inner_texts()
    assert [float(text) for text in decision] == reference.one_hot(p).tolist()
    assert number(page, "error") == pytest.approx(float(error(p, c)), rel=1e-12)
    rows = np.array(table(page, "tbody"))
    np.testing.assert_allclose(rows[:, 0], outer, rtol=1e-12)
    np.testing.assert_allclose(rows[:, 1:], jacobian, rtol=1e-12)
    chain, fused, finite, difference, diagonal = table(page, "tfoot")
    np.testing.assert_allclose(chain, reference.chain(outer, jacobian), rtol=0, atol=1e-14)
    np.testing.assert_allclose(fused, gradient(p, c), rtol=1e-11)
    np.testing.assert_allclose(finite, gradient(p, c), atol=1e-8)
    np.testing.assert_allclose(difference, p - c, rtol=1e-11)
    np.testing.assert_allclose(diagonal, outer * np.diag(jacobian), rtol=1e-12)
    marks = page.locator("#jacobian tfoot td:first-of-type").all_inner_texts()
    assert marks == {"one": ["✓", "✓", "✓", "✓", "✗"], "two": ["✓", "✓", "✓", "✗", "✗"]}[kind]
    assert reading(page, "softmax").startswith({"one": "p − c holds", "two": "p − c fails"}[kind])
    off = np.abs(reference.two_term_gradient(p, c) - (p - c)).max()
    assert f"by up to {off:.3g}" in reading(page, "softmax")
    animals = ["cat", "dog", "fox", "owl"]
    decided = f"{animals[p.argmax()]} ({p.max():.3g})"
    assert f"The decision is {decided}; right is {animals[right]} (" in reading(page, "softmax")


@pytest.mark.parametrize("kind", ["one", "two"])
def test_the_call_shown_computes_the_numbers_shown(page: Page, kind: str) -> None:
    set_control(page, "kind", kind)
    set_control(page, "right", 3)
    links = eval(page.locator("#in-python").inner_text(), {"crossent": crossent})
    np.testing.assert_allclose(np.squeeze(links.dE_ds), table(page, "tfoot")[0], atol=1e-14)
    np.testing.assert_allclose(np.squeeze(links.dp_ds), np.array(table(page, "tbody"))[:, 1:])


def test_the_chosen_column_is_spelled_out(page: Page) -> None:
    set_control(page, "column", 0)
    text = page.locator("#spelled-out").inner_text()
    assert text.startswith("Column cat: (−3.179) × 0.216 + 0 × (−0.003)")
    assert text.endswith("= −0.685")


def test_random_scores_come_from_the_seed(page: Page) -> None:
    def scores() -> list[str]:
        return [page.locator(f"[name=s{j}]").input_value() for j in range(1, 5)]

    page.get_by_role("button", name="Scores at random").click()
    first = scores()
    assert page.get_by_label("seed").input_value() == "1"
    page.get_by_role("button", name="Scores at random").click()
    assert scores() != first
    page.get_by_label("seed").fill("1")
    assert scores() == first


def test_tails_in_float32(page: Page) -> None:
    for way in ("logsumexp", "log-softmax"):
        assert shown(page, f"loss-{way}") == shown(page, f"gradient-{way}") == "0"
    assert shown(page, "loss-here") == shown(page, "loss-true") == "3.0460 × 10⁻⁸"
    assert "exactly 0" in reading(page, "tails")
    set_control(page, "gap", 10)
    assert shown(page, "loss-logsumexp") == "9.0599 × 10⁻⁵"
    assert shown(page, "loss-log-softmax") == "9.0833 × 10⁻⁵"
    assert shown(page, "loss-here") == "9.0796 × 10⁻⁵"


@pytest.mark.parametrize(("gap", "classes"), [(18.0, 3), (10.0, 3), (29.5, 100), (0.0, 2)])
def test_as_here_is_what_the_library_answers(page: Page, gap: float, classes: int) -> None:
    set_control(page, "gap", gap)
    set_control(page, "classes", classes)
    scores = np.zeros((1, classes), dtype=np.float32)
    scores[0, 0] = gap
    loss, gradient = crossent.CrossEntropy().value_and_grad(scores, np.array([0]))
    for name, ours in (("loss-here", loss), ("gradient-here", gradient[0, 0])):
        assert number(page, name) == pytest.approx(float(ours), rel=4 * 2.0**-23)


def test_the_trained_layer_plays_back_what_the_library_learnt(
    page: Page, layer: dict[str, Any]
) -> None:
    last = layer["snapshots"][-1]
    expect(page.locator("[name=snapshot]")).to_have_value(str(len(layer["snapshots"]) - 1))
    assert f"After {last['iteration']} iterations" in reading(page, "layer")
    assert f"{last['accuracy'] * 100:.1f} percent" in reading(page, "layer")
    heats = "all => all.map((r) => r.style.getPropertyValue('--heat')).join()"
    trained = page.locator("#weights rect").evaluate_all(heats)
    set_control(page, "snapshot", 0)
    assert "After 0 iterations the layer pays 2.30 nats" in reading(page, "layer")
    assert set(page.locator("#weights rect").evaluate_all(heats).split(",")) == {"0%"}
    set_control(page, "snapshot", len(layer["snapshots"]) - 1)
    assert page.locator("#weights rect").evaluate_all(heats) == trained
    worst = layer["wrong"][0]
    first = page.locator("#wrong li").first.inner_text()
    assert f"a {worst['label']}, read as {worst['decision']}" in first


# The address holds every setting -----------------------------------------------------------------


def test_the_address_brings_everything_back(page: Page, browser: Browser) -> None:
    values = {
        "p": 0.33, "weight1": -2.1, "bias2": 1.4, "rate": 0.3, "target": 0.25, "epoch": 120,
        "z": -1.7, "y": 0.4, "s1": -3.3, "s4": 4.4, "right": 2, "kind": "two", "column": 1,
        "gap": 12.5, "classes": 17, "snapshot": 3,
    }  # fmt: skip
    set_control(page, "seed", 7)
    for name, value in values.items():
        set_control(page, name, value)
    page.get_by_label("Colours").select_option("dark")
    fragment = settled_fragment(page)
    names = page.evaluate(
        "[...new Set([...document.querySelectorAll('[name]')].map((c) => c.name))]"
    )
    assert set(names) - {"viewport", "description"} == set(re.findall(r"(\w+)=", fragment))
    before = page.locator("main").inner_text()
    with watched_page(browser, viewport=WIDE) as other:
        other.goto(page.url)
        assert other.locator("main").inner_text() == before
        assert other.get_by_label("Colours").input_value() == "dark"
        assert other.get_by_label("seed").input_value() == "7"


def test_a_shared_address_opens_at_its_section(page: Page, browser: Browser) -> None:
    set_control(page, "gap", 9)
    assert settled_fragment(page).startswith("tails&")
    with watched_page(browser, viewport=WIDE, reduced_motion="reduce") as other:
        other.goto(page.url)
        expect(other.locator("#tails h2")).to_be_in_viewport()
        assert other.get_by_role("slider", name="lead of the right class").input_value() == "9"
        other.wait_for_timeout(300)
        assert other.url == page.url


@pytest.mark.parametrize(
    ("fragment", "name", "value"),
    [
        ("rate=77", "rate", "1"),
        ("rate=-3", "rate", "0.005"),
        ("rate=abc", "rate", "0.15"),
        ("rate=", "rate", "0.15"),
        ("rate=NaN", "rate", "0.15"),
        ("rate=Infinity", "rate", "0.15"),
        ("seed=123456", "seed", "9999"),
        ("theme=pink", "theme", "auto"),
        ("nosuch=1&rate=0.5", "rate", "0.5"),
        ("%%%=%E0%A4%A&rate=0.5", "rate", "0.5"),
        ("__proto__=1&length=3&rate=0.5", "rate", "0.5"),
    ],
)
def test_nonsense_in_the_address_does_no_harm(
    page: Page, file: Path, fragment: str, name: str, value: str
) -> None:
    page.goto(f"{file.as_uri()}#{fragment}")
    expect(page.locator(f"[name={name}]").first).to_have_value(value)
    assert page.locator("svg.chart path.line").count() > 20


def test_radio_buttons_ignore_values_they_do_not_have(page: Page, file: Path) -> None:
    page.goto(f"{file.as_uri()}#kind=three&right=9&column=-1&rate=0.4")
    expect(page.locator("[name=rate]")).to_have_value("0.4")
    assert page.locator("[name=kind]:checked").input_value() == "one"
    assert page.locator("[name=right]:checked").input_value() == "0"


def test_the_list_of_sections_moves_the_view_and_keeps_the_settings(page: Page) -> None:
    set_control(page, "rate", 0.5)
    page.get_by_role("link", name="A trained layer").click()
    expect(page.locator("#layer h2")).to_be_in_viewport()
    assert page.locator("[name=rate]").input_value() == "0.5"
    assert page.url.partition("#")[2].startswith("layer&")
    assert "rate=0.5" in page.url


def test_reset_brings_a_figure_back(page: Page) -> None:
    before = page.locator("#slowdown").inner_text()
    set_control(page, "rate", 0.5)
    set_control(page, "z", 1)
    page.locator("#slowdown").get_by_role("button", name="Reset").click()
    expect(page.locator("#slowdown [name=rate]")).to_have_value("0.15")
    page.wait_for_function(
        "before => document.getElementById('slowdown').innerText === before", arg=before
    )
    assert page.locator("[name=z]").input_value() == "1"


# Keyboard, pointer, screen reader, motion --------------------------------------------------------


def test_every_control_is_reached_and_moved_by_keyboard(page: Page) -> None:
    page.evaluate("document.body.focus()")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.id"))
    names = page.evaluate("[...document.querySelectorAll('input, select')].map((c) => c.name)")
    assert set(names) <= reached
    rate = page.get_by_label("learning rate")
    rate.focus()
    page.keyboard.press("ArrowRight")
    assert rate.input_value() == "0.155"
    assert_slowdown(page, [(0.6, 0.9), (2.0, 2.0)], rate=0.155, target=0.0)
    page.get_by_label("one term", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert "p − c fails" in reading(page, "softmax")
    page.get_by_role("button", name="Set the rate to 0.005").focus()
    page.keyboard.press("Enter")
    assert rate.input_value() == "0.005"


def test_the_focus_can_be_seen(page: Page) -> None:
    page.get_by_label("learning rate").focus()
    page.keyboard.press("ArrowRight")
    outline = page.get_by_label("learning rate").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"


def test_every_control_and_figure_has_a_name(page: Page) -> None:
    tree = page.locator("body").aria_snapshot()
    controls = re.findall(r"- (slider|radio|button|combobox|spinbutton|img)\b(.*)", tree)
    assert len([kind for kind, _ in controls if kind == "slider"]) == 17
    assert len([kind for kind, _ in controls if kind == "img"]) >= 11
    assert [kind for kind, rest in controls if not re.match(r' "[^"]{2,}"', rest)] == []
    slider = page.get_by_role("slider", name="learning rate η", exact=True)
    assert slider.count() == 1
    described = page.locator("svg[aria-describedby]").evaluate_all(
        "all => all.map((s) => document.getElementById(s.getAttribute('aria-describedby')))"
        ".map((reading) => reading.innerText)"
    )
    assert len(described) == 10
    assert min(map(len, described)) > 40


def test_headings_and_tables_have_their_structure(page: Page) -> None:
    assert page.locator("h1").count() == 1
    assert page.locator("section > h2").count() == len(SECTIONS)
    assert page.locator("section").evaluate_all("all => all.map((s) => s.id)") == SECTIONS
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_pointer_on_a_chart_moves_its_slider(page: Page) -> None:
    chart = page.locator("#factors-quadratic")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 46, box["y"] + 100)
    page.mouse.up()
    assert page.locator("[name=z]").input_value() == "-8"
    page.mouse.move(box["x"] + 200, box["y"] + 100)
    assert page.locator("[name=z]").input_value() == "-8"


def test_play_runs_the_epochs_and_stops(page: Page) -> None:
    section = page.locator("#slowdown")
    section.get_by_role("button", name="Play").click()
    page.wait_for_function("""() => {
        const epoch = Number(document.querySelector("[name=epoch]").value);
        return epoch > 3 && epoch < 290;
    }""")
    assert section.locator(".reading").get_attribute("aria-busy") == "true"
    section.get_by_role("button", name="Pause").click()
    stopped = page.locator("[name=epoch]").input_value()
    page.wait_for_timeout(100)
    assert page.locator("[name=epoch]").input_value() == stopped
    expect(section.get_by_role("button", name="Play")).to_be_visible()


def test_reduced_motion_leaves_the_sliders_and_takes_the_player(
    browser: Browser, file: Path
) -> None:
    with watched_page(browser, reduced_motion="reduce") as page:
        page.goto(file.as_uri())
        assert page.locator("[data-play]:visible").count() == 0
        assert page.get_by_role("slider", name="epoch").is_visible()
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


@pytest.mark.parametrize("kind", ["one", "two"])
@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_figures_hold_at_the_ends_of_every_slider(
    browser: Browser, file: Path, viewport: Any, kind: str
) -> None:
    with watched_page(browser, viewport=viewport) as page:
        page.goto(file.as_uri())
        set_control(page, "kind", kind)
        names = page.locator("input[type=range]").evaluate_all(
            "all => all.map((c) => [c.name, c.min, c.max])"
        )
        for end in (1, 2):
            for control in names:
                set_control(page, control[0], control[end])
            assert not re.search(r"NaN|undefined", page.locator("main").inner_text())
            broken = "svg.chart [d*=NaN], svg.chart [cy*=NaN], svg.chart [y*=NaN]"
            assert page.locator(broken).count() == 0
            assert page.evaluate(TEXT_OUTSIDE) == []
            assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]


# What the documentation says of the page ----------------------------------------------------------

DOCUMENTATION = (Path(__file__).parents[1] / "docs" / "lab.md").read_text(encoding="utf-8")


def documented_rows(first: str) -> list[list[str]]:
    """Return the rows of the documentation's table whose first heading is `first`."""
    table = DOCUMENTATION.partition(f"| {first} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def test_the_documented_numbers_are_those_of_the_page() -> None:
    rows = documented_rows("start (w, b)")
    assert len(rows) == 4
    for start, cost, slope, crossing, output in rows:
        weight, bias = (float(part) for part in start.strip("()").split(","))
        key = {"quadratic": "quadratic", "cross-entropy": "cross"}[cost]
        true = neuron_by(key, weight, bias, rate=0.15, target=0.0)
        assert slope == f"{true['slope']:.3g}"
        assert crossing == str(true["crossing"])
        assert output == f"{true['output']:.4f}"


def test_every_section_has_its_picture_in_the_documentation() -> None:
    pictures = re.findall(r"!\[.{40,}\]\(pictures/lab-(\w+)\.png\)", DOCUMENTATION)
    assert pictures == SECTIONS


def test_every_setting_is_documented(page: Page) -> None:
    names = "".join(re.sub(r"\(.*?\)", "", row[1]) for row in documented_rows("section"))
    documented = set(re.findall(r"`(\w+)`", names))
    controls = "[...new Set([...document.forms].flatMap((f) => [...f.elements]))]"
    assert documented == set(page.evaluate(f"{controls}.map((c) => c.name).filter(Boolean)"))
    sections = {row[0].strip("`") for row in documented_rows("section")}
    assert sections == {*SECTIONS, "everywhere"}
