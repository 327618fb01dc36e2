"""Downloads from a server in this process: whole, cut, resumed, refused, and wrong ones."""

from __future__ import annotations

import argparse
import hashlib
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model_zoo.core.errors import InputError
from model_zoo.core.prepare import download
from model_zoo.core.prepare import fetch as module
from model_zoo.core.prepare.fetch import DATA_SETS, fetch
from model_zoo.core.prepare.manifest import check_manifest, recorded_change

pytest.importorskip("pooch")

NAME = "Toy_x1"
FILES = ["train.parquet", "valid.parquet"]


def content(seed: int, size: int = 300_000) -> bytes:
    return b"PAR1" + hashlib.shake_128(bytes([seed])).digest(size) + b"PAR1"


@dataclass
class Site:
    """What the server has and does, and what it was asked."""

    files: dict[str, bytes]
    ranges: bool = True
    tags: bool = True
    cut_after: int | None = None  # bytes of a body, then the connection ends; once
    log: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range header
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, asked = self.site, self.headers.get("Range")
        site.log.append((self.path, asked))
        body = site.files.get(self.path.rsplit("/", 1)[-1])
        if body is None:
            self.send_error(404)
            return
        tag = f'"{hashlib.md5(body).hexdigest()}"'
        start = 0
        if asked and site.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if site.tags:
            self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        sent = body[start:]
        if site.cut_after is not None:
            sent, site.cut_after = sent[: site.cut_after], None
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site({name: content(seed) for seed, name in enumerate(FILES)})
    handler = type("_Handler", (Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/{NAME}"
    sha256 = hashlib.sha256(site.files["train.parquet"]).hexdigest()
    sources = {
        "train.parquet": module._Source("train.parquet", sha256),
        "valid.parquet": module._Source("valid.parquet"),
    }
    companion = {"item_feature.parquet": module._Source("../item_feature.parquet")}
    monkeypatch.setitem(DATA_SETS, NAME, module._DataSet(site.url, sources, companion))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def get(tmp_path: Path, **options: Any) -> list[str]:
    return fetch(NAME, out=tmp_path, **({"timeout": 5.0, "retries": 0} | options))


def problem(tmp_path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        get(tmp_path, **options)
    return "\n".join(error.value.problems)


def names(tmp_path: Path) -> set[str]:
    folder = tmp_path / NAME
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_a_whole_download(site: Site, tmp_path: Path) -> None:
    assert get(tmp_path) == FILES
    assert names(tmp_path) == {*FILES, "manifest.json"}
    for name in FILES:
        assert (tmp_path / NAME / name).read_bytes() == site.files[name]
    manifest = json.loads((tmp_path / NAME / "manifest.json").read_text())
    assert manifest["files"]["valid.parquet"] == {
        "size": 300_008,
        "sha256": hashlib.sha256(site.files["valid.parquet"]).hexdigest(),
        "url": f"{site.url}/valid.parquet",
    }
    assert check_manifest(tmp_path / NAME) == []
    assert [asked for _, asked in site.log] == [None, None]


def test_the_second_run_downloads_nothing(site: Site, tmp_path: Path) -> None:
    get(tmp_path)
    site.log.clear()
    assert get(tmp_path) == get(tmp_path, force=True) == []
    assert site.log == []


@pytest.mark.parametrize("tags", [True, False])
def test_a_cut_download_is_continued_by_the_next_run(
    site: Site, tmp_path: Path, tags: bool
) -> None:
    site.cut_after, site.tags = 98_304, tags
    found = problem(tmp_path)
    assert "train.parquet cannot be downloaded" in found
    assert "98304 bytes are kept, the next run continues" in found
    assert not (tmp_path / NAME / "train.parquet").exists()
    site.log.clear()
    assert get(tmp_path, files=["train.parquet"]) == ["train.parquet"]
    assert site.log == [(f"/{NAME}/train.parquet", "bytes=98304-")]
    assert (tmp_path / NAME / "train.parquet").read_bytes() == site.files["train.parquet"]
    assert names(tmp_path) == {"train.parquet", "manifest.json"}


def test_a_cut_download_is_taken_up_again_by_itself(site: Site, tmp_path: Path) -> None:
    site.cut_after = 98_304
    assert get(tmp_path, files=["train.parquet"], retries=1) == ["train.parquet"]
    assert [asked for _, asked in site.log] == [None, "bytes=98304-"]


def test_a_server_without_range_support_sends_all_again(site: Site, tmp_path: Path) -> None:
    site.cut_after, site.ranges = 98_304, False
    problem(tmp_path)
    assert get(tmp_path) == FILES
    assert (tmp_path / NAME / "train.parquet").read_bytes() == site.files["train.parquet"]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(
    site: Site, tmp_path: Path
) -> None:
    site.cut_after = 98_304
    problem(tmp_path, files=["valid.parquet"])
    site.files["valid.parquet"] = content(9, 200_000)
    get(tmp_path, files=["valid.parquet"])
    assert (tmp_path / NAME / "valid.parquet").read_bytes() == content(9, 200_000)


@pytest.mark.parametrize(("extra", "asked"), [(0, 1), (5, 2)])
def test_a_partial_file_as_long_as_the_whole(
    site: Site, tmp_path: Path, extra: int, asked: int
) -> None:
    partial = tmp_path / NAME / ".valid.parquet.partial-download"
    partial.parent.mkdir()
    partial.write_bytes(site.files["valid.parquet"] + bytes(extra))
    get(tmp_path, files=["valid.parquet"])
    assert len(site.log) == asked
    assert (tmp_path / NAME / "valid.parquet").read_bytes() == site.files["valid.parquet"]


def test_a_wrong_hash(site: Site, tmp_path: Path) -> None:
    expected = hashlib.sha256(site.files["train.parquet"]).hexdigest()
    site.files["train.parquet"] = content(7)
    message = problem(tmp_path)
    found = hashlib.sha256(content(7)).hexdigest()
    assert all(text in message for text in ("train.parquet", found, expected))
    assert names(tmp_path) == set()


def test_a_page_instead_of_a_file(site: Site, tmp_path: Path) -> None:
    site.files["valid.parquet"] = b"<html>please log in</html>"
    assert "starts with b'<htm'; expected a parquet file" in problem(tmp_path)
    # What was complete before is kept and recorded.
    assert names(tmp_path) == {"train.parquet", "manifest.json"}
    assert check_manifest(tmp_path / NAME) == []


def test_404(site: Site, tmp_path: Path) -> None:
    found = problem(tmp_path, files=["item_feature.parquet"])
    assert "item_feature.parquet cannot be downloaded: 404" in found
    assert site.log == [("/item_feature.parquet", None)]
    assert names(tmp_path) == set()


def test_an_unreachable_server(site: Site, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/x"
    assert f"{url}/train.parquet cannot be downloaded" in problem(
        tmp_path, base_url=url, timeout=0.5, retries=3
    )
    assert "cannot be downloaded" in problem(tmp_path, base_url="data", timeout=0.5)


def test_a_silent_server(site: Site, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "cannot be downloaded" in problem(tmp_path, base_url=url, timeout=0.2)


def test_a_changed_file_is_noticed_and_not_written_over(site: Site, tmp_path: Path) -> None:
    get(tmp_path)
    train, valid = (tmp_path / NAME / name for name in FILES)
    train.write_bytes(content(3))
    valid.unlink()
    first, second = check_manifest(tmp_path / NAME)
    assert f"{train}: found SHA-256 {hashlib.sha256(content(3)).hexdigest()}, expected " in first
    assert f"{valid}: no such file" in second
    assert "--force downloads it again" in problem(tmp_path)
    assert train.read_bytes() == content(3)
    train.write_bytes(b"short")
    assert "found 5 bytes, expected 300008" in check_manifest(tmp_path / NAME)[0]
    assert get(tmp_path, force=True) == FILES
    assert check_manifest(tmp_path / NAME) == []


def test_a_failed_download_leaves_the_file_it_was_to_replace(site: Site, tmp_path: Path) -> None:
    get(tmp_path)
    (tmp_path / NAME / "valid.parquet").write_bytes(b"mine")
    del site.files["valid.parquet"]
    problem(tmp_path, force=True)
    assert (tmp_path / NAME / "valid.parquet").read_bytes() == b"mine"


def test_files_put_there_by_hand(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(site.files[name])
    assert get(tmp_path) == []
    assert check_manifest(folder) == []
    assert site.log == []
    (folder / "manifest.json").unlink()
    (folder / "train.parquet").write_bytes(content(5))
    assert "found SHA-256" in problem(tmp_path)


def test_a_changed_item_info_can_be_fetched_anew(site: Site, tmp_path: Path) -> None:
    get(tmp_path)
    path = tmp_path / NAME / "valid.parquet"
    with recorded_change(path, command="a test"):
        path.write_bytes(content(4))
    assert check_manifest(path.parent) == []
    assert get(tmp_path) == []
    assert get(tmp_path, force=True) == ["valid.parquet"]


def test_what_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no data set 'MicroLens_1M'; .* \(did you mean"):
        fetch("MicroLens_1M", out=tmp_path)
    assert "no file x; known: train.parquet, valid.parquet, " in problem(tmp_path, files=["x"])
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "manifest.json").write_text('{"files": {"a": {"size": 1}}}')
    assert "not a manifest: a file without size, sha256 or url" in problem(tmp_path)
    (tmp_path / NAME / "manifest.json").unlink()
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert "pip install '.[fetch]'" in problem(tmp_path)


def test_a_full_disk(site: Site, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert "train.parquet: cannot be written: " in problem(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert get(tmp_path) == FILES


def test_no_manifest_no_problems(tmp_path: Path) -> None:
    assert check_manifest(tmp_path) == []


def test_the_command(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    arguments = parser.parse_args([NAME, "--out", str(tmp_path)])
    module.run(arguments)
    module.run(arguments)
    out, err = capsys.readouterr()
    assert out.count("downloaded, 300008 bytes, SHA-256 ") == 2
    assert out.count("there already, 300008 bytes") == 2
    assert err == ""
