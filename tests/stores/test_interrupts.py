"""Ctrl-C, SIGTERM and SIGHUP end a command with exit code 130, whatever becomes of the exception that they raise."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from stores.errors import Interrupted, RealMixError

# each says "ready" where the signal is to come, and would go on for a minute
LOST = {
    "an import that tries and goes on": """
        try:
            wait()
        except Exception:
            wait()
        """,
    "code that catches everything": """
        try:
            wait()
        except:
            pass
        wait()
        """,
    "a destructor": """
        class Slow:
            def __del__(self):
                wait(3)
        Slow()
        wait()
        """,
    "a callback": """
        import weakref
        class Thing: pass
        thing = Thing()
        weakref.finalize(thing, wait, 3)
        del thing
        wait()
        """,
    "another error": """
        try:
            wait()
        except BaseException:
            raise ImportError("no such module")
        """,
    "an error of ours": """
        try:
            wait()
        except BaseException:
            raise errors.StoreError("it is not there")
        """,
    "a block that ends for another reason": """
        try:
            wait()
        finally:
            with contextlib.suppress(ValueError):
                raise ValueError
        """,
    "a cleanup that never ends": """
        interrupts.PATIENCE_S = 0.1
        try:
            wait()
        finally:
            time.sleep(60)
        """,
    "the end of the interpreter": """
        interrupts.PATIENCE_S = 0.1
        threading.Thread(target=time.sleep, args=(60,)).start()
        wait()
        """,
}
SCRIPT = """
import contextlib, sys, threading, time
from stores import errors
from stores.system import interrupts
def wait(seconds=60):
    print("ready", flush=True)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
def main():
{body}
    print("went on", flush=True)
errors.run(main)
"""


def start(body: str, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    script = SCRIPT.format(body="\n".join("    " + line[8:] for line in body.strip("\n").split("\n")))
    command = [sys.executable, "-W", "error", "-c", script]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", LOST, ids=lambda how: how.replace(" ", "-"))
def test_an_interruption_that_is_lost_comes_again(how):
    process = start(LOST[how])
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=50)
    assert process.returncode == 130, said
    assert "went on" not in out
    if "never" not in how:
        assert "error: interrupted\n" in said
        assert "run the same command again" in said


def test_an_import_is_not_interrupted_but_what_follows_it(tmp_path):
    """C++ code that is being initialised, torch's, aborts the process if Python raises within it."""
    (tmp_path / "native.py").write_text(
        "import os, time\nprint('ready', flush=True)\ntry:\n    time.sleep(1)\nexcept BaseException:\n    os.abort()\n"
    )
    process = start(f"""
        sys.path.insert(0, {str(tmp_path)!r})
        import native
        time.sleep(60)
        """)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=50)
    assert (process.returncode, "error: interrupted\n" in said) == (130, True), said


def test_a_long_import_is_ended_with_the_same_message(tmp_path):
    (tmp_path / "endless.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    process = start(f"""
        interrupts.IMPORT_S = 0.1
        sys.path.insert(0, {str(tmp_path)!r})
        import endless
        """)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "error: interrupted\n→ run the same command again: it continues\n")


def test_what_lets_no_exception_through_is_ended_at_once_and_says_how_to_continue():
    process = start("""
        interrupts.PATIENCE_S = 60
        with interrupts.held(), interrupts.hinted(lambda: "begin again"), interrupts.at_once():
            while True:
                with contextlib.suppress(BaseException):
                    wait()
        """)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "error: interrupted\n→ begin again\n")


def test_after_such_a_call_a_signal_is_an_exception_again():
    process = start("""
        with interrupts.hinted(lambda: "begin again"), interrupts.at_once():
            pass
        try:
            wait()
        finally:
            print("in order", flush=True)
        """)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "in order\n")
    assert "run the same command again" in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_is_an_interruption(number):
    process = start("        wait()")
    process.send_signal(number)
    _, said = process.communicate(timeout=50)
    assert process.returncode == 130
    assert said == "error: interrupted\n→ run the same command again: it continues\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_was_ignored_from_the_start_stays_so(number):
    """As nohup does, and a shell for a job in the background."""
    process = start("        wait(1)", before=lambda: signal.signal(number, signal.SIG_IGN))
    process.send_signal(number)
    out, said = process.communicate(timeout=50)
    assert (process.returncode, out, said) == (0, "went on\n", "")


def test_two_signals_of_one_cause_are_one_and_a_later_one_ends_at_once():
    """A terminal that closes sends two, from the shell and from the system: what is being put in order goes on."""
    process = start("""
        interrupts.SAME_S = 3600
        try:
            wait()
        finally:
            wait(0.5)
            print("in order", flush=True)
            interrupts.SAME_S = 0
            wait()
        """)
    process.send_signal(signal.SIGHUP)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "in order\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=50)
    assert process.returncode == 130


def test_nothing_that_catches_failures_catches_an_interruption():
    assert not issubclass(Interrupted, Exception)
    assert not issubclass(Interrupted, RealMixError)


def test_work_after_a_command_in_the_same_process_is_not_pressed_to_end():
    """A notebook runs a command and then trains twice, each time interrupted: what follows is left alone."""
    program = """if True:
        import os, signal, time
        from stores import errors
        from stores.system import interrupts
        interrupts.AGAIN_S = 0.05
        errors.run(lambda: None)
        for _ in range(2):
            with interrupts.held() as asked:
                os.kill(os.getpid(), signal.SIGTERM)
                assert asked()
            time.sleep(0.3)
        print("went on")
        """
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
