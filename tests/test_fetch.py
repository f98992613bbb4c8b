"""Weights by name: the catalog, what lies where, and downloads from a server on this machine."""

import hashlib
import http.server
import io
import json
import re
import socket
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from seqalign import fetch, weights
from seqalign.cli import main as cli
from seqalign.cli.screen import guarded
from seqalign.weights import MissingWeights

runner = CliRunner()
BODY = bytes(range(256)) * 5000  # larger than one chunk of the download
SHA = hashlib.sha256(BODY).hexdigest()
GIT = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cut: dict[str, int] = {}  # close the connection after so many bytes, once
        self.ranges = True
        self.moved: dict[str, str] = {}

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/").partition("?")[0]
        server = self.server
        server.asked.append((name, self.headers.get("Range")))
        if name in server.moved:
            self.send_response(302)
            self.send_header("Location", server.moved[name])
            self.end_headers()
            return
        if name not in server.files:
            self.send_error(404, "Not Found")
            return
        body, start = server.files[name], 0
        if server.ranges and (match := re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")):
            start = int(match[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start : server.cut.pop(name, len(body))])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Let an injected catalog and an empty weights folder stand for the real ones."""
    root = tmp_path / "weights"
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(root))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def give(files, folder=False):
        data = {
            "summary": "a toy",
            "licence": "MIT",
            "source": "https://toy.example",
            "paper": "none",
            "folder": folder,
            "files": files,
        }
        catalog = weights.read_catalog(json.dumps({"toy-net": data}))
        monkeypatch.setattr(weights, "catalog", lambda: catalog)
        return catalog["toy-net"]

    give.root = root
    return give


def _get(entry, root, **options):
    return fetch.fetch(entry, root, schemes=("http",), **options)


def _file(server, name="a.pt", body=BODY, **known):
    server.files[name] = body
    return {f"toy/{name}": {"url": server.url(name), "bytes": None, **known}}


# the catalog --------------------------------------------------------------------------------------


def test_the_shipped_catalog_is_whole():
    entries = weights.catalog()
    names = {
        *(f"{kind}-v_48_{n}" for kind in ("proteinmpnn", "soluble") for n in ("002", "010", "020")),
        *("ca-v_48_020", "fmif", "drakes-stability", "thermompnn", "esmfold_v1"),
        *("esm2_t6_8M_UR50D", "esm2_t36_3B_UR50D", "dplm_150m", "dplm_650m"),
    }
    assert names <= set(entries)
    paths = [p.path for e in entries.values() for p in e.parts]
    assert len(paths) == len(set(paths))
    for entry in entries.values():
        assert entry.licence
        assert entry.paper
        assert entry.source.startswith("https://")
        for part in entry.parts:
            assert part.url.startswith("https://")
            # a revision or a version, never a moving branch
            assert "/main/" not in part.url
            assert "/master/" not in part.url
    files = [p for e in entries.values() for p in e.parts if p.member is None]
    assert all(p.sha256 or p.git_sha1 for p in files), "only the archive has no known hash"
    hashes = [p.sha256 for p in files if p.sha256 and p.path.endswith((".pt", ".safetensors"))]
    assert len(hashes) == len(set(hashes)), "a hash stands at two files"


GOOD = {"url": "https://x.example/a", "bytes": 3, "sha256": SHA}


@pytest.mark.parametrize(
    ("path", "file", "words"),
    [
        ("../a", GOOD, "inside the weights folder"),
        ("/a", GOOD, "inside the weights folder"),
        ("a", {**GOOD, "bytes": 0}, "positive number"),
        ("a", {**GOOD, "bytes": "3"}, "positive number"),
        ("a", {**GOOD, "sha256": "abc"}, "64 hexadecimal"),
        ("a", {**GOOD, "sha256": SHA.upper()}, "64 hexadecimal"),
        ("a", {**GOOD, "git_sha1": SHA}, "40 hexadecimal"),
        ("a", {**GOOD, "sha265": SHA}, "keys must be among"),
        ("a", {"url": "https://x.example/a"}, "keys must be among"),
    ],
)
def test_a_wrong_catalog_is_refused(place, path, file, words):
    with pytest.raises(ValueError, match=f"toy-net: .*{words}"):
        place({path: file})


def test_a_folder_entry_is_one_folder(place):
    with pytest.raises(ValueError, match="one folder"):
        place({"a/x": GOOD, "b/y": GOOD}, folder=True)
    assert place({"a/x": GOOD, "a/y": GOOD}, folder=True).location(Path("r")) == Path("r/a")
    assert place({"a/x": GOOD, "a/y": GOOD}).location(Path("r")) == Path("r/a/x")


# what lies where ----------------------------------------------------------------------------------


def test_the_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(tmp_path / "w"))
    assert weights.folder() == tmp_path / "w"
    monkeypatch.delenv("SEQALIGN_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert weights.folder() == tmp_path / "c" / "seqalign" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.folder() == tmp_path / ".cache" / "seqalign" / "weights"


def test_a_name_or_a_path_is_found(place, tmp_path):
    entry = place({"toy/a.pt": {**GOOD, "bytes": 3}, "toy/b.pt": GOOD})
    target = place.root / "toy" / "a.pt"
    with pytest.raises(MissingWeights, match=r"toy-net.*a\.pt is missing.*seqalign fetch toy-net"):
        weights.path("toy-net")
    target.parent.mkdir(parents=True)
    target.write_bytes(b"abc")
    with pytest.raises(MissingWeights, match=r"b\.pt is missing"):
        weights.path("toy-net")
    (target.parent / "b.pt").write_bytes(b"abc")
    assert weights.path("toy-net") == target == entry.location(place.root)
    target.write_bytes(b"ab")
    with pytest.raises(MissingWeights, match="2 bytes, but 'toy-net' has 3"):
        weights.path("toy-net")
    assert weights.path(target) == target
    assert weights.path(str(tmp_path)) == tmp_path
    with pytest.raises(MissingWeights, match="Did you mean 'toy-net'"):
        weights.path("toynet")
    with pytest.raises(MissingWeights, match=r"no file or folder .*none\.pt"):
        weights.path(tmp_path / "none.pt")
    assert issubclass(MissingWeights, FileNotFoundError)


@given(st.text(max_size=30))
@settings(max_examples=300, deadline=None)
@example("~\0")
def test_no_name_is_a_traceback(name):
    try:
        found = weights.path(name)
    except MissingWeights:
        return
    assert found.exists()
    assert name.strip()


# downloads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [{"sha256": SHA}, {"git_sha1": GIT}, {"sha256": None}])
def test_a_file_comes_whole_and_verified(place, server, known):
    entry = place(_file(server, **known))
    steps = []
    (file,) = _get(entry, place.root, progress=lambda *step: steps.append(step[1:]))
    assert file.path.read_bytes() == BODY
    assert file.new
    assert file.sha256 == SHA
    assert file.verified == ("recorded" if known == {"sha256": None} else next(iter(known)))
    assert steps[-1] == (len(BODY), len(BODY))
    record = file.path.with_name("a.pt.sha256")
    if file.verified == "recorded":
        assert record.read_text() == f"{SHA}  a.pt\n"
    else:
        assert not record.exists()
    assert not list(place.root.rglob("*.part"))
    # again: nothing is asked of the server, and the file is verified
    asked = len(server.asked)
    (again,) = _get(entry, place.root)
    assert len(server.asked) == asked
    assert not again.new
    assert again.verified == ("record" if file.verified == "recorded" else file.verified)
    # a changed file is noticed, and left where it is
    file.path.write_bytes(BODY[:-1] + b"?")
    with pytest.raises(fetch.FetchError, match="is not the file that"):
        _get(entry, place.root)
    assert file.path.exists()


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"sha256": hashlib.sha256(b"").hexdigest()}, f"its sha256 is {SHA}, not e3b0"),
        ({"git_sha1": hashlib.sha1(b"").hexdigest()}, f"its git id is {GIT}, not da39"),
        ({"sha256": SHA, "bytes": len(BODY) + 1}, "1,280,000 bytes, not 1,280,001"),
    ],
)
def test_another_file_is_removed(place, server, known, words):
    entry = place(_file(server, **known))
    with pytest.raises(fetch.FetchError, match=f"{words}.* removed"):
        _get(entry, place.root)
    assert [p for p in place.root.rglob("*") if p.is_file()] == []


def test_an_interrupted_download_goes_on_where_it_stopped(place, server):
    entry = place(_file(server, sha256=SHA))
    server.cut["a.pt"] = 700_000
    with pytest.raises(fetch.FetchError, match=r"700,000 of 1,280,000.*goes on from there"):
        _get(entry, place.root)
    assert not (place.root / "toy" / "a.pt").exists()
    assert (place.root / "toy" / "a.pt.part").stat().st_size == 700_000
    (file,) = _get(entry, place.root)
    assert server.asked[-1] == ("a.pt", "bytes=700000-")
    assert file.path.read_bytes() == BODY


@pytest.mark.parametrize("why", ["no ranges", "no hash", "too long", "beyond the end"])
def test_what_cannot_be_resumed_starts_over(place, server, why):
    known = {"sha256": None} if why == "no hash" else {"sha256": SHA}
    if why == "too long":
        known["bytes"] = len(BODY)
    entry = place(_file(server, **known))
    server.ranges = why != "no ranges"
    partial = place.root / "toy" / "a.pt.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * (len(BODY) + 5 if why == "too long" else 1000))
    if why == "beyond the end":
        # the partial file holds something else: the hash tells, and the next attempt is clean
        with pytest.raises(fetch.FetchError, match="removed"):
            _get(entry, place.root)
    (file,) = _get(entry, place.root)
    assert file.path.read_bytes() == BODY


def test_offline_says_which_file_goes_where(place):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/a.pt"
        entry = place({"toy/a.pt": {"url": url, "bytes": None, "sha256": SHA}})
        with pytest.raises(fetch.FetchError) as raised:
            _get(entry, place.root)
    text = str(raised.value)
    assert "127.0.0.1 cannot be reached" in text
    assert f"download {url}" in text
    assert f"at {place.root / 'toy' / 'a.pt'};" in text
    assert [p for p in place.root.rglob("*") if p.is_file()] == []
    # the user does as told; the same command verifies what is there
    (place.root / "toy" / "a.pt").write_bytes(BODY)
    assert _get(entry, place.root)[0].verified == "sha256"


def test_an_answer_of_the_server_is_reported(place, server):
    entry = place({"toy/b": {"url": server.url("b"), "bytes": None, "sha256": SHA}})
    with pytest.raises(fetch.FetchError, match="answered 404 Not Found"):
        _get(entry, place.root)


def test_only_safe_addresses_are_fetched(place, server):
    entry = place(_file(server, sha256=SHA))
    with pytest.raises(fetch.FetchError, match="only https addresses"):
        fetch.fetch(entry, place.root)
    server.moved["a.pt"] = "ftp://127.0.0.1/a.pt"
    with pytest.raises(fetch.FetchError, match=r"ftp://127\.0\.0\.1/a\.pt is refused"):
        _get(entry, place.root)
    server.moved["a.pt"] = server.url("c.pt")
    server.files["c.pt"] = BODY
    assert _get(entry, place.root)[0].path.read_bytes() == BODY


def test_no_room_is_said_before_anything_comes(place, server):
    entry = place(_file(server, sha256=SHA, bytes=10**18))
    with pytest.raises(fetch.FetchError, match=r"room for .* needs 1,000,000,000,000,000,000"):
        _get(entry, place.root)
    assert server.asked == []


def test_one_process_writes_a_partial_file(place, server):
    fcntl = pytest.importorskip("fcntl")
    entry = place(_file(server, sha256=SHA))
    partial = place.root / "toy" / "a.pt.part"
    partial.parent.mkdir(parents=True)
    with partial.open("ab") as other:
        other.write(b"begun")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(fetch.FetchError, match="Another process is fetching"):
            _get(entry, place.root)
    assert partial.read_bytes() == b"begun"


def test_a_folder_that_cannot_be_written_is_named(place, server):
    entry = place(_file(server, sha256=SHA))
    place.root.write_text("a file, not a folder")
    with pytest.raises(fetch.FetchError, match=r"cannot be written.*SEQALIGN_WEIGHTS"):
        _get(entry, place.root)


# archives -----------------------------------------------------------------------------------------


def _zip(members):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, body in members.items():
            archive.writestr(name, body)
    return raw.getvalue()


def test_an_archive_is_fetched_once(place, server):
    server.files["all.zip"] = _zip({"data/x/one.pt": b"one", "data/y/two.pt": b"two", "z": b"z"})
    url = server.url("all.zip") + "?dl=1"
    one = place({"one.pt": {"url": url, "bytes": None, "member": "x/one.pt"}})
    two = place({"two.pt": {"url": url, "bytes": None, "member": "y/two.pt"}})
    (file,) = _get(one, place.root, catalog={"one": one, "two": two})
    assert (file.path.read_bytes(), file.verified) == (b"one", "recorded")
    (file,) = _get(two, place.root)
    assert (file.path.read_bytes(), file.verified) == (b"two", "record")
    assert len(server.asked) == 1
    found = {p.name for p in place.root.rglob("*")}
    assert found == {"one.pt", "two.pt", "one.pt.sha256", "two.pt.sha256"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (_zip({"a/one.pt": b"1", "b/one.pt": b"2"}), "holds 2 files one.pt"),
        (_zip({"a/none.pt": b"1"}), "holds 0 files one.pt"),
        (b"<html>log in</html>", "did not give a zip archive"),
    ],
)
def test_a_changed_archive_is_a_sentence(place, server, body, words):
    server.files["all.zip"] = body
    url = server.url("all.zip")
    entry = place({"one.pt": {"url": url, "bytes": None, "member": "one.pt"}})
    with pytest.raises(fetch.FetchError, match=words):
        _get(entry, place.root)
    assert [p for p in place.root.rglob("*") if p.is_file()] == []


# the verb -----------------------------------------------------------------------------------------


@pytest.fixture
def http_too(monkeypatch):
    real = fetch.fetch
    monkeypatch.setattr(fetch, "fetch", lambda *a, **k: real(*a, **k, schemes=("http",)))


def test_the_verb_lists_what_there_is():
    result = runner.invoke(cli.app, ["fetch"])
    assert result.exit_code == 0
    assert "esm2_t6_8M_UR50D" in result.output
    assert str(weights.folder()) in result.output
    data = json.loads(runner.invoke(cli.app, ["fetch", "--json"]).output)
    assert data["proteinmpnn-v_48_020"]["bytes"] == 6_681_301


def test_the_verb_names_the_nearest(place):
    place({"a": GOOD})
    result = runner.invoke(cli.app, ["fetch", "toynet"])
    assert result.exit_code == 2
    assert "Did you mean 'toy-net'?" in result.output


def test_the_verb_shows_before_it_asks(place, server, http_too):
    place(_file(server, sha256=SHA, bytes=len(BODY)))
    result = runner.invoke(cli.app, ["fetch", "toy-net"])
    assert result.exit_code == 2
    for words in ("licence: MIT", "1.3 MB", SHA, "--yes", str(place.root / "toy" / "a.pt")):
        assert words in result.output
    assert server.asked == []
    result = runner.invoke(cli.app, ["fetch", "toy-net", "--yes", "--json"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["path"] == str(place.root / "toy" / "a.pt")
    assert data["files"][0]["verified"] == "sha256"
    # what is there needs no question
    result = runner.invoke(cli.app, ["fetch", "toy-net"])
    assert result.exit_code == 0
    assert result.stdout.strip() == data["path"]
    assert "verified by its sha256" in result.output
    assert " there " in runner.invoke(cli.app, ["fetch"]).output


def test_the_verb_never_pretends_to_have_verified(place, server, http_too):
    place(_file(server, sha256=None))
    result = runner.invoke(cli.app, ["fetch", "toy-net", "--yes"])
    assert result.exit_code == 0, result.output
    assert "no published hash known here" in result.output
    assert "nothing could verify it" in result.output
    assert "recorded when it came" in runner.invoke(cli.app, ["fetch", "toy-net"]).output


def test_the_verb_ends_in_four_where_it_cannot(place, server, http_too):
    place({"toy/b": {"url": server.url("b"), "bytes": None, "sha256": SHA}})
    result = runner.invoke(cli.app, ["fetch", "toy-net", "--yes"])
    assert result.exit_code == 4
    assert f"put the file at {place.root / 'toy' / 'b'}" in " ".join(result.output.split())
    assert "Traceback" not in result.output


def test_a_campaign_without_its_weights_ends_in_four(capsys):
    @guarded
    def verb():
        weights.path("esmfold")

    with pytest.raises(cli.typer.Exit) as raised:
        verb()
    assert raised.value.exit_code == 4
    text = " ".join(capsys.readouterr().err.split())
    assert text.startswith("error: 'esmfold' is neither")
    assert "Did you mean 'esmfold_v1'? seqalign fetch lists the names." in text


def test_an_interrupted_verb_says_how_to_go_on(place, server, monkeypatch):
    place(_file(server, sha256=SHA))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "fetch", interrupted)
    result = runner.invoke(cli.app, ["fetch", "toy-net", "--yes"])
    assert result.exit_code == 5
    assert "Continue with: seqalign" in result.output
