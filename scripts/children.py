"""Programs that a script runs one after the other."""
import signal
import subprocess
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(command, quiet=False):
    """Runs a command to its end and returns its exit code, 128 + N where signal N ended it or came meanwhile. The signal goes to the
    command, once, because it has a session of its own; it ends in its own way, and this program waits for that."""
    received, early, child = [], [], None  # early: before there is a child

    def pass_on(number, _):
        received.append(number)
        if child:
            child.send_signal(number)
        else:
            early.append(number)

    # One that is ignored, as in the background of a shell, stays so.
    before = {number: signal.signal(number, pass_on) for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN}
    try:
        child = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL if quiet else None, start_new_session=True)
        for number in early:
            child.send_signal(number)
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received and code == 0:
        return 128 + received[0]
    return 128 - code if code < 0 else code


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
