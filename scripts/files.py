"""Files that scripts read and write: tables, and texts that appear only when all of them is written."""
import csv
import fcntl
import io
import json
import os


def write_whole(path, text):
    """Puts a file in place when all of it is written."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def lock_folder(folder, wait=False):
    """A lock on a folder that is there, until what is returned is closed or this program ends, also if it is killed; None if another
    program has it. With wait it waits for that one."""
    lock = open(folder / ".lock", "w", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        lock.close()
        return None
    return lock


def write_json(path, content):
    write_whole(path, json.dumps(content, indent=1) + "\n")


def read_json(path):
    """{} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_csv(path):
    """Rows as dictionaries; none where there is no file."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def csv_text(columns, rows):
    """rows: dictionaries, of which other keys are left out and missing ones empty."""
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
