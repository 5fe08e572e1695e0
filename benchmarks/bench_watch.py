"""The dashboard of a big run: how soon its page is drawn, how late a commit is on it, and what watching costs.

    python benchmarks/bench_watch.py [--repeats 5] [--rounds 100] [--clients 500] [--pairs 5] [--json]

The big run is made, not trained: all clients train and are scored in each round. "load" is from asking for the page to
its first drawing, "delay" from before a round's commit to the drawing of it, "server" the server's CPU while rows come
in as from a live run (a live status each second, ten updates a second), as a share of one core. For "watched" the
quickstart is run with its page open and without one, in turn, a pair each. Needs chromium, chromium-driver and
`fedmq[test]`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measured import frame, summary
from selenium import webdriver

from fedmq.storage.journal import Journal
from fedmq.storage.run_folder import DATABASE

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from made_runs import make_run

_LIVE_S = 20.0
_DRAWN = "return document.body.dataset.drawn === arguments[0] && window.drawnAt"
#: Runs before the page's own scripts: when the body says that something was drawn.
_NOTES_DRAWING = """addEventListener("DOMContentLoaded", () => {
  const note = () => { window.drawnAt = Date.now(); };
  new MutationObserver(note).observe(document.body, { attributes: true, attributeFilter: ["data-drawn"] });
});"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"repeats": 5, "rounds": 100, "clients": 500, "pairs": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, browser() as page:
        result = frame() | big_run(Path(folder), page, arguments) | cost(Path(folder), page, arguments.pairs)
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{result['host']}, load {result['load']:.1f}, commit {result['commit']}, {result['time']}")
    for name, goal in (("load_s", 1.5), ("delay_s", 1.0), ("server_percent_of_a_core", None), ("watched_percent", 2.0)):
        found = result[name]
        verdict = "" if goal is None else f"  goal {goal:g}: {'reached' if found['median'] < goal else 'NOT reached'}"
        print(f"{name:<26} median {found['median']:7.3f}  min {found['min']:7.3f}  max {found['max']:7.3f}{verdict}")
    print(f"seconds of a run, unwatched {result['unwatched_s']}, watched {result['watched_s']}")


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium that notes when a page has drawn."""
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,800"):
        options.add_argument(option)
    options.binary_location = shutil.which("chromium") or ""
    page = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _NOTES_DRAWING})
    yield page
    page.quit()


@contextmanager
def dashboard(run: Path) -> Iterator[tuple[str, int]]:
    """The address and process id of a server."""
    command = [sys.executable, "-m", "fedmq", "dashboard", str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().rsplit(": ", 1)[1].strip(), process.pid
        process.terminate()


def drawn_at(page: Any, version: int) -> float:
    """When the page had drawn a version, seconds since 1970."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if at := page.execute_script(_DRAWN, str(version)):
            return float(at) / 1000
        time.sleep(0.01)
    raise SystemExit(f"version {version} was never drawn")


def big_run(folder: Path, page: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """load, delay and the server's CPU."""
    names, rounds = [f"client_{i}" for i in range(arguments.clients)], arguments.rounds
    run = make_run(folder / "big", names, rounds=rounds, per_round=len(names), own_texts=True, workers=8)
    loads, delays, journal = [], [], Journal.open(run / DATABASE)
    with dashboard(run) as (address, process):
        for _ in range(arguments.repeats):
            page.get("about:blank")
            asked_at = time.time()
            page.get(address)
            loads.append(drawn_at(page, rounds) - asked_at)
        for round in range(rounds + 1, rounds + 1 + arguments.repeats):
            journal.open_round(round, [[name] for name in names])
            add_updates(journal, round, names)
            time.sleep(1)
            committed_at = time.time()
            journal.commit_round(round, "ab" * 32)
            delays.append(drawn_at(page, round) - committed_at)
        live = rounds + 1 + arguments.repeats
        journal.open_round(live, [[name] for name in names])
        before = cpu_s(process)
        for second in range(int(_LIVE_S)):
            began = time.monotonic()
            journal.put(live=json.dumps({"awaited": [], "workers": [], "phase": "training", "round": live}))
            add_updates(journal, live, names[10 * second : 10 * second + 10])
            time.sleep(max(0.0, began + 1 - time.monotonic()))
        share = 100 * (cpu_s(process) - before) / _LIVE_S
        page.get("about:blank")
    journal.close()
    return {"load_s": summary(loads), "delay_s": summary(delays), "server_percent_of_a_core": summary([share])}


def add_updates(journal: Journal, round: int, names: list[str]) -> None:
    """Of these clients, each durable on its own as in a run."""
    sizes = {"num_examples": 40, "num_tokens": 900, "num_steps": 5, "bytes_up": 400_000, "bytes_down": 200_000}
    for i, name in enumerate(names):
        of = {"client": name, "worker": f"w{i % 8}", "digest": "ab" * 32, "train_loss": 2.5 + i / 1000, "norm": 1.5}
        times = {"train_seconds": 3.0, "assigned_at": time.time() - 4, "offered_at": time.time() - 1}
        journal.add_update(round=round, started=round, state_lost=False, **of, **sizes, **times)


def cpu_s(process: int) -> float:
    """Of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(folder: Path, page: Any, pairs: int) -> dict[str, Any]:
    """How much longer the rounds of a quickstart take that is watched, in percent of each pair."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for pair in range(pairs):
        for watched in (False, True) if pair % 2 else (True, False):
            seconds[watched].append(quickstart(folder / f"{pair}-{watched}", page if watched else None))
    percent = [100 * (with_it / without - 1) for without, with_it in zip(seconds[False], seconds[True], strict=True)]
    shown = {
        watched: f"{statistics.median(of):.1f} ({min(of):.1f} to {max(of):.1f})" for watched, of in seconds.items()
    }
    return {"watched_percent": summary(percent), "unwatched_s": shown[False], "watched_s": shown[True]}


def quickstart(run: Path, page: Any) -> float:
    """Seconds from the first round's opening to the last one's commit."""
    command = [sys.executable, "-m", "fedmq", "run", "--output-dir", str(run), *(["--dashboard"] if page else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if page and (found := re.fullmatch(r"dashboard: (\S+)\n", line)):
                threading.Thread(target=page.get, args=found.groups()).start()
    if page:
        page.get("about:blank")
    if process.returncode:
        raise SystemExit(f"the run in {run} failed")
    journal = Journal.open(run / DATABASE, read_only=True)
    rounds = journal.rounds(1)
    journal.close()
    return float(rounds[-1]["committed_at"] - rounds[0]["opened_at"])


if __name__ == "__main__":
    main()
