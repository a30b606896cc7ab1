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
import hashlib
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile

TOP = pathlib.Path(__file__).resolve().parent.parent
ENDPOINT = "https://huggingface.co"
NPM = "npm install --prefix build/npm hyparquet@1.33.0 hyparquet-compressors@1.1.2"
TOKEN_BYTES = {"10BT": 21e9, "100BT": 200e9, "350BT": 700e9}  # of the prepared set
RETRIES, SECONDS_BETWEEN, TIMEOUT = 6, 5, 60


class Failure(Exception):
    pass


class File:
    """size and sha256 as the server tells them."""
    def __init__(self, url, name, size, sha256):
        self.url, self.name, self.size, self.sha256 = url, name, size, sha256


def open_url(url, begin=0):
    request = urllib.request.Request(url, headers={"User-Agent": "scfa", **({"Range": f"bytes={begin}-"} if begin else {})})
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def host_of(url):
    return url.split("/")[2]


def list_files(repository, folder, suffix):
    """The files of a folder of a Hugging Face data set, with the size and the SHA-256 that Git LFS has of them."""
    endpoint = os.environ.get("HF_ENDPOINT", ENDPOINT).rstrip("/")
    url = f"{endpoint}/api/datasets/{repository}/tree/main/{folder}".rstrip("/")
    try:
        with open_url(url) as answer:
            entries = json.load(answer)
        found = [File(f"{endpoint}/datasets/{repository}/resolve/main/{entry['path']}", pathlib.PurePath(entry["path"]).name,
                      entry["lfs"]["size"], entry["lfs"]["oid"]) for entry in entries if entry["path"].endswith(suffix)]
    except urllib.error.HTTPError as error:
        raise Failure(f"{url}: the server says {error.code} {error.reason}") from error
    except (OSError, urllib.error.URLError) as error:
        raise Failure(f"{host_of(url)} cannot be reached: {getattr(error, 'reason', error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{url}: is not the list of files that was expected") from error
    if not found:
        raise Failure(f"{url}: has no file that ends in {suffix}")
    return sorted(found, key=lambda file: file.name)


