"""`fedmq dashboard` as its users meet it: a process, a port, and a page in a real Chromium."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from signal import Signals
from typing import Any
from urllib.parse import urlsplit

import pytest
from made_runs import make_run
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from fedmq.config import ExperimentConfig
from fedmq.storage.journal import Journal
from fedmq.storage.run_folder import DATABASE, new_meta
from fedmq.storage.schema import SCHEMA_VERSION


def _fedmq(*words: object) -> list[str]:
    return [sys.executable, "-m", "fedmq", *map(str, words)]


@contextmanager
def dashboard(run_dir: Path, *options: str, **variables: str) -> Iterator[str]:
    """The address of a dashboard that runs."""
    command, env = _fedmq("dashboard", run_dir, *options), {**os.environ, **variables}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().rsplit(": ", 1)[1].strip()
        finally:
            process.terminate()


def _status(address: str, **headers: str) -> int:
    try:
        request = urllib.request.Request(address, headers=headers)  # noqa: S310 - our own address
        with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _refused(*words: object, **variables: str) -> str:
    """What `fedmq dashboard` says, in one line, where it serves nothing."""
    command = _fedmq("dashboard", *words)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **variables}
    )
    assert (done.returncode > 0, done.stdout, done.stderr.count("\n")) == (True, "", 1), done
    return done.stderr


class Wire:
    """A way to a port of this machine that can be cut, and then refuses whoever comes until it is no longer down."""

    def __init__(self, port: int) -> None:
        self.down, self._target, self._ends = False, ("127.0.0.1", port), list[socket.socket]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.down = True
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            if self.down:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._ends += [near, far]
            for way in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=way, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
        target.shutdown(socket.SHUT_WR)


def _drawn(browser: Any, committed: int) -> None:
    WebDriverWait(browser, 60, poll_frequency=0.05).until(
        lambda _: browser.find_element(By.TAG_NAME, "body").get_attribute("data-drawn") == str(committed)
    )


def _shows(browser: Any, place: str, text: str) -> None:
    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: text in browser.find_element(By.ID, place).text)


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
            _shows(browser, panel, text)
        assert browser.find_elements(By.CSS_SELECTOR, "main img, main b, main script") == []
        tree = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        roles = {node["role"]["value"] for node in tree if not node.get("ignored")}
        assert {"main", "tablist", "tab", "tabpanel", "heading", "status", "banner"} <= roles
        _sound(browser, address)


def test_a_commit_is_seen_without_loading_the_page_again(tmp_path: Path, browser: Any) -> None:
    run = make_run(tmp_path / "run")
    with dashboard(run) as address, dashboard(run) as second:
        assert _status(second) == 200
        assert _status(f"{second}api/timeline?first=1&last=3") == 200
        assert (
            _status(f"{second}api/timeline?first=1&last=300") == _status(f"{second}api/timeline?first=x&last=1") == 400
        )
        assert _status(f"{second}api/log?name=../config.json") == 404
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
        browser.find_element(By.ID, "find").send_keys("client_77")
        _shows(browser, "loss", "client_77")
        assert len(browser.find_elements(By.CSS_SELECTOR, "#clients tbody tr")) == 1
        ground = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        assert "18, 23, 31" in ground
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        _sound(browser, address)


def test_off_loopback_a_token_is_asked_for_and_strange_hosts_are_refused(tmp_path: Path) -> None:
    run, token, everywhere = make_run(tmp_path / "run"), "a-token-of-the-user", "0.0.0.0"  # noqa: S104 - tested
    with dashboard(run, "--host", everywhere, FEDMQ_DASHBOARD_TOKEN=token) as shown:
        assert (token in shown, everywhere in shown) == (False, False)
        port = shown.strip("/").rsplit(":", 1)[1]
        address, cookie = f"http://127.0.0.1:{port}/", f"fedmq_dashboard_{port}"
        assert _status(address) == _status(f"{address}api/run", Authorization="Bearer other") == 401
        assert _status(f"{address}static/page.js", Cookie=f"{cookie}=other") == 401
        assert _status(f"{address}api/run", Authorization=f"Bearer {token}") == 200
        assert _status(f"{address}api/run", Cookie=f"{cookie}={token}") == 200
        assert _status(f"{address}api/run", Authorization=f"Bearer {token}", Host="evil.example") == 421
        assert _status(f"{address}?token=other") == 401


def test_a_made_token_is_in_the_address_until_the_page_is_open(tmp_path: Path, browser: Any) -> None:
    with dashboard(make_run(tmp_path / "run"), "--host", socket.gethostname()) as address:
        if urlsplit(address).hostname == "localhost":
            pytest.skip("this machine's only name is localhost")
        bare, token = address.split("?token=")
        assert (len(token) >= 32, _status(bare)) == (True, 401)
        browser.get(address)
        _drawn(browser, 3)
        assert browser.current_url == bare
        _sound(browser, bare)


def test_what_cannot_be_shown_is_said_in_a_line(tmp_path: Path) -> None:
    run, newer = make_run(tmp_path / "run"), make_run(tmp_path / "newer")
    with closing(sqlite3.connect(newer / DATABASE)) as database:
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    (tmp_path / "token").write_text("short")
    with dashboard(run) as address:
        port = address.strip("/").rsplit(":", 1)[1]
        assert f"port {port} of 127.0.0.1 is taken" in _refused(run, "--port", port)
    assert "is not a run's folder" in _refused(tmp_path)
    assert f"has format {SCHEMA_VERSION + 1}" in _refused(newer)
    assert "the token has 5 characters" in _refused(run, "--token-file", tmp_path / "token")
    assert "cannot be read" in _refused(run, "--token-file", tmp_path / "none")
    (tmp_path / "hidden" / "uvicorn").mkdir(parents=True)
    (tmp_path / "hidden" / "uvicorn" / "__init__.py").write_text("raise ModuleNotFoundError(name='uvicorn')")
    path = os.pathsep.join([str(tmp_path / "hidden"), os.environ.get("PYTHONPATH", "")])
    assert "pip install 'fedmq[dashboard]'" in _refused(run, PYTHONPATH=path)


def test_a_copied_folder_is_shown_with_the_logs_beside_it(tmp_path: Path, browser: Any) -> None:
    run = make_run(tmp_path / "made" / "run", status="running", log_dir="made/log_files")
    shutil.copytree(run, tmp_path / "there" / "run")
    shutil.rmtree(tmp_path / "made")
    logs = tmp_path / "there" / "log_files"
    logs.mkdir()
    (logs / "coordinator.log").write_text("first\n")
    with dashboard(tmp_path / "there" / "run") as address:
        browser.get(address)
        _drawn(browser, 3)
        assert "stopped without notice" in browser.find_element(By.ID, "status").text
        browser.find_element(By.ID, "tab-logs").click()
        _shows(browser, "log-text", "first")
        with open(logs / "coordinator.log", "a") as log:
            log.write("second\n")
        _shows(browser, "log-text", "first\nsecond")
        _sound(browser, address)


def test_a_run_that_has_just_begun_has_all_views(tmp_path: Path, browser: Any) -> None:
    config = json.dumps(ExperimentConfig.from_dict({"output_dir": str(tmp_path / "run")}).to_dict())
    (tmp_path / "run").mkdir()
    Journal.create(tmp_path / "run" / DATABASE, new_meta(config, "{}")).close()
    with dashboard(tmp_path / "run") as address:
        browser.get(address)
        _shows(browser, "coverage", "No version is scored yet")
        said = {"timeline": "No round has begun", "workers": "0 workers", "bytes": "up 0.0 kB", "data": "0 clients"}
        for view, text in (said | {"texts": "None yet", "config": '"num_rounds"', "logs": "No logs"}).items():
            browser.find_element(By.ID, f"tab-{view}").click()
            _shows(browser, view, text)
        _sound(browser, address)


def test_a_link_that_breaks_is_made_again(tmp_path: Path, browser: Any) -> None:
    with dashboard(make_run(tmp_path / "run")) as address:
        wire = Wire(int(address.strip("/").rsplit(":", 1)[1]))
        browser.get(f"http://127.0.0.1:{wire.port}/")
        _drawn(browser, 3)
        wire.cut()
        _shows(browser, "trouble", "does not answer")
        wire.down = False
        WebDriverWait(browser, 30).until(lambda _: browser.find_element(By.ID, "trouble").text == "")
        browser.get("about:blank")
    # It has said that it was refused; what it asked for is nothing to the next test.
    assert browser.get_log("browser") and browser.get_log("performance")


def test_a_damaged_run_is_shown_with_what_is_wrong(tmp_path: Path, browser: Any) -> None:
    run = make_run(tmp_path / "run")
    (run / DATABASE).write_bytes((run / DATABASE).read_bytes()[: math.floor(0.8 * (run / DATABASE).stat().st_size)])
    with dashboard(run) as address:
        browser.get(address)
        _shows(browser, "trouble", "damaged")
        _sound(browser, address)


@pytest.mark.parametrize(
    ("signal", "seen"),
    [("SIGKILL", "stopped without notice"), pytest.param("SIGTERM", "interrupted", marks=pytest.mark.nightly)],
)
def test_a_real_run_is_followed_to_its_end_by_its_own_dashboard(
    tmp_path: Path, browser: Any, signal: str, seen: str
) -> None:
    settings = {"federated.num_rounds": 3, "federated.num_clients": 40, "federated.clients_per_round": 1}
    chosen = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = _fedmq("run", "--dashboard", "--workers", 1, "--output-dir", "run", *chosen)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            address = next(line for line in process.stdout if line.startswith("dashboard: ")).split(": ", 1)[1].strip()
            browser.get(address)
            _drawn(browser, 1)
            assert "running" in browser.find_element(By.ID, "status").text
        finally:
            process.send_signal(Signals[signal])
            process.communicate()
    _shows(browser, "status", seen)
    _shows(browser, "trouble", "The dashboard has ended")
    with pytest.raises(urllib.error.URLError):
        _status(address)
    assert next(tmp_path.glob("**/dashboard.log")).read_text().count("\n") == 1
    _sound(browser, address)
