"""`fedmq dashboard` as its users meet it: a process, a port, and a page in a real Chromium."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from fedmq.storage.journal import Journal
from fedmq.storage.run_folder import DATABASE


def _fedmq(*words: object) -> list[str]:
    return [sys.executable, "-m", "fedmq", *map(str, words)]


@contextmanager
def dashboard(run_dir: Path, *options: str, **variables: str) -> Iterator[str]:
    """The address of a dashboard that runs."""
    command, env = _fedmq("dashboard", run_dir, *options), {**os.environ, **variables}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split(": ", 1)[1].strip()
        finally:
            process.terminate()


def _status(address: str, **headers: str) -> int:
    try:
        request = urllib.request.Request(address, headers=headers)  # noqa: S310 - our own address
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if (chromium is None or driver is None) and os.environ.get("CI") != "true":
        pytest.skip("needs chromium and chromium-driver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = str(chromium)
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,800"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def _drawn(browser: Any, committed: int) -> None:
    WebDriverWait(browser, 60, poll_frequency=0.05).until(
        lambda _: browser.find_element(By.TAG_NAME, "body").get_attribute("data-drawn") == str(committed)
    )


def _committed(browser: Any) -> int:
    """The version that the page shows; -1 before the first."""
    shown = browser.find_element(By.TAG_NAME, "body").get_attribute("data-drawn") or ""
    return int(shown) if shown.isdigit() else -1


def _inked(browser: Any, figure: str) -> int:
    """How many pixels of a chart are not empty."""
    script = """const c = document.querySelector(`#${arguments[0]} canvas`);
      return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 === 3 && v).length"""
    return int(browser.execute_script(script, figure))


def _sound(browser: Any, address: str) -> None:
    """Nothing was complained of in the console, and no other host asked."""
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith((address, "about:", "data:", "chrome:"))] == []
    # Away before the server ends, which the console would call an error.
    browser.get("about:blank")


def test_every_view_is_reached_by_keyboard_and_shows_hostile_text_as_text(tmp_path: Path, browser: Any) -> None:
    names = [f"<img src=x onerror=alert(1)>{i}" for i in range(10)]
    run = make_run(tmp_path / "run", names, per_round=10, own_texts=True, texts=((0, "<b>old</b>"), (3, "new")))
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "coordinator.log").write_text("round 1 <script>\n")
    with dashboard(run, "--log-dir", str(logs)) as address:
        browser.get(address)
        _drawn(browser, 3)
        assert min(_inked(browser, "loss"), _inked(browser, "perplexity")) > 1000
        expected = {"timeline": "training", "workers": "w0", "bytes": "In all: up", "data": "Texts of each of 10"}
        expected |= {"texts": "<b>old</b>", "config": '"num_rounds": 3', "logs": "round 1 <script>"}
        browser.find_element(By.ID, "tab-curves").send_keys(Keys.HOME)
        for panel, text in expected.items():
            browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
            assert browser.switch_to.active_element.get_attribute("id") == f"tab-{panel}"
            WebDriverWait(browser, 20).until(
                lambda _, of=(panel, text): of[1] in browser.find_element(By.ID, of[0]).text
            )
        assert browser.find_elements(By.CSS_SELECTOR, "main img, main b, main script") == []
        tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {node["role"]["value"] for node in tree if not node.get("ignored")}
        assert {"main", "tablist", "tab", "tabpanel", "heading", "status", "banner"} <= roles
        _sound(browser, address)


def test_a_commit_is_seen_without_loading_the_page_again(tmp_path: Path, browser: Any) -> None:
    run = make_run(tmp_path / "run")
    with dashboard(run) as address, dashboard(run) as second:
        assert _status(second) == 200
        browser.get(address)
        _drawn(browser, 3)
        journal = Journal.open(run / DATABASE)
        journal.open_round(4, [["client_0"]])
        journal.commit_round(4, "44" * 32)
        _drawn(browser, 4)
        journal.close()
        _sound(browser, address)


def test_many_clients_are_bands_and_a_table_in_the_dark(tmp_path: Path, browser: Any) -> None:
    run = make_run(tmp_path / "run", [f"client_{i}" for i in range(500)], rounds=4, per_round=500, own_texts=True)
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    with dashboard(run) as address:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        browser.get(address)
        _drawn(browser, 4)
        assert len(browser.find_elements(By.CSS_SELECTOR, "#loss .u-series")) < 10
        assert len(browser.find_elements(By.CSS_SELECTOR, "#clients tbody tr")) == 50
        ground = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        assert "18, 23, 31" in ground
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        _sound(browser, address)


def test_off_loopback_a_token_is_asked_for_and_strange_hosts_are_refused(tmp_path: Path) -> None:
    everywhere = "0.0.0.0"  # noqa: S104 - that it asks for a token there is what is tested
    with dashboard(make_run(tmp_path / "run"), "--host", everywhere, FEDMQ_DASHBOARD_TOKEN="secret") as shown:
        address = shown.replace(everywhere, "127.0.0.1")
        assert "secret" not in shown
        assert _status(address) == _status(f"{address}api/run", Authorization="Bearer other") == 401
        assert _status(f"{address}static/page.js", Cookie="fedmq_dashboard=other") == 401
        assert _status(f"{address}api/run", Authorization="Bearer secret") == 200
        assert _status(f"{address}api/run", Cookie="fedmq_dashboard=secret") == 200
        assert _status(f"{address}api/run", Authorization="Bearer secret", Host="evil.example") == 421


def test_what_cannot_be_shown_is_said_in_a_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with dashboard(run) as address:
        port = address.strip("/").rsplit(":", 1)[1]
        for words, line in (((run, "--port", port), f"port {port}"), ((tmp_path,), "is not a run's folder")):
            done = subprocess.run(_fedmq("dashboard", *words), capture_output=True, text=True, check=False, timeout=60)
            assert (done.returncode != 0, done.stderr.count("\n"), line in done.stderr) == (True, 1, True), done.stderr


def test_a_damaged_run_is_shown_with_what_is_wrong(tmp_path: Path, browser: Any) -> None:
    run = make_run(tmp_path / "run")
    (run / DATABASE).write_bytes((run / DATABASE).read_bytes()[: math.floor(0.8 * (run / DATABASE).stat().st_size)])
    with dashboard(run) as address:
        browser.get(address)
        WebDriverWait(browser, 20).until(lambda _: "damaged" in browser.find_element(By.ID, "damage").text)
        _sound(browser, address)


def test_a_real_run_is_followed_by_its_own_dashboard(tmp_path: Path, browser: Any) -> None:
    settings = {"federated.num_rounds": 3, "federated.num_clients": 40, "federated.clients_per_round": 1}
    chosen = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = _fedmq("run", "--dashboard", "--workers", 1, "--output-dir", "run", *chosen)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            address = next(line for line in process.stdout if line.startswith("dashboard of")).split(": ", 1)[1].strip()
            browser.get(address)
            for least in (0, 1):
                WebDriverWait(browser, 60, poll_frequency=0.05).until(
                    lambda _, least=least: (
                        _committed(browser) >= least and "running" in browser.find_element(By.ID, "status").text
                    )
                )
            _sound(browser, address)
        finally:
            process.terminate()
            rest, _ = process.communicate()
    assert "the dashboard has ended with the run" in rest
