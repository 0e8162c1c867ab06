"""lace report, watch and compare, and the report that lace train keeps:
python3 report_test.py PATH_OF_LACE"""

import fcntl
import json
import os
import pathlib
import pty
import re
import select
import struct
import subprocess
import tempfile
import termios
import time
import unittest

from cli import LACE, lace, parse_json, prepare

RECIPE = """[model]
seq_len = 64
patterns = ['fixed(8, 2, 1)']
[train]
batch = 2
steps = 100
"""


def line(step, **more):
    return json.dumps({"step": step, "bits_per_byte": 8 / (1 + 0.1 * step), "elapsed_s": step / 2,
                       "tokens_per_s": 256.0, "learning_rate": 0.001, "gradient_norm": 1.5,
                       **more}) + "\n"


def make_run(folder, steps):
    folder.mkdir()
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "metrics.jsonl").write_text("".join(
        line(step, **({"validation_bits_per_byte": 9 / (1 + 0.1 * step)} if step % 10 == 0 else {}))
        for step in range(1, steps + 1)))
    (folder / "samples").mkdir()
    (folder / "samples" / "10-0.bin").write_bytes(b"a sample\x1b[31m\nof two lines\xff")
    (folder / "samples.jsonl").write_text(
        '{"step":10,"file":"samples/10-0.bin","prompt_bytes":0,"temperature":1}\n')
    return folder


class Trained(unittest.TestCase):
    def test_training_keeps_a_report(self):
        with tempfile.TemporaryDirectory() as scratch:
            prepare(scratch)
            run = pathlib.Path(scratch) / "run"
            page = (run / "report.html").read_text()
            self.assertTrue("finished" in page and "fixed(8, 2, 2)" in page and "</html>" in page)
            self.assertEqual(list(run.glob("report.html.*")), [])
            lace("eval", "run", "--baselines", cwd=scratch, code=0)
            kept = json.loads((run / "baselines.json").read_text())["test"]
            self.assertIn("gzip -9", [row["name"] for row in kept["rows"]])
            self.assertGreater(kept["model"]["bits_per_byte"], 0)
            self.assertTrue("gzip -9" in (run / "report.html").read_text())
            lace("attention", "run", "--windows", "4", "--query", "20,63", cwd=scratch, code=0)
            self.check_attention(json.loads((run / "attention.json").read_text()))
            page = (run / "report.html").read_text()
            self.assertEqual(page.count("<figure><img class=pixels"), 6)
            self.assertTrue("query 63, rows of 8" in page and "Mean over 4 windows." in page)
            self.assertEqual(page.count("queries down, keys across, both 0 … 63"), 2)
            many = lace("attention", "run", "--query", ",".join(map(str, range(32))), cwd=scratch,
                        code=1)
            self.assertIn(b"a report shows at most 32 maps, these are 66", many.stderr)

    def check_attention(self, attention):
        """The maps of both heads of one layer: rows of matrices and queries sum to 1, each key that
        the pattern does not allow is null."""
        self.assertEqual([(m["head"], m["kind"], m.get("query")) for m in attention["maps"]],
                         [(head, *map) for head in (0, 1)
                          for map in (("matrix", None), ("query", 20), ("query", 63))])
        for m in attention["maps"]:
            columns = m.get("columns", len(m["weights"]))
            for begin in range(0, len(m["weights"]), columns):
                row = m["weights"][begin:begin + columns]
                self.assertAlmostEqual(sum(w or 0 for w in row), 1, delta=0.02)
                if m["kind"] == "matrix":
                    query, head = begin // columns, m["head"]
                    live = [key <= query and (key // 8 == query // 8
                                              or 6 - 2 * head <= key % 8 < 8 - 2 * head)
                            for key in range(64)]
                    self.assertEqual([w is not None for w in row], live)

    def test_a_report_that_cannot_be_written_ends_no_run(self):
        with tempfile.TemporaryDirectory() as scratch:
            prepare(scratch)
            (pathlib.Path(scratch) / "other" / "report.html").mkdir(parents=True)
            trained = lace("train", "tiny.toml", "--run", "other", cwd=scratch, code=0)
            self.assertEqual(trained.stderr.count(b"no report is written"), 1)


