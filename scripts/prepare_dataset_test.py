#!/usr/bin/env python3
"""Checks scripts/prepare_dataset.py on small files of the real formats, from a server of its own. Needs ./prepare_data and
zstd; the Parquet cases need node, and npm or an installed hyparquet."""
import argparse
import contextlib
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest
import zipfile
from unittest import mock

import prepare_dataset
from prepare_dataset import TOP, Failure

PARQUET = TOP / "tests/fixtures/parquet"


class Server(http.server.ThreadingHTTPServer):
    """Serves files as Hugging Face does. cut: of the first answer of each file only so many bytes come."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.cut, self.ranges = {}, [], None, True  # files: {path in the data set: bytes}
        self.lies = {}  # {path: what the listing says the SHA-256 is}
        self.busy = 0  # so many answers are 503
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        begin = int(self.headers["Range"][6:-1]) if "Range" in self.headers and server.ranges else 0
        server.requests.append((self.path, begin))
        if "/api/datasets/" in self.path:
            folder = self.path.split("/tree/main", 1)[1].strip("/")
            entries = [{"type": "file", "path": path, "size": len(data),
                        "lfs": {"oid": server.lies.get(path, hashlib.sha256(data).hexdigest()), "size": len(data)}}
                       for path, data in server.files.items() if str(pathlib.PurePosixPath(path).parent) in (folder, folder or ".")]
            return self.answer(200, json.dumps([{"type": "directory", "path": "x"}, *entries]).encode())
        path = self.path.split("/resolve/main/", 1)[-1].strip("/")
        if path not in server.files:
            return self.answer(404, b"")
        data = server.files[path]
        if server.busy:
            server.busy -= 1
            return self.answer(503, b"")
        self.answer(206 if begin else 200, data[begin:], server.cut if begin == 0 else None)

    def answer(self, status, data, cut=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:cut])


def documents(count):
    return [f"Document {i}: some words, and line\ntwo of it, {i * i}.\n" for i in range(count)]


def json_lines(texts):
    return "".join(json.dumps({"text": text, "meta": {"n": 1}}) + "\n" for text in texts).encode()


def archive_of(texts):
    """A tar of .jsonl.zst, as OpenWebText2 is published."""
    packed = subprocess.run(["zstd", "-q", "-c"], input=json_lines(texts), capture_output=True, check=True).stdout
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo("2020-01.jsonl.zst")
        member.size = len(packed)
        tar.addfile(member, io.BytesIO(packed))
    return out.getvalue()


class PrepareDataset(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.server = Server()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        for patch in (mock.patch.dict(os.environ, HF_ENDPOINT=self.server.address), mock.patch.object(prepare_dataset, "SECONDS_BETWEEN", 0)):
            patch.start()
            self.addCleanup(patch.stop)

    def prepare(self, name, *rest, **args):
        given = argparse.Namespace(output=str(self.folder / "set"), downloads=str(self.folder / "down"), subset="10BT", mirror=None, **args)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
                open(self.folder / "log", "w", encoding="utf-8") as log, redirected_to(log):
            prepare_dataset.prepare(name, given, ["--val-fraction", "0.2", *rest])

    def failure(self, *words, **args):
        with self.assertRaises(Failure) as caught:
            self.prepare(*words, **args)
        text = str(caught.exception)
        self.assertNotIn("\n", text)
        self.assertFalse((self.folder / "set").exists() and "already" not in text)
        return text

    def info(self):
        return subprocess.run([TOP / "prepare_data", "info", self.folder / "set"], capture_output=True, text=True, check=True).stdout

    def assert_documents(self, count):
        counts = [int(line.split(", ")[1].split()[0]) for line in self.info().splitlines()[1:]]
        self.assertEqual(sum(counts), count)

    def test_openwebtext2(self):
        self.server.files["openwebtext2.jsonl.zst.tar"] = archive_of(documents(50))
        self.prepare("openwebtext2")
        self.assert_documents(50)
        self.assertIn("tokenizer gpt2", self.info())
        self.assertEqual(sorted(os.listdir(self.folder / "down")), ["openwebtext2.jsonl.zst.tar", "openwebtext2.jsonl.zst.tar.sha256"])
        asked = len(self.server.requests)
        self.assertIn("already", self.failure("openwebtext2"))
        self.assertEqual(len(self.server.requests), asked)  # before anything is asked for
        self.prepare("openwebtext2", "--overwrite")
        self.assertEqual(len(self.server.requests), asked + 1)  # the list alone: the file is here

    def test_a_connection_that_ends_goes_on(self):
        data = self.server.files["openwebtext2.jsonl.zst.tar"] = archive_of(documents(50))
        self.server.cut = len(data) // 3
        self.prepare("openwebtext2")
        self.assert_documents(50)
        self.assertEqual([begin for _, begin in self.server.requests[1:]], [0, len(data) // 3])

    def test_a_run_that_was_stopped_goes_on(self):
        data = self.server.files["openwebtext2.jsonl.zst.tar"] = archive_of(documents(50))
        part = self.folder / "down/openwebtext2.jsonl.zst.tar.part"
        part.parent.mkdir()
        part.write_bytes(data[:1000])
        self.prepare("openwebtext2")
        self.assert_documents(50)
        self.assertEqual(self.server.requests[-1][1], 1000)
        self.assertFalse(part.exists())

    def test_a_server_without_ranges_starts_again(self):
        data = self.server.files["openwebtext2.jsonl.zst.tar"] = archive_of(documents(50))
        (self.folder / "down").mkdir()
        (self.folder / "down/openwebtext2.jsonl.zst.tar.part").write_bytes(data[:1000])
        self.server.ranges = False
        self.prepare("openwebtext2")
        self.assert_documents(50)

    def test_a_wrong_checksum_is_an_error(self):
        self.server.files["openwebtext2.jsonl.zst.tar"] = archive_of(documents(5))
        self.server.lies["openwebtext2.jsonl.zst.tar"] = "0" * 64
        self.assertIn("SHA-256", self.failure("openwebtext2"))
        self.assertEqual(os.listdir(self.folder / "down"), [])

    def test_a_busy_server_is_asked_again(self):
        data = self.server.files["openwebtext2.jsonl.zst.tar"] = archive_of(documents(50))
        self.server.cut, self.server.busy = len(data) // 2, 0
        answer = Handler.answer

        def then_busy(handler, status, body, cut=None):
            answer(handler, status, body, cut)
            if cut:
                self.server.busy = 2
        with mock.patch.object(Handler, "answer", then_busy):
            self.prepare("openwebtext2")
        self.assert_documents(50)
        self.assertEqual(len(self.server.requests), 5)

    def test_no_more_is_written_than_was_announced(self):
        data = self.server.files["openwebtext2.jsonl.zst.tar"] = archive_of(documents(50))
        listing = [prepare_dataset.File(f"{self.server.address}/x/resolve/main/openwebtext2.jsonl.zst.tar", "a.tar", 1000,
                                        hashlib.sha256(data[:1000]).hexdigest())]
        with mock.patch.object(prepare_dataset, "list_files", lambda *_: listing):
            self.failure("openwebtext2")  # the archive is cut short
        self.assertEqual((self.folder / "down/a.tar").stat().st_size, 1000)

    def test_a_damaged_file_that_is_there_is_an_error(self):
        data = bytearray(archive_of(documents(5)))
        self.server.files["openwebtext2.jsonl.zst.tar"] = bytes(data)
        data[700] ^= 1
        (self.folder / "down").mkdir()
        (self.folder / "down/openwebtext2.jsonl.zst.tar").write_bytes(data)
        self.assertIn("is not the file that the server has; remove it", self.failure("openwebtext2"))

    def test_names_that_are_no_names_are_refused(self):
        for path in ("a/../openwebtext2.jsonl.zst.tar", "..openwebtext2.jsonl.zst.tar", "a/$(x)openwebtext2.jsonl.zst.tar"):
            with mock.patch.object(Handler, "do_GET", lambda handler: handler.answer(200, json.dumps(
                    [{"path": path, "lfs": {"oid": "0" * 64, "size": 5}}]).encode())):
                self.assertIn("is not the list", self.failure("openwebtext2"))
        for entry in ({"path": 3}, {"path": "openwebtext2.jsonl.zst.tar", "lfs": {"oid": "x", "size": 5}},
                      {"path": "openwebtext2.jsonl.zst.tar", "lfs": {"oid": "0" * 64, "size": "5"}}):
            with mock.patch.object(Handler, "do_GET", lambda handler: handler.answer(200, json.dumps([entry]).encode())):
                self.assertIn("is not the list", self.failure("openwebtext2"))
        with mock.patch.dict(os.environ, HF_ENDPOINT="foo"):
            self.assertIn("HF_ENDPOINT: must be an address", self.failure("openwebtext2"))

    @unittest.skipUnless(shutil.which("node"), "there is no node")
    def test_a_stop_in_the_middle_of_the_text_leaves_no_set(self):
        text = "".join(json.dumps({"text": document}) + "\n" for document in documents(500))
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(open(self.folder / "log", "w", encoding="utf-8"))
            stack.enter_context(redirected_to(log))

            def stopped(source, to, _):
                to.write(text.encode())
                to.flush()
                raise KeyboardInterrupt
            stack.enter_context(mock.patch.object(shutil, "copyfileobj", stopped))
            with self.assertRaises(KeyboardInterrupt):
                prepare_dataset.run([TOP / "prepare_data", "--input", "-", "--stdin-format", "jsonl", "--output", self.folder / "set"],
                                    ["sleep", "30"])
        self.assertFalse((self.folder / "set").exists())

    def test_too_little_disk_is_told_first(self):
        self.server.files["openwebtext2.jsonl.zst.tar"] = archive_of(documents(5))
        with mock.patch.object(shutil, "disk_usage", return_value=mock.Mock(free=10**9)):
            text = self.failure("openwebtext2")
        self.assertIn("31.0 GB are needed and 1.0 GB are free", text)
        self.assertEqual(len(self.server.requests), 1)
        self.assertFalse((self.folder / "down").exists())

    def test_no_network_is_one_line(self):
        with mock.patch.dict(os.environ, HF_ENDPOINT="http://127.0.0.1:9"):
            self.assertIn("127.0.0.1:9 cannot be reached", self.failure("openwebtext2"))
        done = subprocess.run([TOP / "scripts/prepare_openwebtext2.sh", "--output", self.folder / "set"], capture_output=True, text=True,
                              env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"})
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)

    def test_a_file_that_is_not_there_is_named(self):
        nowhere = prepare_dataset.File(self.server.address + "/none.zip", "enwik8.zip", 5, "")
        with mock.patch.object(prepare_dataset.Enwik8, "files", lambda *_: [nowhere]):
            self.assertIn("/none.zip: the server says 404", self.failure("enwik8"))
        self.assertIn("has no file that ends in openwebtext2.jsonl.zst.tar", self.failure("openwebtext2"))

    def test_enwik8(self):
        text = "".join(documents(200)).encode()
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("enwik8", text)
        self.server.files["enwik8.zip"] = data = out.getvalue()
        file = prepare_dataset.File(self.server.address + "/enwik8.zip", "enwik8.zip", len(data), hashlib.sha256(data).hexdigest())
        with mock.patch.object(prepare_dataset.Enwik8, "files", lambda *_: [file]):
            self.prepare("enwik8")
        self.assertIn("tokenizer bytes", self.info())
        counts = [int(line.split()[1]) for line in self.info().splitlines()[1:]]
        self.assertEqual(sum(counts), len(text) + 1)  # and the token that ends it

    @unittest.skipUnless(shutil.which("node"), "there is no node")
    def test_parquet(self):
        if not (TOP / "build/npm/node_modules/hyparquet-compressors").exists():
            subprocess.run(prepare_dataset.NPM.split(), cwd=TOP, check=True, capture_output=True)
        for name in ("zstd", "snappy"):
            self.server.files[f"plain_text/train-{name}.parquet"] = (PARQUET / f"{name}.parquet").read_bytes()
        lines = subprocess.run(["node", TOP / "scripts/parquet_text.mjs", PARQUET / "zstd.parquet"], capture_output=True, text=True, check=True)
        texts = [json.loads(line)["text"] for line in lines.stdout.splitlines()]
        self.assertEqual(texts, ["" if i % 7 == 3 else f'Document {i}: naïve café 東京 "quoted"\nline two\t{"x" * i}' for i in range(40)])
        self.prepare("openwebtext")
        self.assert_documents(2 * sum(1 for text in texts if text))  # an empty one adds nothing
        for broken in (b"PAR1 and no more", (PARQUET / "zstd.parquet").read_bytes()[:-700]):
            shutil.rmtree(self.folder / "set")
            shutil.rmtree(self.folder / "down")
            self.server.files["plain_text/train-zzz.parquet"] = broken
            self.assertIn("nothing was prepared", self.failure("openwebtext"))
            self.assertIn("train-zzz.parquet", (self.folder / "log").read_text(encoding="utf-8"))
            (self.folder / "set").mkdir()

    def test_words_are_checked(self):
        for words in (["mnist"], []):
            done = subprocess.run([sys.executable, TOP / "scripts/prepare_dataset.py", *words], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)


@contextlib.contextmanager
def redirected_to(log):
    """The output of programs that are started meanwhile."""
    kept = [os.dup(1), os.dup(2)]
    os.dup2(log.fileno(), 1), os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept[0], 1), os.dup2(kept[1], 2)
        for fd in kept:
            os.close(fd)


if __name__ == "__main__":
    unittest.main()
