"""JPEG-LS frames are decoded by workers that are used again, and that take nothing down with them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from film_files import RAMP
from folders import ROOT
from hostile_files import encapsulated
from pydicom.uid import JPEGLSLossless

from encoder.errors import ImageError
from encoder.films import jpegls
from encoder.films.image import read_image

FRAME = imagecodecs.jpegls_encode(RAMP)
LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


@pytest.fixture(autouse=True)
def _no_workers() -> Iterator[None]:
    """Begin without workers, and leave none."""
    jpegls._pool(os.getpid()).close()
    yield
    jpegls._pool(os.getpid()).close()


def idle() -> list[int]:
    """Return the numbers of the workers that wait for a frame."""
    return [worker._process.pid for worker in jpegls._pool(os.getpid())._idle]


def decoded() -> bool:
    return np.array_equal(jpegls.decode_jpegls(FRAME, RAMP.size), RAMP)


def state(process: int) -> str:
    """Return the letter of a process's state: Z is a zombie; "" where there is none."""
    stat = Path(f"/proc/{process}/stat")
    return stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else ""


def test_a_worker_is_used_again_after_good_frames_and_damaged_ones() -> None:
    film = encapsulated(RAMP, FRAME, JPEGLSLossless)

    assert read_image(film).shape == RAMP.shape
    [worker] = idle()
    with pytest.raises(ImageError, match="damaged one"):
        jpegls.decode_jpegls(FRAME[:-2], RAMP.size)

    assert decoded()
    assert idle() == [worker]


def test_threads_have_a_worker_each_and_each_gets_its_own_frame() -> None:
    films = [np.roll(RAMP, shift, axis=1) for shift in range(32)]
    frames = [imagecodecs.jpegls_encode(film) for film in films]

    with ThreadPoolExecutor(8) as threads:
        read = list(threads.map(lambda frame: jpegls.decode_jpegls(frame, RAMP.size), frames))

    assert all(np.array_equal(one, film) for one, film in zip(read, films, strict=True))
    assert 1 <= len(idle()) <= (os.cpu_count() or 1)


@LINUX
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_was_ended_is_replaced_and_leaves_no_zombie(ending: signal.Signals) -> None:
    assert decoded()
    [worker] = idle()
    os.kill(worker, ending)
    while state(worker) not in ("Z", ""):
        time.sleep(0.01)

    assert decoded()
    assert idle() != [worker]
    assert state(worker) == ""


@LINUX
def test_a_worker_that_does_nothing_is_ended_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded()
    [worker] = idle()
    monkeypatch.setattr(jpegls, "_WAIT", 0.3)
    os.kill(worker, signal.SIGSTOP)

    with pytest.raises(ImageError, match="decoded in 1 s, got one that is not"):
        jpegls.decode_jpegls(FRAME, RAMP.size)
    monkeypatch.undo()

    assert state(worker) == ""
    assert decoded()


@pytest.mark.parametrize(
    ("fault", "words"),
    [("while True: pass", "decoded in 1 s"), ("import os; os.abort()", "ended"), ("raise ValueError('torn')", "torn")],
)
def test_a_decoder_that_stalls_or_crashes_over_a_frame_ends_alone(
    fault: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imagecodecs.py").write_text(f"def jpegls_decode(frame):\n    {fault}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(ImageError, match=words):
        jpegls.decode_jpegls(FRAME, RAMP.size)


ENDS = """
import os, signal, sys
sys.path[:0] = FOLDERS
from test_jpegls import decoded, idle
assert decoded()
sys.stdout.write(f"{idle()[0]}\\n")
sys.stdout.flush()
ENDING
""".replace("FOLDERS", repr([str(Path(__file__).parent), *sys.path]))


@LINUX
@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), signal.SIGKILL)", "os.fork() or signal.pause()"])
def test_a_worker_ends_with_its_parent_however_that_ends(ending: str) -> None:
    """The last ending leaves a fork behind, which holds the pipe to the worker open."""
    program = [sys.executable, "-c", ENDS.replace("ENDING", ending)]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        begun = time.monotonic()
        while state(worker) not in ("Z", "") and time.monotonic() - begun < 20:
            time.sleep(0.05)
        ended = state(worker) in ("Z", "")
        if "fork" in ending:
            os.killpg(parent.pid, signal.SIGKILL)

    assert ended


@LINUX
def test_a_fork_has_workers_of_its_own_and_leaves_its_parents_alone() -> None:
    """As gunicorn's workers are forks of a process that has loaded the application, and may have read films."""
    child = (
        "pid = os.fork()\n"
        "if pid == 0:\n    assert not [*idle()]; assert decoded(); sys.exit(0)\n"
        "before = idle()\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "assert decoded() and idle() == before\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", ENDS.replace("ENDING", child)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
