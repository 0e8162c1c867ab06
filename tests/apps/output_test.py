"""Output that cannot be written, for every command: python3 output_test.py PATH_OF_LACE"""

import glob
import json
import os
import resource
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

from cli import LACE, in_parallel, lace, prepare

BENCH = ["bench", "attention", "--pattern", "dense", "--seq-len", "16", "--rounds", "1"]
NO_SPACE = "lace: standard output cannot be written: No space left on device"


def commands():
    """One line a command and form of output. RUN stands for a run's folder of their own."""
    help_of = [["explain"], ["model"], ["train"], ["eval"], ["probe"], ["attention"], ["sample"],
               ["bench"], ["bench", "attention"], ["bench", "step"], ["bench", "products"],
               ["bench", "decode"], ["data"], ["data", "get"], ["data", "show"], ["info"]]
    yield from (["--version"], ["--help"], *([*names, "--help"] for names in help_of))
    yield from (["sample", "run"], ["sample", "run", "--raw"], [*BENCH[:2], "--list"])
    for command in (["explain", "dense", "--seq-len", "32"], ["model", "tiny.toml"],
                    ["train", "tiny.toml", "--dry-run"], ["train", "tiny.toml", "--run", "RUN"],
                    ["eval", "run"], ["eval", "run", "--sweep"], ["probe", "run", "--trials", "1"],
                    ["sample", "run", "--length", "9"], BENCH,
                    ["bench", "step", "tiny.toml", "--steps", "1"], ["info"]):
        yield command
        yield [*command, "--json"]


def steps_saved(run):
    with open(os.path.join(run, "last.json")) as file:
        return json.load(file)["step"]


class Output(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        prepare(cls.folder.name)
        os.chdir(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        os.chdir("/")
        cls.folder.cleanup()

    def fails(self, kind, write_to, message):
        """Every command, with stdout a file that `write_to` opens: exit code 1 and the message."""
        def run_command(numbered):
            number, command = numbered
            with write_to() as stdout:
                return lace(*(f"{kind}-{number}" if a == "RUN" else a for a in command),
                            stdout=stdout)

        listed = list(enumerate(commands()))
        for (number, command), result in zip(listed, in_parallel(run_command, listed)):
            with self.subTest(command=command):
                self.assertEqual(result.returncode, 1, result.stderr)
                said = [line for line in result.stderr.decode().splitlines() if "lace:" in line]
                self.assertEqual(said, message)
                if "RUN" in command:
                    self.assertEqual(steps_saved(f"{kind}-{number}"), 20)

    def test_a_full_disk_is_a_failure_of_every_command(self):
        self.fails("full", lambda: open("/dev/full", "wb"), [NO_SPACE])

    def test_a_closed_pipe_is_a_quiet_failure_of_every_command(self):
        def closed_pipe():
            reader, writer = os.pipe()
            os.close(reader)
            return os.fdopen(writer, "wb")

        self.fails("pipe", closed_pipe, [])

    def test_a_closed_stdout_is_a_failure_and_no_file_takes_its_place(self):
        result = lace("explain", "dense", "--seq-len", "8", "--svg", "closed.svg",
                      stdout=None, preexec_fn=lambda: os.close(1))
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"standard output cannot be written", result.stderr)
        xml.etree.ElementTree.parse("closed.svg")

    def test_sampling_ends_with_its_reader(self):
        process = subprocess.Popen([LACE, "sample", "run", "--length", str(10**12)],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(len(process.stdout.read(5)), 5)
        process.stdout.close()
        self.assertEqual(process.wait(timeout=100), 1)
        self.assertEqual(process.stderr.read(), b"")
        process.stderr.close()

    def test_training_outlives_the_reader_of_its_progress(self):
        reader, writer = os.pipe()
        os.close(reader)  # before the first word: later the run might be over
        process = subprocess.Popen([LACE, "train", "tiny.toml", "--run", "unread"], stdout=writer,
                                   stderr=writer)
        os.close(writer)
        self.assertEqual(process.wait(timeout=100), 1)
        self.assertEqual(steps_saved("unread"), 20)

    def test_a_file_is_written_whole_or_not_at_all(self):
        svg = ["explain", "dense", "--seq-len", "8", "--svg"]
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        for old in None, "old":
            if old is not None:
                with open("whole.svg", "w") as file:
                    file.write(old)
            result = lace(*svg, "whole.svg", preexec_fn=limit)
            self.assertEqual((result.returncode, result.stdout), (1, b""))
            self.assertIn(b"lace: [explain] cannot write whole.svg: File too large", result.stderr)
            self.assertEqual(glob.glob("whole.svg*"), [] if old is None else ["whole.svg"])
        with open("whole.svg") as file:
            self.assertEqual(file.read(), "old")

    def test_a_file_keeps_its_kind_and_permissions(self):
        svg = ["explain", "dense", "--seq-len", "8", "--svg"]
        with open("private.svg", "w"):
            os.chmod("private.svg", 0o600)
        os.symlink("private.svg", "link.svg")
        self.assertEqual(lace(*svg, "link.svg").returncode, 0)
        self.assertTrue(os.path.islink("link.svg"))
        self.assertEqual(os.stat("private.svg").st_mode & 0o777, 0o600)
        xml.etree.ElementTree.parse("private.svg")
        result = lace(*svg, "/dev/full")
        self.assertEqual(result.returncode, 1)
        self.assertIn(b"cannot write /dev/full: No space left on device", result.stderr)
        self.assertEqual(lace(*svg, "/dev/null").returncode, 0)
        self.assertFalse(os.path.isfile("/dev/null"))


if __name__ == "__main__":
    unittest.main()
