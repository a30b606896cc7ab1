"""Programs that a script runs one after the other."""
import signal
import subprocess
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(command, quiet=False):
    """Runs a command to its end and returns its exit code, 128 + N where signal N ended it. A signal that comes meanwhile goes to
    the command, once, because it has a session of its own; it ends in its own way, and this program waits for that."""
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL if quiet else None, start_new_session=True)
    before = {number: signal.signal(number, lambda number, _: child.send_signal(number)) for number in SIGNALS}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 - code if code < 0 else code


def end_if_stopped(code):
    """Ends this program as a command ended that was stopped by a signal."""
    if code >= 128:
        sys.exit(code)
