"""Programs that a script runs."""
import os
import signal
import subprocess
import sys
import tempfile
import time

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(command, quiet=False):
    """Runs a command to its end and returns its exit code, 128 + N where signal N ended it or came meanwhile."""
    return run_each([command], quiet=quiet)[0]


def run_each(commands, gpus=(None,), quiet=False, ended=lambda number: None):
    """Runs commands in their order, one at a time on each of gpus (values of CUDA_VISIBLE_DEVICES; None leaves the environment as it is).
    Calls ended(number) after each one that ended well; after another, or a signal, none begins any more. Returns the exit code of the first
    that did not end well and its number, or (0, None); the code is 128 + N where signal N ended it or came meanwhile.

    A signal goes to the commands under way, once, because they have sessions of their own; they end in their own way, and this program
    waits for that. Where several run at once, what they say on standard error is shown only if they fail."""
    received, passed_on, bad = [], 0, None
    waiting, free, running = list(enumerate(commands)), list(gpus), []
    # One that is ignored, as in the background of a shell, stays so.
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in SIGNALS
              if signal.getsignal(number) != signal.SIG_IGN}
    try:
        while running or (waiting and not received and not bad):
            while waiting and free and not received and not bad:
                (number, command), gpu = waiting.pop(0), free.pop(0)
                running.append((number, gpu, *start(command, gpu, len(gpus), quiet)))
            for signum in received[passed_on:]:
                passed_on += 1
                for _, _, child, _ in running:
                    child.send_signal(signum)
            for entry in [entry for entry in running if entry[2].poll() is not None]:
                running.remove(entry)
                number, gpu, child, log = entry
                free.insert(0, gpu)
                said = text_of(log)
                if child.returncode == 0:
                    ended(number)
                elif not bad:
                    bad = (128 - child.returncode if child.returncode < 0 else child.returncode, number)
                    sys.stderr.write(said)
            time.sleep(0.01)
    finally:
        for _, _, child, log in running:  # none is left behind after an error in here
            child.terminate()
            child.wait()
            text_of(log)
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and not bad:
        return 128 + received[0], None
    return bad or (0, None)


def start(command, gpu, at_once, quiet):
    """(the process, the file of its standard error or None)."""
    log = tempfile.TemporaryFile() if at_once > 1 else None
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL if quiet else None, stderr=log,
                             env=environment_on(gpu, at_once), start_new_session=True)
    return child, log


def environment_on(gpu, at_once):
    """Of one of several programs that run at once, each with an equal share of the cores; None, that of this program, where gpu is None."""
    if gpu is None:
        return None
    threads = max(1, len(os.sched_getaffinity(0)) // at_once)
    return {"OMP_NUM_THREADS": str(threads), **os.environ, "CUDA_VISIBLE_DEVICES": gpu}


def text_of(log):
    if log is None:
        return ""
    with log:
        log.seek(0)
        return log.read().decode(errors="replace")


def end_if_stopped(code):
    """Ends this program as a command ended that was stopped by a signal."""
    if code >= 128:
        sys.exit(code)


def main(work, arguments):
    """Runs a script's main function; Ctrl-C between two commands ends it without a traceback."""
    try:
        work(arguments)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
