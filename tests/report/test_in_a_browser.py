"""A browser draws every figure, in light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from limbeck.report import write_report
from report_runs import besides, planted_run

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="There is no Chromium on this machine to open the page in."),
]

_DRAWN = (
    "Test accuracy, seed by seed",
    "Against latency",
    "Against size",
    "Reliability",
    "Deviation from the teacher",
    "Accuracy of each class before and after",
    "Confusion before: student alone",
    "Confusion after: hinton",
    "What changed",
    "kl_divergence",
    "Layers: teacher and student alone",
    "Layers: teacher and hinton",
    "Accuracy on corrupted images",
)

# Put into a copy of the page by the test alone: it says what the browser made of it.
_ASK = """<script>
window.onerror = message => { document.title = 'error ' + message; };
addEventListener('load', () => {
  document.querySelectorAll('details').forEach(one => { one.open = true; });
  const figures = [...document.querySelectorAll('figure')].map(figure => {
    const shown = [...figure.querySelectorAll('.draw svg')].filter(one => one.getBoundingClientRect().width > 0);
    const svg = shown[0], box = svg.getBoundingClientRect();
    const words = [...svg.querySelectorAll('text')].map(one => one.getBoundingClientRect().right);
    const marks = [...svg.querySelectorAll('use,path,image')].filter(mark => {
      const at = mark.getBoundingClientRect(); return at.width + at.height > 0;
    });
    return [figure.querySelector('h3').textContent, marks.length, Math.round(box.width), Math.round(box.height),
            shown.length, Math.round(Math.max(...words) - figure.getBoundingClientRect().right)];
  });
  const said = {figures, back: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color, wide: document.documentElement.scrollWidth - innerWidth,
    mark: getComputedStyle(document.querySelector('.plot use[style*="--c0"]')).fill,
    pictures: [...document.images].every(image => image.naturalWidth > 0)};
  const pre = document.createElement('pre'); pre.id = 'said';
  pre.textContent = JSON.stringify(said); document.body.append(pre);
});
</script></head>"""


def asked(page, tmp_path, *flags):
    """What the browser says of the page, and what it wrote to its console."""
    copy = tmp_path / "asked.html"
    copy.write_text(page.read_text().replace("</head>", _ASK, 1))
    ended = subprocess.run(
        [BROWSER, *FLAGS, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom",
         copy.as_uri()], capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="said">(.*?)</pre>', ended.stdout, re.S)
    assert found, ended.stdout[-2000:]
    console = [line for line in ended.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])), console


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    run = planted_run(folder / "run", test=300, seeds=2)
    result = json.loads((run / "result.json").read_text()) | besides(seeds=2)
    (run / "result.json").write_text(json.dumps(result))
    return write_report([run])


@pytest.mark.parametrize(("scheme", "dark"), [(1, False), (0, True)])
def test_every_figure_is_drawn_in_light_and_dark(page, tmp_path, scheme, dark):
    said, console = asked(page, tmp_path, f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1200,900")
    assert console == []
    titles = [title for title, *_ in said["figures"]]
    for title in _DRAWN:
        assert title in titles
    for title, marks, width, height, drawings, _ in said["figures"]:
        assert drawings == 1, title
        assert marks >= 1, title
        assert min(width, height) > 100, title
    assert said["pictures"]
    back, ink = (sum(map(int, re.findall(r"\d+", said[name])[:3])) for name in ("back", "ink"))
    assert (back < ink) == dark
    assert said["mark"] != "rgb(0, 0, 0)"


def test_a_narrow_window_needs_no_sideways_scrolling(page, tmp_path):
    said, _ = asked(page, tmp_path, "--window-size=500,900")
    assert said["wide"] <= 0
    for title, _, width, _, drawings, beyond in said["figures"]:
        assert drawings == 1, title
        assert width < 500, title
        assert beyond <= 0, f"words of {title} end outside its frame"


def test_it_prints(page, tmp_path):
    out = tmp_path / "page.pdf"
    subprocess.run([BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={out}", page.as_uri()],
                   capture_output=True, timeout=240, check=True)  # fmt: skip
    assert out.read_bytes()[:5] == b"%PDF-"
    assert out.stat().st_size > 50_000
