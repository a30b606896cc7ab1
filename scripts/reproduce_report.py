"""What scripts/reproduce.py writes: HTML of tables, plots and experiments, in one file."""
import datetime
import html
import re
import shlex
import subprocess

from attention_patterns import MEANINGS
from files import read_json, write_whole

STYLE = """body{font:14px/1.5 sans-serif;max-width:1000px;margin:2em auto;padding:0 1em}table{border-collapse:collapse;margin:1em 0}
td,th{border:1px solid #ccc;padding:2px 8px;text-align:left}pre{overflow-x:auto;background:#f6f6f6;padding:8px}svg{max-width:100%;height:auto}"""


def table(rows, header):
    """Cells may have several lines."""
    cells = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell)).replace(chr(10), '<br>')}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in header)}</tr>{cells}</table>"


def note(text):
    return f"<p>{html.escape(text)}</p>"


def preformatted(path):
    return f"<pre>{html.escape(path.read_text(encoding='utf-8'))}</pre>" if path.exists() else ""


def minutes(seconds):
    return f"{int(seconds) // 3600} h {int(seconds) // 60 % 60:02d} min" if seconds >= 3600 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def commit_of(program):
    """What a program was built from, as it says itself."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\((.+)\)", done.stdout)
    return found[1] if found else "unknown"


def machine():
    """GPUs and driver."""
    try:
        done = subprocess.run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.strip():
            return "; ".join(sorted({f"{name}, driver {driver}" for name, driver in
                                     (line.split(", ") for line in done.stdout.strip().splitlines())}))
    except OSError:
        pass
    return "no GPU"


def stamps_of(experiment, folder):
    """Of the steps that are done."""
    paths = [folder / f"{step}.done.json" for step in experiment.step_names]
    return [read_json(path) for path in paths if path.exists()]


def section(experiment, name, folder):
    parts = [f"<h2 id='{name}'>{html.escape(experiment.title)}</h2>", note(experiment.__doc__), experiment.report(folder)]
    missing = [step + (" (of --all)" if step in experiment.steps_of_all else "") for step in experiment.step_names
               if not (folder / f"{step}.done.json").exists()]
    if missing:
        parts.append(note(f"Not done yet, of {len(experiment.step_names)} steps: {', '.join(missing)}."))
    for stamp in stamps_of(experiment, folder):
        parts.append(f"<p><small>{html.escape(stamp['date'])}, commit {stamp['commit']}, {html.escape(stamp['machine'])}, "
                     f"{minutes(stamp['seconds'])}: <code>{html.escape(shlex.join(stamp['command']))}</code></small></p>")
    for config in experiment.configs(folder):
        parts.append(f"<details><summary>{html.escape(config.name)}</summary>{preformatted(config)}</details>")
    return "".join(parts)


def write_report(out, scale, data, experiments):
    """experiments: {name: experiment}; those that have done nothing yet are left out."""
    folders = {name: out / (experiment.home or name) for name, experiment in experiments.items()}
    stamps = {name: stamps_of(experiment, folders[name]) for name, experiment in experiments.items()}
    done = {name: experiment for name, experiment in experiments.items() if experiment.has_results(folders[name])}
    claims = [claim for name, experiment in done.items() for claim in experiment.claims(folders[name])]
    machines = sorted({stamp["machine"] for of_one in stamps.values() for stamp in of_one})
    parts = [f"<h1>Sparse causal attention, reproduced: scale {scale}</h1>",
             note("Pagliardini et al. 2023, Faster Causal Attention Over Large Sequences Through Sparse Flash Attention, arXiv:2306.01160."),
             table([["written", datetime.date.today().isoformat()], ["machines", "; ".join(machines) or machine()], ["data", data or "-"],
                    ["experiments", ", ".join(done) or "none yet"]], ["what", "which"])]
    if (out / "about.txt").exists():
        parts.append(note((out / "about.txt").read_text(encoding="utf-8")))
    if scale == "smoke":
        parts.append("<p><b>Scale smoke: models and texts are so small that the figures mean nothing.</b></p>")
    if claims:
        parts.append("<h2>The paper's claims</h2>" + table(claims, ["claim of the paper", "measured here", "today"]))
    parts.append("<details><summary>what the names of attention mean</summary>" + table(MEANINGS.items(), ["name", "a token sees"]) + "</details>")
    parts += [section(experiment, name, folders[name]) for name, experiment in done.items()]
    page = f"<!DOCTYPE html><html lang='en'><meta charset='utf-8'><title>reproduce {scale}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    write_whole(out / "report.html", page)
