"""The page in a browser: its sliders compute what the code computes, and it asks nobody."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.browser import find_browser, open_browser
from tests.helpers.reported import FULL_RULE, write_chosen, write_finished
from tests.helpers.tiny import write_dataset
from utils.postprocessing.rule import NO_MASKS, score
from utils.report.__main__ import main
from utils.report.evidence import read_evidence
from utils.report.explorer import pack_rules

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed"),
]
SLIDERS = {
    "threshold": "thresholds",
    "top_threshold": "top_thresholds",
    "min_area": "min_areas",
    "presence": "presence_thresholds",
}
UNFILTERED = replace(FULL_RULE, min_component_area=0, min_component_mean=0.0)
READY = """new Promise(done => { const wait = () =>
    [...document.querySelectorAll(".explorer")].every(box => box.dataset.ready)
        ? done(true) : setTimeout(wait, 10); wait(); })"""
MOVE = """Object.entries(%s).forEach(([name, value]) => {
    const input = document.querySelector(`input[name=${name}]`);
    if (input) { input.value = value; input.dispatchEvent(new Event("input")); } })"""
READ = """Object.fromEntries([...document.querySelectorAll("[data-score]")].map(
    output => [output.dataset.score, output.textContent]))"""


@pytest.fixture(scope="module")
def browser():
    with open_browser() as page:
        yield page


def show(browser, out, *runs, flags=("--pictures", "false")):
    words = [word for run in runs for word in ("--run", str(run))]
    assert main([*words, "--out", str(out), *flags]) == 0
    browser.requests.clear()
    browser.open(out)
    assert browser.run(READY)


def check_quiet(browser):
    """Check that nothing was complained about, and nothing asked for but the page itself."""
    assert browser.problems == []
    assert [a for a in browser.requests if not a.startswith(("file:", "data:", "blob:"))] == []
    assert sum(address.startswith("file:") for address in browser.requests) == 1


@pytest.mark.parametrize("chosen", [FULL_RULE, UNFILTERED, NO_MASKS])
def test_sliders_give_the_scores_of_the_code(browser, tmp_path, chosen):
    run = write_finished(tmp_path / "net" / "a")
    write_chosen(run, chosen, [chosen, chosen])
    show(browser, tmp_path / "page.html", run)
    pooled = read_evidence(run).pooled
    rules = pack_rules(pooled, chosen)
    rng = np.random.default_rng(0)
    ends = itertools.product(*((0, len(rules[name]) - 1) for name in SLIDERS.values()))
    random = rng.integers([len(rules[name]) for name in SLIDERS.values()], size=(60, 4)).tolist()
    for place in ([rules["chosen"][name] for name in SLIDERS], *ends, *random):
        at = dict(zip(SLIDERS, map(int, place), strict=True))
        browser.run(MOVE % str(at))
        values = {name: rules[SLIDERS[name]][i] for name, i in at.items()}
        values["presence_threshold"] = values.pop("presence")
        expected = score(pooled, replace(chosen, **values))
        found = replace(chosen, **values).areas(pooled)[pooled.positive] > 0
        assert browser.run(READ) == {
            "dice": f"{expected.dice:.4f}",
            "dice_positive": f"{expected.dice_positive:.4f}",
            "specificity": f"{expected.empty_kept:.4f}",
            "sensitivity": f"{found.mean():.4f}",
            "masks": str(expected.predicted),
        }
    browser.run("document.querySelector('.reset').click()")
    assert browser.run(READ)["dice"] == f"{score(pooled, chosen).dice:.4f}"
    check_quiet(browser)


def test_two_runs_and_subgroups(browser, tmp_path):
    runs = [write_finished(tmp_path / "net" / name) for name in "ab"]
    rows = [f"image{n}-{i},{'PA' if i < 9 else 'AP'}" for n in range(2) for i in range(14)]
    csv = tmp_path / "attributes.csv"
    csv.write_text("\n".join(["ImageId,view", *rows]) + "\n")
    flags = ("--pictures", "false", "--attributes", str(csv))
    show(browser, tmp_path / "page.html", *runs, flags=flags)
    shown = "[...document.querySelectorAll('.plots[data-group]')].map(plots => !plots.hidden)"
    assert browser.run(shown) == [True, False, False] * 2
    browser.run(
        "(select => { select.value = '2'; select.dispatchEvent(new Event('change')); })"
        "(document.querySelector('select.group'))"
    )
    assert browser.run(shown) == [False, False, True, True, False, False]
    check_quiet(browser)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False)])
def test_cases_are_enlarged_switched_and_copied_at_any_width(browser, tmp_path, width, dark):
    data = write_dataset(tmp_path / "data", count=4)
    run, csv = write_finished(tmp_path / "net" / "a"), tmp_path / "submission.csv"
    csv.write_text("ImageId,EncodedPixels\n" + "".join(f"image0{i},0 900\n" for i in range(4)))
    flags = ["--submission", csv, "--truth", data / "train_mask", "--images", data / "train_images"]
    browser.look(width, 800, dark)
    show(browser, tmp_path / "page.html", run, flags=[*map(str, flags)])
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("document.querySelector('.baseline i').getBoundingClientRect().left") >= 0
    browser.run("document.querySelector('.case .zoom').click()")
    assert browser.run("document.getElementById('large').open")
    name = browser.run("document.querySelector('.case .id').textContent")
    assert browser.run("document.querySelector('#large .id').textContent") == name
    browser.run("document.querySelector('#large .stage').click()")
    assert not browser.run("document.getElementById('large').open")
    visible = "getComputedStyle(document.querySelector('.case path.truth')).display"
    assert browser.run(visible) != "none"
    browser.run("document.querySelector('[data-show=truth]').click()")
    assert browser.run(visible) == "none"
    browser.run("document.querySelector('.case .id').click()")
    assert (
        browser.run(
            "new Promise(done => setTimeout(() => done("
            "document.querySelector('.case .id').textContent), 100))"
        )
        == "copied"
    )
    check_quiet(browser)
