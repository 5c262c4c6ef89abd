"""SIGTERM, Ctrl-C and a lost terminal, heard by handlers: what ends at once, at a check, and not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from rbft import stopping
from rbft.errors import StoppedError

SAID = "rbft: interrupted; the same command continues from here\n"


# -- the handlers --------------------------------------------------------------------------------------------------


def stoppable(body: str, *signals: signal.Signals, grace: float = 60.0) -> tuple[int, str, float]:
    """A small process whose block is stoppable, and is sent signals when it says so: its end, its words, its time."""
    script = (
        "import os, signal, sys, time\nfrom rbft import stopping\nfrom rbft.errors import StoppedError\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # a test that `nohup` started would prove nothing
        f"stopping.GRACE_SECONDS = {grace}\n"
        "def said(word):\n    print(word, flush=True)\n"
        f"try:\n    with stopping.stoppable():\n        {body}\n"
        "except StoppedError as error:\n    said(str(error))\n    sys.exit(error.exit_code)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        began = time.monotonic()
        for number in signals:
            assert process.stdout.readline() == "now\n"
            process.send_signal(number)
        words = process.stdout.read()
    return process.returncode, words, time.monotonic() - began


FOREIGN = (
    "import hashlib, threading; threading.Timer(0.2, said, ['now']).start(); "
    "hashlib.pbkdf2_hmac('sha512', b'', b'', 300_000_000)"
)
"""Minutes in which Python's own handlers have no turn."""
WAITING = "said('now'); [time.sleep(0.01) for _ in iter(stopping.asked, True)]; "


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_at_the_next_check(number: signal.Signals) -> None:
    code, words, _ = stoppable(WAITING + "stopping.check(); said('never')", number)
    assert (code, words) == (75, "interrupted; the same command continues from here\n")


@pytest.mark.parametrize(
    "script",
    [
        "from rbft.stopping import while_importing\nwith while_importing():\n    os.kill(os.getpid(), signal.SIGINT)",
        "import rbft.cli\nfrom rbft.__main__ import command\n"
        "rbft.cli.app = lambda: os.kill(os.getpid(), signal.SIGTERM)\ncommand()",
    ],
    ids=["while the first modules are imported", "outside long work"],
)
def test_asked_to_end_with_nothing_begun_it_ends_at_once(script: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"import os, signal\n{script}"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (75, SAID)


def test_an_interrupt_while_the_command_line_is_made_up_is_told() -> None:
    """Typer hears it from where it parses on."""
    script = "import os, signal, rbft.cli\nfrom rbft.__main__ import command\n"
    script += "rbft.cli.app = lambda: os.kill(os.getpid(), signal.SIGINT)\ncommand()"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, SAID)


def test_after_stoppable_work_nobody_is_asked_to_end() -> None:
    with pytest.raises(StoppedError), stopping.stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        stopping.check()
    stopping.check()


def test_a_second_sigterm_changes_nothing() -> None:
    code, words, _ = stoppable(WAITING + "said('now'); time.sleep(0.3); said('saved'); stopping.check()",
                               signal.SIGTERM, signal.SIGTERM)  # fmt: skip
    assert (code, words) == (75, "saved\ninterrupted; the same command continues from here\n")


def test_a_second_interrupt_ends_at_once() -> None:
    code, words, seconds = stoppable(WAITING + "said('now'); time.sleep(60)", signal.SIGINT, signal.SIGINT)
    assert code == -signal.SIGINT, "KeyboardInterrupt, which the command line makes 130"
    assert words == ""
    assert seconds < 30
    code, _, seconds = stoppable(WAITING + FOREIGN, signal.SIGINT, signal.SIGINT)
    assert code == 130, "in foreign code too, which no exception ends"
    assert seconds < 30


def test_what_comes_to_no_check_in_time_is_ended() -> None:
    """A model that is being loaded, say: foreign code that gives Python no turn for minutes."""
    code, words, seconds = stoppable(FOREIGN, signal.SIGTERM, grace=0.2)
    assert (code, words) == (75, "")
    assert seconds < 30


def test_the_grace_leaves_room_below_25_seconds() -> None:
    assert stopping.GRACE_SECONDS <= 24


def test_what_is_being_finished_is_not_stopped() -> None:
    body = WAITING + "exec('with stopping.finishing():\\n stopping.check(); said(1)'); stopping.check(); said('never')"
    code, words, _ = stoppable(body, signal.SIGTERM)
    assert (code, words.splitlines()[0], len(words.splitlines())) == (75, "1", 2)


def test_signals_of_forked_children_are_not_counted() -> None:
    """Ctrl-C reaches every process of a terminal; the readers of training are forks, and theirs is no second one."""
    body = (
        "child = os.fork() or (said('now'), time.sleep(1), os._exit(0)); "
        "[time.sleep(0.01) for _ in iter(stopping.asked, True)]; os.kill(child, 2); os.waitpid(child, 0); "
        "time.sleep(0.2); stopping.check()"
    )
    code, words, _ = stoppable(body, signal.SIGINT)
    assert (code, words) == (75, "interrupted; the same command continues from here\n")


def test_a_lost_terminal_is_not_heard_and_before_and_after_nothing_is_changed() -> None:
    body = "said('now'); time.sleep(0.3); said('went on')"
    assert stoppable(body, signal.SIGHUP)[:2] == (0, "went on\n")
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with stopping.stoppable(), stopping.stoppable():
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_library_installs_no_handlers() -> None:
    script = (
        "import signal\nbefore = [signal.getsignal(n) for n in (1, 2, 15)]\n"
        "import rbft\nfrom rbft import cli, stopping, store\n"
        "assert [signal.getsignal(n) for n in (1, 2, 15)] == before and signal.set_wakeup_fd(-1) == -1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
