"""The server itself: what it hands out, to whom, and what it does with runs that are not as they should be."""

from __future__ import annotations

import http.client
import json
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import psutil
import pytest
from playwright.sync_api import Page, expect

from triune.core.errors import StorageError
from triune.monitor.metric import scalar
from triune.monitor.monitor import Monitor
from triune.monitor.runs import Runs, UnknownRun
from triune.monitor.store import Store

from .conftest import Dash, serving, shown

SECRET = "not for the browser"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dash]:
    """Runs of every kind of trouble under one folder, and a run outside of it."""
    root = tmp_path_factory.mktemp("odd")
    outside = tmp_path_factory.mktemp("outside")
    for folder in (
        root / "good",
        root / "seeds" / "0",
        root / "newer",
        root / "damaged",
        outside / "private",
    ):
        with Monitor(folder, sinks=()) as monitor:
            monitor.log_step(1, "train", (), [scalar("loss", 0.5)])
    (root / "linked").symlink_to(outside / "private")
    (root / "note.txt").write_text(SECRET)
    with sqlite3.connect(root / "newer" / "metrics.sqlite") as db:
        db.execute("PRAGMA user_version = 1000")
    (root / "damaged" / "metrics.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 4096)
    with serving(root) as running:
        yield running


def ask(
    dash: Dash, path: str, method: str = "GET", body: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """A request as it is written, without a client that tidies the path."""
    connection = http.client.HTTPConnection(urlsplit(dash.address).netloc, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body.encode())
    answer = connection.getresponse()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()


def test_every_run_is_listed_and_a_bad_one_says_why(odd: Dash) -> None:
    status, _, body = ask(odd, "/api/runs")
    runs = {run["name"]: run for run in json.loads(body)["runs"]}
    assert status == 200
    assert {"good", "seeds/0", "newer", "damaged"} <= set(runs)
    assert runs["good"]["step"] == 1
    assert "error" not in runs["good"]
    assert "1000" in runs["newer"]["error"]
    assert "damaged" in runs["damaged"]["error"]
    status, _, body = ask(odd, "/api/run?run=newer")
    assert (status, "1000" in json.loads(body)["error"]) == (422, True)


@pytest.mark.parametrize(
    "name",
    ["../outside", "..", "good/..", "/etc", "good/", "./good", "linked", "", ".", "a\\b", "C:x", "nothing", "g\0d", "x" * 400]
)  # fmt: skip
def test_a_name_leads_nowhere_but_to_a_run_of_the_folder(odd: Dash, name: str) -> None:
    status, _, body = ask(odd, f"/api/run?run={quote(name, safe='')}")
    assert status in (404, 422), body
    assert b'"loss"' not in body
    with pytest.raises((UnknownRun, StorageError)):
        Runs(odd.root).open(name)


@pytest.mark.parametrize(
    "path",
    ["/note.txt", "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/%2e%2e/runs.py", "//note.txt", "/../note.txt",
     "/static//etc/passwd", f"/media?run=good&sha={'0' * 64}", "/media?run=good&sha=../../note.txt", "/openapi.json", "/docs"],
)  # fmt: skip
def test_nothing_else_is_served(odd: Dash, path: str) -> None:
    status, _, body = ask(odd, path)
    assert status in (404, 422)
    assert SECRET.encode() not in body
    assert b"create_app" not in body


def test_another_host_name_and_another_site_are_refused(odd: Dash) -> None:
    assert ask(odd, "/api/runs", Host="evil.example")[0] == 400
    assert ask(odd, "/api/runs", Host="localhost")[0] == 200
    for origin in ({}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert ask(odd, "/api/tags?run=good", "POST", "{}", **origin)[0] == 403
    status, headers, _ = ask(odd, "/api/runs", Origin="http://evil.example")
    assert status == 200
    assert "access-control-allow-origin" not in headers
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert headers["x-content-type-options"] == "nosniff"


def test_it_ends_quietly_with_a_page_open_and_the_page_goes_on_with_the_next(
    tmp_path: Path, page: Page
) -> None:
    with Monitor(tmp_path / "run", sinks=()) as monitor:
        monitor.log_step(1, "train", (), [scalar("loss", 0.5)])
    port = "0"
    for _ in range(2):
        command = [sys.executable, "-u", "-m", "triune.cli", "dash", str(tmp_path), "--port", port]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
            assert found
            if port == "0":
                page.goto(f"{found.group()}/#/alarms?run=run")
                shown(page, "alarms")
            port = found[1]
            expect(page.locator("#state")).to_have_text("not running")
        finally:
            process.send_signal(signal.SIGINT)
            said, problem = process.communicate(timeout=20)
        assert (process.returncode, said, problem) == (0, "", "")
        expect(page.locator("#state")).to_have_text("server lost")
    page.goto("about:blank")


def test_it_listens_on_this_machine_alone(odd: Dash) -> None:
    port = urlsplit(odd.address).port
    found = [
        c.laddr.ip for c in psutil.net_connections("inet") if c.status == "LISTEN" and c.laddr.port == port
    ]
    assert found == ["127.0.0.1"]


def test_a_run_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    for value in (0.25, 0.75):
        with Monitor(tmp_path / "run", sinks=()) as monitor:
            monitor.log_step(1, "train", (), [scalar("loss", value)])
        with runs.reading("run") as store:
            assert store.latest("loss", by=())[()].mean == value
        (tmp_path / "run").rename(tmp_path / f"aside-{value}")
    runs.close()


def test_a_run_is_live_while_a_process_writes_it(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    with Store(tmp_path / "run"):
        assert runs.open("run").live
        with pytest.raises(StorageError, match="already being written"):
            Store(tmp_path / "run")
    assert not runs.open("run").live