class ByHand(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.run = make_run(self.folder / "one", 60)

    def test_report(self):
        result = lace("report", self.run, "--out", self.folder / "page.html", code=0)
        self.assertTrue((self.folder / "page.html").read_text().endswith("</html>\n"))
        self.assertFalse((self.run / "report.html").exists())
        self.assertEqual(result.stdout.decode(), f"{self.folder}/page.html\n")
        lace("report", self.run, code=0)
        self.assertTrue((self.run / "report.html").exists())
        self.assertIn(b"holds no run", lace("report", self.folder, code=1).stderr)
        lace("report", self.folder / "none", code=2)

    def test_watch_on_a_pipe_looks_once(self):
        text = lace("watch", self.run, code=0).stdout.decode()
        self.assertNotIn("\x1b", text)
        for part in ("one  stopped", "step 60 of 100", "tokens/s", "validation 1.286 at step 60",
                     "●", "⠤", r"a sample\x1b[31m", r"of two lines\xff"):
            self.assertIn(part, text)
        self.assertLessEqual(max(map(len, text.splitlines())), 80)

    def test_watch_json(self):
        told = parse_json(lace("watch", self.run, "--json", code=0).stdout)
        self.assertEqual((told["state"], told["step"], told["fraction"]), ("stopped", 60, 0.6))
        self.assertAlmostEqual(told["validation_bits_per_byte"], 9 / 7)

    def watch(self, columns, rows=24):
        """`lace watch` on a terminal of that size: the process, and its end of the terminal."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        process = subprocess.Popen([LACE, "watch", self.run, "--every", "0.1"], stdin=theirs,
                                   stdout=theirs, stderr=theirs,
                                   env={**os.environ, "TERM": "xterm"})
        os.close(theirs)
        self.addCleanup(os.close, ours)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process, ours

    def read_until(self, ours, what, seconds=60):
        """What the terminal got, up to and with `what`, "" for its end."""
        text, end = "", time.monotonic() + seconds
        while time.monotonic() < end:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                text += os.read(ours, 1 << 16).decode(errors="replace")
            except OSError:  # the other end was closed
                return text
            if what and what in text:
                return text
        raise AssertionError(f"no {what!r} in {text[-2000:]!r}")

    def test_watch_follows_a_run_and_ends_with_it(self):
        (self.run / "train.lock").write_text(f"{os.getpid()}\n")
        with open(self.run / "train.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process, ours = self.watch(80)
            self.read_until(ours, "step 60 of 100")
            with open(self.run / "metrics.jsonl", "a") as file:
                file.write(line(61) + line(62)[:20])
            self.read_until(ours, "step 61 of 100")
            # As a run that is resumed from step 40 does.
            kept = (self.run / "metrics.jsonl").read_text().splitlines(True)[:40]
            (self.run / "new").write_text("".join(kept))
            (self.run / "new").rename(self.run / "metrics.jsonl")
            self.read_until(ours, "step 40 of 100")
            self.assertIsNone(process.poll())
        text = self.read_until(ours, "")
        self.assertEqual(process.wait(60), 0)
        # The screen is given back, and the last picture stands on the one before.
        self.assertIn("step 40 of 100", text[text.rindex("\x1b[?1049l"):])

    def test_watch_fits_a_narrow_terminal(self):
        process, ours = self.watch(34, rows=14)
        text = self.read_until(ours, "")
        self.assertEqual(process.wait(60), 0)
        shown = text[text.index("\x1b[H"):text.index("\x1b[?1049l")]
        lines = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", shown).split("\r\n")
        self.assertLessEqual(len([l for l in lines if l]), 14)
        for shown_line in lines:
            self.assertLessEqual(len(shown_line), 34, shown_line)

    def test_watch_ends_on_interrupt(self):
        (self.run / "train.lock").write_text(f"{os.getpid()}\n")
        with open(self.run / "train.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process, ours = self.watch(80)
            self.read_until(ours, "step 60 of 100")
            process.terminate()
            self.assertIn("\x1b[?1049l", self.read_until(ours, ""))
            self.assertEqual(process.wait(60), 0)

    def test_compare(self):
        make_run(self.folder / "two", 40)
        (self.folder / "two" / "recipe.toml").write_text(RECIPE.replace("fixed(8, 2, 1)", "dense"))
        text = lace("compare", "one", "two", "--svg", "c.svg", "--html", "c.html", code=0,
                    cwd=self.folder).stdout.decode()
        for part in ("all at step 40 (as far as two got), and after 20 s of training (as far as two "
                     "got)", "model.patterns", "dense",
                     "it is not known whether their data are the same"):
            self.assertIn(part, text)
        self.assertTrue((self.folder / "c.svg").read_text().startswith("<svg "))
        self.assertIn("Runs compared", (self.folder / "c.html").read_text())
        told = parse_json(lace("compare", "one", "two", "--json", code=0, cwd=self.folder).stdout)
        self.assertEqual((told["equal_steps"], told["equal_steps_of"]), (40, "two"))
        self.assertAlmostEqual(told["runs"][1]["at_equal_steps_over_first"], 0)
        self.assertEqual(told["runs"][0]["steps"], 60)


if __name__ == "__main__":
    unittest.main(verbosity=2)
