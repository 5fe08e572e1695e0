"""Pages of runs: whole, harmless, and with the figures that `fedmq inspect` has."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import sys
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from click.testing import CliRunner
from made_runs import make_run
from selenium.webdriver.common.by import By

from fedmq.baselines import settings_digest
from fedmq.cli import main
from fedmq.inspection import inspect_run, inspection_lines
from fedmq.report import again, palette
from fedmq.report.numbers import duration, shown, size
from fedmq.reporting import write_report

EVIL = "<script>alert('x')</script>\x1b[31m\u202e_$\\frac{1}$\"'><img src=//evil.example/x onerror=alert(1)>"
_VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What a browser would make of it: every tag with its attributes, tables by their caption, text by the figure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text, self.tables = "", dict[str, list[list[str]]]()
        self._cell: str | None = None
        self._rows: list[list[str]] = []
        self._caption = ""
        self.feed(html)
        self.close()
        assert self.open == [], "each tag is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th", "caption"):
            self._cell = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th") and self._cell is not None:
            self._rows[-1].append(self._cell)
        if tag == "caption":
            self._caption = self._cell or ""
        if tag == "table":
            self.tables[self._caption] = self._rows
        if tag in ("td", "th", "caption"):
            self._cell = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell is not None:
            self._cell += data

    def table(self, caption: str) -> list[dict[str, str]]:
        """The rows under a caption, by column."""
        head, *rows = self.tables[caption]
        return [dict(zip(head, row, strict=True)) for row in rows]


def reported(*runs: Path, out: Path | None = None) -> Page:
    return Page(write_report(runs, out).page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """With baselines; two of three clients a round, the test split scored."""
    made = make_run(folder / "first", warnings=["client_2 sent <nothing>"])
    counts = {"run_clients": 3, "run_clients_per_round": 2}
    of_this = {"kind": "central", "of": settings_digest({}), **counts}
    make_run(made / "baselines" / "central", decay=0.9, baseline=of_this)
    make_run(made / "baselines" / "zero-shot", rounds=0, texts=[], baseline=of_this | {"kind": "zero-shot"})
    (made / "baselines" / "local").mkdir()
    (made / "baselines" / "local" / "run.db").write_bytes(b"no database")
    return made


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return reported(run)


@pytest.fixture(scope="module")
def evil(folder: Path) -> Path:
    return make_run(
        folder / "evil",
        clients=[EVIL, f"_{EVIL}"],
        texts=[(0, EVIL), (3, f"</td></style>{EVIL}")],
        experiment_name=EVIL,
    )


@pytest.fixture(scope="module")
def evil_page(evil: Path) -> Page:
    return reported(evil)


def test_the_figures_are_those_of_inspect(run: Path, page: Page) -> None:
    found = json.loads(CliRunner().invoke(main, ["inspect", str(run), "--json"]).stdout)
    losses = {row["round"]: row for row in page.table("Loss")}
    perplexities = {row["round"]: row["test split"] for row in page.table("Perplexity")}
    for version, score in found["scores"].items():
        assert losses[version]["test split"] == shown(score["eval_loss"])
        assert perplexities[version] == shown(score["perplexity"], 2)
    biases = {row["round"]: row["bias"] for row in page.table("Aggregation bias")}
    sent, fairness = 0, {row["round"]: row for row in page.table("Fairness across clients")}
    for row in found["rounds"]:
        sent += row["bytes_up"] + row["bytes_down"]
        at = str(row["round"])
        assert page.table("Bytes against loss")[row["round"]]["up and down so far"] == size(sent)
        assert biases[at] == shown(row["aggregation_bias"])
        trained = [client["train_loss"] for client in row["client_metrics"]]
        assert (fairness[at]["best"], fairness[at]["worst"]) == (shown(min(trained)), shown(max(trained)))
        assert fairness[at]["10th percentile"] == shown(float(np.quantile(trained, 0.9)))
    spans = [span for span in found["timeline"] if span["round"] == 2 and span["kind"] == "train"]
    seconds = sum(span["end"] - span["start"] for span in spans)
    assert page.table("Timeline")[2]["training, of all tasks"] == duration(seconds) != "0.0 s"
    assert found["digest"] in page.text and found["provenance"]["base_digest"] in page.text


def test_what_it_takes_to_make_the_run_again(run: Path, page: Page) -> None:
    known = inspect_run(run)["provenance"]
    software = {
        row[""]: row["at the start"]
        for row in page.table("Software of the coordinator, as recorded when the run began")
    }
    assert software == known["software"][-1] and software.keys() >= {"python", "fedmq", "torch", "system"}
    config = re.search(r"Configuration\n(\{.*?\n\})", page.text, re.DOTALL)
    assert config is not None and json.loads(config[1]) == known["config"]
    assert known["data_digest"] in page.text and "client_2 sent <nothing>" in page.text
    assert "fedmq run config.json --output-dir NEW_FOLDER" in page.text and "The adapter's SHA-256 is then" in page.text


def test_of_a_run_that_cannot_be_made_again_it_is_not_said_that_it_can(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", federated={"mode": "async", "min_clients": None})

    def said(**decisive: object) -> list[str]:
        with closing(sqlite3.connect(made / "run.db")) as database, database:
            database.execute("UPDATE meta SET value = ? WHERE key = 'decisive'", (json.dumps(decisive),))
        found = inspect_run(made)
        return [again.command(found), *again.caveats(found)]

    assert "another run gives another model" in " ".join(said())
    command = "fedmq run config.json --virtual-clock --speed client_0=0.1 --output-dir NEW_FOLDER"
    assert said(speeds={"client_0": 0.1}) == [command]
    assert "mine.rule" in " ".join(said(speeds={}, aggregator="mine.rule"))


def test_baselines_stand_around_the_run(run: Path, page: Page) -> None:
    rows = {row[""]: row for row in page.table("The run beside the same without a federation")}
    assert list(rows) == ["this run", "central", "local", "zero-shot"]
    for name, folder in (("this run", run), ("central", run / "baselines" / "central")):
        last = list(inspect_run(folder)["scores"].values())[-1]
        assert (rows[name]["loss"], rows[name]["perplexity"]) == (
            shown(last["eval_loss"]),
            shown(last["perplexity"], 2),
        )
    assert rows["zero-shot"]["rounds"] == "0 of 0"
    assert "nothing of its run can be read" in rows["local"]["remark"]
    assert any("baseline central" in label and "baseline zero-shot" in label for label in labels(page, "Loss by"))


def labels(page: Page, start: str) -> list[str]:
    return [of["aria-label"] for tag, of in page.tags if tag == "div" and of.get("aria-label", "").startswith(start)]


def test_texts_of_the_first_and_the_last_version_are_side_by_side(page: Page) -> None:
    (row,) = page.table("Continuations of the same openings")
    assert row == {"opening": "My order", "first: round 0": " is lost.", "last: round 3": " is here."}


@pytest.mark.parametrize("name", ["first/report", "evil/report", "comparison"])
def test_nothing_is_fetched_and_nothing_runs(
    folder: Path, run: Path, evil: Path, page: Page, evil_page: Page, name: str
) -> None:
    out = folder / f"{name}.html"
    page = reported(run, evil, out=out) if name == "comparison" else Page(out.read_text(encoding="utf-8"))
    assert {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "embed", "base", "form"} == set()
    ids = {of["id"] for _, of in page.tags if "id" in of}
    assert len(ids) == sum("id" in of for _, of in page.tags), "an id names one thing"
    for tag, of in page.tags:
        assert not [name for name in of if name.startswith("on")], "no handler"
        for name in ("href", "src", "action", "data", "srcset", "poster"):
            if (target := of.get(name)) is not None:
                assert target == "data:," or (target[0] == "#" and target[1:] in ids), (tag, target)
        for target in re.findall(r"url\(#?([^)]*)\)", of.get("style", "") + of.get("clip-path", "")):
            assert target in ids
    html = out.read_text(encoding="utf-8")
    assert "http:" not in html and "https:" not in html and "@import" not in html
    assert "\x1b" not in html and "\u202e" not in html, "nothing that turns text round"
    policy = [of["content"] for tag, of in page.tags if of.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_hostile_names_are_shown_as_text(evil_page: Page) -> None:
    page = evil_page
    shown_name = EVIL.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert shown_name in {row["client"] for row in page.table("Each client, with its last figures")}
    (row,) = page.table("Continuations of the same openings")
    assert row["first: round 0"] == EVIL.replace("\x1b", "\ufffd").replace("\u202e", "\ufffd")
    assert row["last: round 3"].startswith("</td></style><script>alert('x')</script>")


def test_charts_can_be_read_without_being_seen(page: Page) -> None:
    images = [of for tag, of in page.tags if of.get("role") == "img"]
    assert len(images) == 6 and all(len(of["aria-label"]) > 30 for of in images)
    drawn = [of for tag, of in page.tags if tag == "svg"]
    assert len(drawn) == 6 and all(of["aria-hidden"] == "true" for of in drawn), "read once, not twice"
    assert sum(tag == "figure" for tag, _ in page.tags) == sum(tag == "figcaption" for tag, _ in page.tags) == 6
    for _, of in page.tags:
        assert "tabindex" not in of or of.get("aria-label"), "what takes the focus says what it is"
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(headings, headings[1:], strict=False))


def contrast(one: str, other: str) -> float:
    """As WCAG 2 has it."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_told_from_their_ground(theme: str) -> None:
    def on(colour: palette.Colour, ground: palette.Colour) -> float:
        return contrast(getattr(colour, theme), getattr(ground, theme))

    for colour in (palette.INK, palette.MUTED, *palette.SERIES):
        assert min(on(colour, palette.GROUND), on(colour, palette.PANEL)) >= 4.5, colour.name
    assert on(palette.WAITING, palette.GROUND) >= 3


