"""What the scripts that plot share: matplotlib, if it is there, and tables of ./bench."""
import csv
import sys

NEEDS_MATPLOTLIB = ("matplotlib: apt-get install python3-matplotlib (and run this with the system's python3), "
                    "or pip install matplotlib")


def find_pyplot():
    """matplotlib.pyplot, for pictures in files; None if it is not there."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    return plt


def require_pyplot():
    plt = find_pyplot()
    if plt is None:
        sys.exit(f"plotting needs {NEEDS_MATPLOTLIB}")
    return plt


def save_picture(figure, path, dpi=150):
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        sys.exit(f"{path}: cannot be written: {error.strerror}")
    except ValueError as error:  # not a name of a picture
        sys.exit(f"{path}: {error}")


def read_tables(paths, parse, kind):
    """parse(row) of each row of CSV files; `kind` is what wrote them. Ends the program with a line that names the file."""
    rows = []
    for path in paths:
        try:
            with open(path, encoding="utf-8", newline="") as file:
                for number, row in enumerate(csv.DictReader(file), 2):
                    try:
                        rows.append(parse(row))
                    except (KeyError, TypeError, ValueError):
                        sys.exit(f"{path}:{number}: is not a row of {kind}")
        except OSError as error:
            sys.exit(f"{path}: {error.strerror}")
    if not rows:
        sys.exit(f"{paths[0]}: holds no rows")
    return rows


def choose_patterns(rows, patterns, path):
    """The rows of these patterns (names, comma-separated), or all where there are none named."""
    if not patterns:
        return rows
    rows = [row for row in rows if row["pattern"] in patterns.split(",")]
    if not rows:
        sys.exit(f"--patterns: {path} has none of {patterns}")
    return rows