class Progress:
    """A line on a terminal, or one every ten seconds elsewhere."""
    def __init__(self, total):
        self.total, self.done, self.began, self.at_begin, self.shown = total, 0, time.monotonic(), None, 0.0

    def add(self, count, counts=True):
        self.done += count
        if not counts:  # what was there before
            return
        if self.at_begin is None:
            self.at_begin = self.done - count
        now = time.monotonic()
        if now - self.shown < (0.5 if sys.stderr.isatty() else 10):
            return
        self.shown = now
        rate = (self.done - self.at_begin) / max(now - self.began, 1e-3)
        left = (self.total - self.done) / rate if rate > 0 else 0
        text = f"{self.done / 1e9:.2f} of {self.total / 1e9:.2f} GB, {rate / 1e6:.1f} MB/s, {left / 60:.0f} min left"
        print(f"\r{text}\033[K" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def is_complete(path, file):
    """Whether the file was downloaded and verified before: its name has no .part then."""
    return path.exists() and path.stat().st_size == file.size


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
    failures, received = 0, False
    while begin < file.size:
        try:
            with open_url(file.url, begin) as answer:
                if begin and answer.status != 206:  # the server does not go on: from the start
                    progress.add(-begin, counts=False)
                    begin = 0
                with open(part, "ab" if begin else "wb") as out:
                    while block := answer.read(1 << 20):
                        out.write(block)
                        begin += len(block)
                        progress.add(len(block))
                        failures, received = 0, True
            if begin < file.size:
                raise OSError("the connection ended early")
        except urllib.error.HTTPError as error:
            raise Failure(f"{file.url}: the server says {error.code} {error.reason}") from error
        except OSError as error:
            if getattr(error, "errno", None) in (28, 122):  # no space, quota
                raise Failure(f"{part}: {error.strerror}; the same command goes on from there") from error
            failures += 1
            if failures == RETRIES or not received:
                where = f"{host_of(file.url)}: {getattr(error, 'reason', error)}"
                raise Failure(f"{where}; the same command goes on from there" if begin else f"{where}; nothing was downloaded") from error
            time.sleep(SECONDS_BETWEEN)
    found = sha256_of(part)
    if begin != file.size or found != file.sha256:
        part.unlink()
        raise Failure(f"{file.name}: its SHA-256 is {found}, not {file.sha256}; it was removed, and the same command downloads it again")
    part.rename(path)
    return path


def check_disk(folder, needed):
    """On the file system of a folder that may not be there yet."""
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise Failure(f"{folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")


# ---- the data sets --------------------------------------------------------------------------------------------------

def parquet_text(files, field):
    return ["node", str(TOP / "scripts/parquet_text.mjs"), "--field", field, *map(str, files)]


class OpenWebText2:
    set_bytes, needs_node = 31e9, False

    def files(self, args):
        return list_files("segyges/OpenWebText2", "", "openwebtext2.jsonl.zst.tar")

    def convert(self, files, prepare):
        run(prepare + ["--input", *map(str, files)])


class OpenWebText:
    set_bytes, needs_node = 19e9, True

    def files(self, args):
        return list_files("Skylion007/openwebtext", "plain_text", ".parquet")

    def convert(self, files, prepare):
        run(prepare + ["--input", "-", "--stdin-format", "jsonl"], parquet_text(files, "text"))


class FineWebEdu(OpenWebText):
    def files(self, args):
        self.set_bytes = TOKEN_BYTES[args.subset]
        return list_files("HuggingFaceFW/fineweb-edu", f"sample/{args.subset}", ".parquet")


class Enwik8:
    set_bytes, needs_node = 0.31e9, False
    size, sha256 = 36_445_475, "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc"

    def files(self, args):
        return [File(args.mirror or "http://mattmahoney.net/dc/enwik8.zip", "enwik8.zip", self.size, self.sha256)]

    def convert(self, files, prepare):
        command = prepare + ["--input", "-", "--stdin-format", "text", "--tokenizer", "bytes"]
        if not any(word.startswith("--val-fraction") for word in command):
            command += ["--val-fraction", "0.05"]  # its last 5 MB
        with zipfile.ZipFile(files[0]) as archive, archive.open(archive.namelist()[0]) as text:
            with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
                try:
                    shutil.copyfileobj(text, process.stdin, 1 << 20)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # it has said why
                finish(process)


DATASETS = {"openwebtext2": OpenWebText2, "openwebtext": OpenWebText, "fineweb_edu": FineWebEdu, "enwik8": Enwik8}


def finish(process):
    if process.wait() != 0:
        raise Failure("nothing was prepared; the downloaded files are kept")


def run(command, source=None):
    """With the output of source as standard input. A source that fails is a failure too: its text would be cut short."""
    if source is None:
        return finish(subprocess.Popen(command))
    # The set appears only if all of the text came: prepare_data sees the end of its input after the reader has succeeded.
    with subprocess.Popen(source, stdout=subprocess.PIPE) as reader, subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        try:
            shutil.copyfileobj(reader.stdout, process.stdin, 1 << 20)
            if reader.wait() != 0:
                process.terminate()
            process.stdin.close()
        except BrokenPipeError:  # it has said why
            reader.kill()
        finish(process)


def check_tools(dataset):
    if not os.access(TOP / "prepare_data", os.X_OK):
        raise Failure("./prepare_data: not there; scripts/setup.sh builds it")
    if dataset.needs_node and not shutil.which("node"):
        raise Failure("Parquet files are read with node, which is not installed (apt-get install nodejs npm)")
    if dataset.needs_node and not (TOP / "build/npm/node_modules/hyparquet").exists():
        raise Failure(f"Parquet files are read with hyparquet, which is not installed: {NPM}")


def prepare(name, args, rest):
    dataset = DATASETS[name]()
    output, downloads = pathlib.Path(args.output or TOP / "data" / name), pathlib.Path(args.downloads or TOP / "downloads" / name)
    if (output / "manifest.json").exists() and "--overwrite" not in rest:
        raise Failure(f"{output}: there is a prepared set already; -- --overwrite replaces it")
    check_tools(dataset)
    files = dataset.files(args)
    missing = sum(file.size for file in files if not is_complete(downloads / file.name, file))
    missing -= sum(part.stat().st_size for file in files if (part := downloads / (file.name + ".part")).exists())
    try:
        check_disk(downloads, max(missing, 0) + dataset.set_bytes)
        check_disk(output, dataset.set_bytes)
        downloads.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from error
    total = sum(file.size for file in files)
    print(f"{name}: {len(files)} file{'s' if len(files) > 1 else ''} of {total / 1e9:.2f} GB to {downloads}", flush=True)
    progress = Progress(total)
    paths = [download(file, downloads, progress) for file in files]
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
    try:
        prepare(name, args, words[split + 1:])
    except Failure as failure:
        sys.exit(f"prepare_{name}.sh: {failure}")
    except KeyboardInterrupt:
        sys.exit(f"prepare_{name}.sh: stopped; the same command goes on")


if __name__ == "__main__":
    main(sys.argv[1:])
