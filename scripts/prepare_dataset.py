#!/usr/bin/env python3
"""Downloads a public data set and prepares it for training: scripts/prepare_NAME.sh calls this with its name.

  scripts/prepare_openwebtext2.sh                      29 GB to download, 66 GB of text, into data/openwebtext2
  scripts/prepare_openwebtext.sh                       24 GB, 40 GB of text
  scripts/prepare_fineweb_edu.sh --subset 10BT         28 GB, 10 G tokens; or 100BT, 350BT
  scripts/prepare_enwik8.sh                            36 MB, 100 MB of text, by bytes

Downloads go to --downloads. They go on where they were stopped, and each file's size and SHA-256 are compared with what the
server (for enwik8, this script) says of it. Free disk is checked before anything is written. Words behind -- go to
./prepare_data. HF_ENDPOINT names another host than https://huggingface.co, as for Hugging Face's own programs.
"""
import argparse
import ctypes
import fcntl
import hashlib
import http.client
import json
import os
import pathlib
import shlex
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib

TOP = pathlib.Path(__file__).resolve().parent.parent
ENDPOINT = "https://huggingface.co"
NPM = "npm install --prefix build/npm hyparquet@1.33.0 hyparquet-compressors@1.1.2"
TOKEN_BYTES = {"10BT": 21e9, "100BT": 200e9, "350BT": 700e9}  # of the prepared set
RETRIES, SECONDS_BETWEEN, TIMEOUT = 6, 5, 60


class Failure(Exception):
    pass


class File:
    """size and sha256 as the server, or this script, tells them."""
    def __init__(self, url, name, size, sha256):
        self.url, self.name, self.size, self.sha256 = url, name, size, sha256


def open_url(url, begin=0):
    request = urllib.request.Request(url, headers={"User-Agent": "scfa", **({"Range": f"bytes={begin}-"} if begin else {})})
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def host_of(url):
    return urllib.parse.urlsplit(url).netloc


def checked_url(url, where):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Failure(f"{where}: must be an address like https://host/..., not {url}")
    return url


# What a connection can end with; an HTTPError is an OSError too, and is looked at first.
TROUBLE = (OSError, http.client.HTTPException)


def file_of(entry, endpoint, repository):
    """A file of a listing; nothing that a server says becomes more than a plain name in one folder."""
    path, size, sha256 = entry["path"], entry["lfs"]["size"], entry["lfs"]["oid"]
    name = path.rsplit("/", 1)[-1]
    if not isinstance(size, int) or size <= 0 or not re.fullmatch(r"[0-9a-f]{64}", sha256) or \
            not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*", name) or ".." in path.split("/"):
        raise ValueError(path)
    return File(f"{endpoint}/datasets/{repository}/resolve/main/{urllib.parse.quote(path)}", name, size, sha256)