def test_a_browser_draws_it_and_asks_nobody(evil: Path, evil_page: Page, browser: Any) -> None:
    address = (evil / "report.html").as_uri()
    browser.get(address)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [of["params"]["request"]["url"] for of in events if of["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {address}
    assert browser.get_log("browser") == []
    grounds = []
    for theme in ("light", "dark"):
        features = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        charts = browser.find_elements(By.CSS_SELECTOR, ".chart svg")
        assert len(charts) == 6
        for chart in charts[:2]:
            pixels = matplotlib.image.imread(io.BytesIO(chart.screenshot_as_png))[..., :3]
            ground = pixels[2, 2]
            drawn = (abs(pixels - ground) > 0.2).any(axis=-1)
            assert 0.004 < drawn.mean() < 0.5 and drawn.any(axis=0).mean() > 0.5
        grounds.append(float(ground.mean()))
    assert grounds[0] > 0.9 and grounds[1] < 0.2
    browser.set_window_size(500, 900)
    wide = browser.execute_script("const e = document.documentElement; return e.scrollWidth - e.clientWidth")
    assert wide <= 0, "a narrow page is not wider than its window"


def test_pngs_are_pictures(run: Path, page: Page) -> None:
    names = {"loss", "perplexity", "fairness", "bytes", "bias", "timeline"}
    files = sorted((run / "report").iterdir())
    assert {file.name for file in files} == {f"{name}.png" for name in names}
    for file in files:
        pixels = matplotlib.image.imread(io.BytesIO(file.read_bytes()))
        assert pixels.shape[1] >= 1400 and pixels.shape[0] >= 400
        inked = (pixels[..., :3] < 0.95).any(axis=-1)
        assert (pixels[0, 0] == 1).all(), "white ground, whatever the theme"
        assert 0.004 < inked.mean() < 0.6 and inked.any(axis=0).mean() > 0.5, file.name


def test_the_same_run_gives_the_same_pictures(folder: Path, run: Path, page: Page) -> None:
    again = write_report([run], folder / "again.html")
    for figure in again.figures:
        assert figure.read_bytes() == (run / "report" / figure.name).read_bytes()
    bare = [re.sub(r"made \S+ \S+ UTC", "", path.read_text()) for path in (again.page, run / "report.html")]
    assert bare[0] == bare[1]


def test_runs_side_by_side(folder: Path, run: Path) -> None:
    faster = make_run(folder / "faster", rounds=4, decay=0.8, federated={"upload_codec": "int8"}, seed=7)
    never = make_run(folder / "never", decay=0.01)
    page = reported(run, faster, never, out=folder / "three.html")
    rows = {
        row["run"]: row for row in page.table("What came of each run; the losses to be reached are those of the first")
    }
    found = {path.name: inspect_run(path) for path in (run, faster, never)}
    target = found["first"]["scores"]["3"]["eval_loss"]
    for name, one in found.items():
        last = list(one["scores"].values())[-1]
        row = rows[name]
        assert (row["loss"], row["perplexity"]) == (shown(last["eval_loss"]), shown(last["perplexity"], 2))
        assert (row["up"], row["down"]) == (size(one["bytes_up"]), size(one["bytes_down"]))
        assert row["last bias"] == shown(one["rounds"][-1]["aggregation_bias"])
        assert row["time in rounds"] == duration(sum(of["seconds"] for of in one["rounds"]))
    # By hand: 2.5 + 3.5 exp(-0.8 t) is at most 2.5 + 3.5 exp(-0.5 * 3) from t = 2 on.
    to = f"to loss {shown(target)}"
    assert [rows[name][f"rounds {to}"] for name in rows] == ["3", "2", "not reached"]
    per_round = found["faster"]["rounds"][0]["bytes_up"] + found["faster"]["rounds"][0]["bytes_down"]
    assert rows["faster"][f"bytes {to}"] == size(2 * per_round)
    settings = {row["setting"]: row for row in page.table("Settings of the method that are not the same in all runs")}
    assert settings.keys() == {"seed", "federated.num_rounds", "federated.upload_codec"}
    assert settings["federated.upload_codec"] == {
        "setting": "federated.upload_codec",
        "first": "fp32",
        "faster": "int8",
        "never": "fp32",
    }
    assert {file.stem for file in (folder / "three").iterdir()} == {"loss", "perplexity", "bytes", "fairness", "bias"}


def test_clients_own_texts(folder: Path) -> None:
    page = reported(make_run(folder / "own", clients=[f"site_{i}" for i in range(14)], own_texts=True))
    assert "From each client's evaluation on its own held-out texts." in page.text
    assert page.table("Fairness across clients")[0]["clients"] == "14"
    assert {row["own held-out loss"] for row in page.table("Each client, with its last figures")}.isdisjoint({"–"})


def test_a_run_that_diverged(folder: Path) -> None:
    made = make_run(folder / "diverged", decay=-3.0)
    rows = reported(made).table("Perplexity")
    assert [row["test split"] for row in rows] == ["403.43", "4.13e+31", "–", "–"]
    assert re.search(r">1e\+\d\d</text>", (made / "report.html").read_text()), "the axis has figures"
    assert max(map(len, inspection_lines(inspect_run(made)))) < 160


def test_a_run_that_has_nothing_yet_and_one_that_was_killed(folder: Path) -> None:
    page = reported(make_run(folder / "nothing", rounds=0, texts=[], status="running"))
    assert "stopped without notice" in page.text and "No texts were made." in page.text
    assert "This run has not ended" in page.text and "adapter (round 0)" in page.text
    assert page.table("Loss") == [dict.fromkeys(page.tables["Loss"][0], "–") | {"round": "0", "test split": "6.0000"}]


@pytest.mark.nightly
def test_five_hundred_clients_in_a_hundred_rounds(folder: Path) -> None:
    clients = [f"client_{i}" for i in range(500)]
    made = make_run(folder / "large", clients=clients, per_round=500, rounds=100, workers=40, decay=0.06)
    written = write_report([made])
    page = Page(written.page.read_text())
    assert written.nbytes < 2e6 and sum(figure.stat().st_size for figure in written.figures) < 3e6
    assert "as counts of tasks under way" in labels(page, "Timeline")[0]
    assert len(page.table("Each client, with its last figures")) == 500


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["empty"], 1, "empty is not a run's folder: it has no run.db"),
        (["run", "run"], 2, "a run is named twice"),
        (["run", "--out", "x.pdf"], 2, "let it end in .html"),
        (["run", "--out", "a_file/x.html"], 1, "cannot be written"),
        (["run", "--out", "/proc/x.html"], 1, "cannot be written"),
        (["newer"], 1, "has format 99"),
        ([], 2, "RUN_DIR"),
    ],
)
def test_bad_input(cwd: Path, run: Path, arguments: list[str], code: int, line: str) -> None:
    (cwd / "empty").mkdir()
    (cwd / "a_file").touch()
    (cwd / "run").symlink_to(run)
    (cwd / "newer").mkdir()
    content = (run / "run.db").read_bytes()
    (cwd / "newer" / "run.db").write_bytes(content[:60] + (99).to_bytes(4) + content[64:])
    done = CliRunner().invoke(main, ["report", *arguments])
    assert (done.exit_code, done.stdout) == (code, "")
    (said,) = done.stderr.splitlines()
    assert line in said and said.startswith("fedmq: ")
    assert not (cwd / "newer" / "report.html").exists()


def test_without_the_extra(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = CliRunner().invoke(main, ["report", str(run)])
    assert (done.exit_code, done.stderr) == (
        2,
        "fedmq: fedmq report needs Jinja2, which is not installed: pip install 'fedmq[report]'\n",
    )


def test_a_run_that_is_read_stays_as_it_is(folder: Path, run: Path, page: Page) -> None:
    before = {path: path.read_bytes() for path in run.glob("run.db*")}
    write_report([run], folder / "elsewhere" / "of.html")
    assert {path: path.read_bytes() for path in run.glob("run.db*")} == before


def test_a_damaged_run_says_so_and_shows_the_rest(folder: Path, run: Path) -> None:
    damaged = folder / "damaged"
    damaged.mkdir()
    content = (run / "run.db").read_bytes()
    (damaged / "run.db").write_bytes(content[: len(content) - 4096])
    (damaged / "config.json").write_bytes((run / "config.json").read_bytes())
    done = CliRunner().invoke(main, ["report", str(damaged)])
    assert done.exit_code == 0 and "warning: run.db is damaged" in done.stderr
    page = Page((damaged / "report.html").read_text())
    assert "Not everything could be read" in page.text and page.tables
