"""What compare.py shows of the runs that are being made."""
import heapq
import json
import shutil
import sys
import time


class Follower:
    """Reads what a run appends to its metrics: steps done, and seconds of steps and evaluations per token."""

    def __init__(self, file):
        self.file, self.at, self.step, self.tokens, self.seconds = file, 0, 0, 0, 0.0

    def read(self):
        try:
            with open(self.file, "rb") as file:
                file.seek(0, 2)
                if file.tell() < self.at:  # cut back, or made anew
                    self.__init__(self.file)
                file.seek(self.at)
                lines = file.read().splitlines(keepends=True)
        except OSError:
            return
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self.at += len(line)
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("type") in ("step", "eval"):
                self.seconds += record["seconds"]
            if record.get("type") == "step":
                self.step, self.tokens = record["step"], record["tokens"]

    def seconds_per_token(self):
        return self.seconds / self.tokens if self.tokens else None


def duration(seconds):
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Time left of all runs: the tokens that are left of each, at its config's seconds per token so far."""

    def __init__(self, plan, at_once):
        self.plan, self.at_once, self.left, self.rate = plan, at_once, {}, {}
        self.number, self.shown = 0, 0.0
        self.terminal = sys.stderr.isatty()

    def expect(self, name, config, tokens):
        """Runs are to be given in the order in which they begin."""
        self.number += name not in self.left
        self.left[name] = (config, tokens)

    def finished(self, name):
        """Returns how many are, of how many."""
        del self.left[name]
        return f"{self.number - len(self.left)} of {self.number}"

    def rates(self):
        """Seconds per token of each config: as measured before, or in its runs so far, with their evaluations."""
        entries = self.plan["configs"].items()
        timed = {config: entry["timing"]["seconds_per_step"] / entry["tokens_per_step"]
                 for config, entry in entries if "timing" in entry}
        return {**timed, **self.rate}

    def seconds_left(self):
        """Each run goes where one ends first, as in the queue; the first ones have begun."""
        rates = self.rates()
        if not rates or not self.left:
            return None
        average, ends = sum(rates.values()) / len(rates), [0.0] * self.at_once
        for config, tokens in self.left.values():
            heapq.heapreplace(ends, ends[0] + tokens * rates.get(config, average))
        return max(ends)

    def show(self, runs):
        """Of what runs now, (name, step, steps). On a terminal in place, elsewhere a line every 30 seconds."""
        if not runs or time.monotonic() - self.shown < (0.5 if self.terminal else 30):
            return
        self.shown, left = time.monotonic(), self.seconds_left()
        text = f"{duration(left)} left of all runs; " if left is not None else ""
        text += ", ".join(f"{name} {step}/{steps}" for name, step, steps in runs)
        sys.stderr.write(f"\r{text[:shutil.get_terminal_size().columns - 1]}\033[K" if self.terminal else f"  {text}\n")
        sys.stderr.flush()

    def clear(self):
        if self.terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def line(self, text):
        self.clear()
        print(f"[compare] {text}", flush=True)
