"""Downloads that go on where they stopped."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

# A block that a cut leaves unfinished is lost, so this one is small.
_NETWORK_BLOCK = 1 << 15


class ResumingDownloader:
    """A downloader for pooch that keeps what it has got, and asks only for the rest.

    Data goes to ``partial``, which survives a cut connection. ``<partial>.tag`` beside it holds
    the server's ETag (or date): a file that has changed meanwhile is fetched from its start. A
    server without Range support answers with the whole file, and that is taken.

    Args:
        partial: Where the unfinished file lies.
        timeout: Seconds, for the connection and for each next piece of data.
        retries: How often a connection that was cut after bringing something is taken up again.
        quiet: Show no progress bar.
    """

    def __init__(self, partial: Path, *, timeout: float, retries: int, quiet: bool) -> None:
        self.partial = partial
        self.tag = partial.with_name(partial.name + ".tag")
        self.timeout = timeout
        self.retries = retries
        self.quiet = quiet

    def __call__(self, url: str, output_file: Any, pooch: Any, check_only: bool = False) -> None:
        """pooch's protocol: put the content of ``url`` at the path ``output_file``."""
        from requests.exceptions import ChunkedEncodingError, ConnectionError, Timeout

        for left in range(self.retries, -1, -1):
            before = self._size()
            try:
                while not self._continue(url):
                    self._discard()
                break
            except (ChunkedEncodingError, ConnectionError, Timeout):
                if not left or self._size() <= before:
                    raise
                time.sleep(1)
        os.replace(self.partial, output_file)
        self._discard()

    def _continue(self, url: str) -> bool:
        """Complete the partial file; False if it is of no use and must go first."""
        import requests

        have = self._size()
        tag = self.tag.read_text(encoding="utf-8") if have and self.tag.is_file() else ""
        # Compressed on the way, positions would not be those of the file.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-"} | ({"If-Range": tag} if tag else {})
        with requests.get(url, headers=headers, stream=True, timeout=self.timeout) as answer:
            sent = answer.headers
            if have and answer.status_code == 416:  # nothing to send beyond what is here
                return sent.get("Content-Range") == f"bytes */{have}"
            answer.raise_for_status()
            tags = (sent.get("ETag", ""), sent.get("Last-Modified", ""))
            start = 0
            total = sent.get("Content-Length") if "Content-Encoding" not in sent else None
            if answer.status_code == 206:
                match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", sent.get("Content-Range", ""))
                if not match or int(match[1]) != have or (tag and tag not in tags):
                    return False
                start, total = have, match[2]
            # A weak ETag does not promise equal bytes, and If-Range must not carry one.
            strong = [text for text in tags if text and not text.startswith("W/")]
            self.tag.write_text(strong[0] if strong else "", encoding="utf-8")
            bar = tqdm(
                desc=url.rsplit("/", 1)[-1],
                initial=start,
                total=int(total) if total else None,
                unit="B",
                unit_scale=True,
                disable=self.quiet,
            )
            with self.partial.open("ab" if start else "wb") as file, bar:
                for block in answer.iter_content(_NETWORK_BLOCK):
                    file.write(block)
                    bar.update(len(block))
        if total and self._size() != int(total):
            raise requests.exceptions.ConnectionError(f"cut after {self._size()} of {total} bytes")
        return True

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)