def list_files(repository, folder, suffix):
    """The files of a folder of a Hugging Face data set, with the size and the SHA-256 that Git LFS has of them."""
    endpoint = checked_url(os.environ.get("HF_ENDPOINT") or ENDPOINT, "HF_ENDPOINT").rstrip("/")
    url = f"{endpoint}/api/datasets/{repository}/tree/main/{folder}".rstrip("/")
    try:
        entries, page = [], url
        while page:
            with open_url(page) as answer:
                entries += json.load(answer)
                more = re.search(r'<([^>]+)>;\s*rel="next"', answer.headers.get("Link") or "")
                page = checked_url(more[1], url) if more else None
        found = [file_of(entry, endpoint, repository) for entry in entries if entry["path"].endswith(suffix)]
        if len({file.name for file in found}) < len(found):
            raise ValueError("a name twice")
    except urllib.error.HTTPError as error:
        raise Failure(f"{url}: the server says {error.code} {error.reason}") from error
    except TROUBLE as error:
        raise Failure(f"{host_of(url)} cannot be reached: {getattr(error, 'reason', error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(f"{url}: is not the list of files that was expected") from error
    if not found:
        raise Failure(f"{url}: has no file that ends in {suffix}")
    return sorted(found, key=lambda file: file.name)


class Progress:
    """A line on a terminal, or one every ten seconds elsewhere."""
    def __init__(self, total):
        self.total, self.done, self.began, self.at_begin = total, 0, time.monotonic(), None
        self.shown, self.on_terminal = time.monotonic(), sys.stderr.isatty()

    def add(self, count, counts=True):
        self.done += count
        if not counts:  # what was there before
            return
        if self.at_begin is None:
            self.at_begin = self.done - count
        now = time.monotonic()
        if now - self.shown < (1 if self.on_terminal else 10):
            return
        self.shown = now
        rate = (self.done - self.at_begin) / max(now - self.began, 1e-3)
        left = (self.total - self.done) / rate if rate > 0 else 0
        text = f"{self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB, {rate / 1e6:.1f} MB/s, {left / 60:.0f} min left"
        print(f"\r{text}\033[K" if self.on_terminal else text, end="" if self.on_terminal else "\n", file=sys.stderr, flush=True)

    def clear(self):
        if self.on_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def is_complete(path, file):
    """Whether the file is there as it should be. Its SHA-256 is computed once and kept beside it, with its size and time."""
    if not path.exists():
        return False
    stamp, state = path.with_name(path.name + ".sha256"), path.stat()
    known = f"{file.sha256} {state.st_size} {state.st_mtime_ns}\n"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == known:
        return True
    if state.st_size != file.size or sha256_of(path) != file.sha256:
        raise Failure(f"{path}: is not the file that the server has; remove it, and the same command downloads it")
    stamp.write_text(known, encoding="utf-8")
    return True


def write_to(part, append):
    """The open .part, for this program alone; never through a link that someone put there."""
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    out = open(descriptor, "wb", buffering=0)
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        out.close()
        raise Failure(f"{part}: another program is downloading it") from error
    if append:
        out.seek(0, os.SEEK_END)
    else:
        out.truncate(0)
    return out


def download(file, folder, progress):
    """Writes FILE.part and renames it once its size and checksum are right."""
    path, part = folder / file.name, folder / (file.name + ".part")
    if is_complete(path, file):
        progress.add(file.size, counts=False)
        return path
    begin = part.stat().st_size if part.exists() else 0
    if begin > file.size:
        part.unlink()
        begin = 0
    progress.add(begin, counts=False)
    failures = 0
    while begin < file.size:
        try:
            with open_url(file.url, begin) as answer:
                if begin and answer.status != 206:  # the server does not go on: from the start
                    progress.add(-begin, counts=False)
                    begin = 0
                with write_to(part, append=begin > 0) as out:
                    while block := answer.read(min(1 << 20, file.size - begin)):
                        out.write(block)
                        begin += len(block)
                        progress.add(len(block))
                        failures = 0
            if begin < file.size:
                raise OSError("the connection ended early")
        except TROUBLE as error:
            progress.clear()
            if isinstance(error, urllib.error.HTTPError) and error.code not in (408, 429) and error.code < 500:
                raise Failure(f"{file.url}: the server says {error.code} {error.reason}") from error
            if getattr(error, "errno", None) in (28, 122):  # no space, quota
                raise Failure(f"{part}: {error.strerror}; the same command goes on from there") from error
            failures += 1
            if failures == RETRIES or progress.at_begin is None:  # nothing came so far
                raise Failure(f"{host_of(file.url)}: {getattr(error, 'reason', error)}; the same command goes on from there") from error
            time.sleep(SECONDS_BETWEEN)
    found = sha256_of(part)
    if begin != file.size or found != file.sha256:
        part.unlink()
        raise Failure(f"{file.name}: its SHA-256 is {found}, not {file.sha256}; it was removed, and the same command downloads it again")
    part.rename(path)
    is_complete(path, file)  # leaves the stamp
    return path


def there(folder):
    """The folder, or the nearest one above it that is there."""
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder


def device_of(folder):
    return there(folder).stat().st_dev


def check_disk(folder, needed):
    free = shutil.disk_usage(there(folder)).free
    if free < needed:
        raise Failure(f"{folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")


# ---- the data sets --------------------------------------------------------------------------------------------------

def parquet_text(files, field):
    return ["node", str(TOP / "scripts/parquet_text.mjs"), "--field", field, *map(str, files)]


class OpenWebText2:
    set_bytes, extracted_bytes, needs_node = 31e9, 0, False

    def files(self, args):
        return list_files("segyges/OpenWebText2", "", "openwebtext2.jsonl.zst.tar")

    def convert(self, files, prepare):
        run(prepare + ["--input", *map(str, files)])


class OpenWebText:
    set_bytes, extracted_bytes, needs_node = 19e9, 0, True

    def files(self, args):
        return list_files("Skylion007/openwebtext", "plain_text", ".parquet")

    def convert(self, files, prepare):
        run(prepare + ["--input", "-", "--stdin-format", "jsonl"], parquet_text(files, "text"))


class FineWebEdu(OpenWebText):
    def files(self, args):
        self.set_bytes = TOKEN_BYTES[args.subset]
        return list_files("HuggingFaceFW/fineweb-edu", f"sample/{args.subset}", ".parquet")


class Enwik8:
    set_bytes, extracted_bytes, needs_node = 0.2e9, 0.1e9, False
    size, sha256 = 36_445_475, "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"

    def files(self, args):
        url = checked_url(args.mirror or "http://mattmahoney.net/dc/enwik8.zip", "--mirror")
        return [File(url, "enwik8.zip", self.size, self.sha256)]

    def convert(self, files, prepare):
        text = files[0].with_name("enwik8")
        try:
            with zipfile.ZipFile(files[0]) as archive, archive.open(archive.namelist()[0]) as packed, open(text, "wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Failure(f"{files[0]}: {error}") from error
        command = prepare + ["--input", str(text), "--tokenizer", "bytes"]
        if not any(word.startswith("--val-fraction") for word in command):
            command += ["--val-fraction", "0.05"]  # its last 5 MB
        run(command)
        text.unlink()


DATASETS = {"openwebtext2": OpenWebText2, "openwebtext": OpenWebText, "fineweb_edu": FineWebEdu, "enwik8": Enwik8}


def finish(process):
    if process.wait() != 0:
        raise Failure("nothing was prepared; the downloaded files are kept")


def stop(process):
    """Before its input is closed, which it would take for the end of the text."""
    process.terminate()
    process.wait()


def end_with_parent():
    """In a child: SIGTERM when this program is killed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def run(command, source=None):
    """With the output of source as standard input. A source that fails is a failure too: its text would be cut short."""
    if source is None:
        with subprocess.Popen(command) as process:
            try:
                process.wait()
            except BaseException:
                stop(process)
                raise
        return finish(process)
    # The set appears only if all of the text came: prepare_data sees the end of its input after the reader has succeeded.
    with subprocess.Popen(source, stdout=subprocess.PIPE) as reader, \
            subprocess.Popen(command, stdin=subprocess.PIPE, preexec_fn=end_with_parent) as process:
        try:
            shutil.copyfileobj(reader.stdout, process.stdin, 1 << 20)
            if reader.wait() != 0:
                stop(process)
            process.stdin.close()
        except BrokenPipeError:  # it has said why
            reader.kill()
        except BaseException:  # a signal: what was read so far must not become a set
            stop(process)
            reader.kill()
            raise
        finish(process)


def check_tools(dataset):
    if not os.access(TOP / "prepare_data", os.X_OK):
        raise Failure("./prepare_data: not there; scripts/setup.sh builds it")
    if dataset.needs_node and not shutil.which("node"):
        raise Failure("Parquet files are read with node, which is not installed (apt-get install nodejs npm)")
    modules = TOP / "build/npm/node_modules"
    if dataset.needs_node and not ((modules / "hyparquet").exists() and (modules / "hyparquet-compressors").exists()):
        raise Failure(f"Parquet files are read with hyparquet, which is not installed: {NPM}")


def prepare(name, args, rest):
    dataset = DATASETS[name]()
    output, downloads = pathlib.Path(args.output or TOP / "data" / name), pathlib.Path(args.downloads or TOP / "downloads" / name)
    if (output / "manifest.json").exists() and "--overwrite" not in rest:
        raise Failure(f"{output}: there is a prepared set already; -- --overwrite replaces it")
    if output.exists() and not (output / "manifest.json").exists() and (not output.is_dir() or any(output.iterdir())):
        raise Failure(f"{output}: exists and is not a prepared set; choose another --output")
    check_tools(dataset)
    files = dataset.files(args)
    missing = sum(file.size for file in files if not is_complete(downloads / file.name, file))  # hashes what is new there
    missing -= sum(part.stat().st_size for file in files if (part := downloads / (file.name + ".part")).exists())
    try:
        one_disk = device_of(downloads) == device_of(output)
        check_disk(downloads, max(missing, 0) + dataset.extracted_bytes + (dataset.set_bytes if one_disk else 0))
        check_disk(output, dataset.set_bytes)
        downloads.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from error
    total = sum(file.size for file in files)
    print(f"{name}: {len(files)} file{'s' if len(files) > 1 else ''} of {total / 1e9:.2f} GB to {downloads}", flush=True)
    progress = Progress(total)
    try:
        paths = [download(file, downloads, progress) for file in files]
    finally:
        progress.clear()
    print("all files are here, with the right checksums", flush=True)
    dataset.convert(paths, [str(TOP / "prepare_data"), "--output", str(output), *rest])


def main(words):
    if not words or words[0] not in DATASETS:
        sys.exit(f"prepare_dataset.py: name one of {', '.join(DATASETS)}")
    name = words[0]
    split = words.index("--") if "--" in words else len(words)
    parser = argparse.ArgumentParser(prog=f"prepare_{name}.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", help=f"the prepared set (default data/{name})")
    parser.add_argument("--downloads", help=f"where downloaded files are kept (default downloads/{name})")
    if name == "fineweb_edu":
        parser.add_argument("--subset", choices=sorted(TOKEN_BYTES), default="10BT")
    if name == "enwik8":
        parser.add_argument("--mirror", metavar="URL", help="another place of the same enwik8.zip")
    args = parser.parse_args(words[1:split])
    stopped_by = []

    def raise_stop(number, _):
        stopped_by.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, raise_stop)
    try:
        prepare(name, args, words[split + 1:])
    except Failure as failure:
        sys.exit(f"prepare_{name}.sh: {failure}")
    except KeyboardInterrupt:
        print(f"prepare_{name}.sh: stopped; the same command goes on", file=sys.stderr)
        sys.exit(128 + (stopped_by[0] if stopped_by else signal.SIGINT))


if __name__ == "__main__":
    main(sys.argv[1:])
