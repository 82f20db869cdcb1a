"""The page of a study while it runs, over HTTP as a browser asks for it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from allgrad.launch.__main__ import main
from allgrad.launch.study.watch import server

SECRET = "not for readers"


@pytest.fixture
def study(tmp_path):
    """A directory with a report, and a file beside it that is none of its own."""
    out = tmp_path / "study"
    out.mkdir()
    (out / "report.html").write_text("<p>All of it.</p>")
    (out / "steps.csv").write_text("B,S\n4,2\n")
    (out / "secret.txt").write_text(SECRET)
    (out / ".hidden.csv").write_text(SECRET)
    (tmp_path / "outside.csv").write_text(SECRET)
    (out / "link.csv").symlink_to(tmp_path / "outside.csv")
    (out / "folder.csv").mkdir()
    return out


@pytest.fixture
def ask(study):
    """ask(path) -> (status, body, type) of the page of `study`."""
    page = server(study)
    threading.Thread(target=page.serve_forever, args=(0.01,), daemon=True).start()
    port = page.server_address[1]

    def f(path, method="GET", host=f"127.0.0.1:{port}"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        answer = connection.getresponse()
        found = answer.status, answer.read().decode(), answer.headers["Content-Type"]
        connection.close()
        return found

    yield f
    page.shutdown()
    page.server_close()


def test_the_page_its_status_and_the_files_of_the_directory(ask):
    status, page, kind = ask("/")
    assert status == 200 and kind.startswith("text/html") and "<!doctype html>" in page
    status, told, kind = ask("/status.json?at=1")
    assert status == 200 and kind == "application/json"
    assert json.loads(told)["files"] == ["report.html", "steps.csv"] and json.loads(told)["progress"] is None
    assert ask("/report.html")[:2] == (200, "<p>All of it.</p>")
    assert ask("/steps.csv") == (200, "B,S\n4,2\n", "text/csv; charset=utf-8")
    assert ask("/steps.csv", "HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    ["/../outside.csv", "/%2e%2e/outside.csv", "/..%2foutside.csv", "/..%5coutside.csv", "//etc/passwd", "/secret.txt",
     "/.hidden.csv", "/link.csv", "/folder.csv", "/runs.jsonl", "/steps.csv/", "/./steps.csv", "/steps.csv%00"],
)  # fmt: skip
def test_nothing_else_is_served(ask, path):
    status, body, _ = ask(path)
    assert status == 404 and SECRET not in body


def test_only_a_browser_of_this_machine_may_ask_and_only_read(ask):
    assert ask("/", host="elsewhere.example:80")[0] == 403 and ask("/", host="")[0] == 403
    assert ask("/", host="localhost:9")[0] == ask("/", host="127.0.0.1")[0] == 200
    assert ask("/", "POST")[0] == ask("/steps.csv", "DELETE")[0] == 501


def test_it_is_bound_to_this_machine_alone(study):
    with server(study) as page:
        assert page.server_address[0] == "127.0.0.1"


def test_the_script_of_the_page_asks_for_what_the_status_has(ask):
    page, told = ask("/")[1], json.loads(ask("/status.json")[1])
    assert {*re.findall(r"\bfound\.([a-z_]+)", page)} - {"map"} <= told.keys() and "found.tables" in page
    assert {*re.findall(r'\$\("(\w+)"\)|put\("(\w+)"', page)} and all(
        f'id="{name}"' in page for pair in re.findall(r'\$\("(\w+)"\)|put\("(\w+)"', page) for name in pair if name
    )


@pytest.mark.parametrize(
    "words, said",
    [(["nowhere"], "nowhere is no directory: give --out of a study"),
     ([".", "--port", "99999"], "--port 99999 cannot be used")],
)  # fmt: skip
def test_what_cannot_be_watched(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "watch", *words]) == 2
    assert capsys.readouterr().err.startswith(f"allgrad: {said}")


def test_it_prints_its_address_and_ends_in_good_order_by_ctrl_c(study):
    words = [sys.executable, "-m", "allgrad", "study", "watch", str(study)]
    default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever a shell in front has set
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=default) as started:
        line = started.stdout.readline().decode()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/status.json")
        assert connection.getresponse().status == 200
        connection.close()
        os.kill(started.pid, signal.SIGINT)
        assert started.wait(60) == 0 and b"Traceback" not in started.stderr.read()
