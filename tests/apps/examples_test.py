"""Runs every example of every --help, and of the README, literally, as a shell does:
python3 examples_test.py PATH_OF_LACE PROJECT

One that trains gets Ctrl-C once it has taken a step; these begin in a folder without runs. The
others find two short runs in theirs, and run to their end or for some seconds: then they must not
have failed by then. One that asks for a GPU may fail for one reason: that there is none, or a build
without.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from cli import LACE, TEXT, in_parallel, lace

PROJECT = pathlib.Path(sys.argv.pop(1)).resolve()
SECONDS = 10  # for an example that does not train
NO_GPU = re.compile(r"^lace: \[\w+\] \S+ ?\S* needs a (GPU|build with CUDA)", re.MULTILINE)
HELP = [[], ["explain"], ["model"], ["train"], ["watch"], ["report"], ["compare"], ["eval"],
        ["probe"], ["attention"], ["sample"], ["bench"], ["bench", "attention"], ["bench", "step"],
        ["bench", "products"], ["bench", "decode"], ["info"]]


def examples_of_help():
    for names in HELP:
        text = lace(*names, "--help").stdout.decode()
        lines = text.split("Examples:\n")[1].splitlines()
        assert lines, names
        yield from (line.strip() for line in lines)


def examples_of_readme():
    for block in re.findall("```\n(.*?)```", (PROJECT / "README.md").read_text(), re.DOTALL):
        for line in block.splitlines():
            if re.match(r"(\$ )?build/\w+/bin/lace ", line):
                yield line.removeprefix("$ ").split("  #")[0]


def runs_of_their_own(folder):
    """What examples name: the recipes, runs/demo and runs/mine, and ~ with a folder src."""
    (folder / "recipes").symlink_to(PROJECT / "recipes")
    home = folder / "home"
    (home / "src").mkdir(parents=True)
    (home / "src" / "text").write_text(TEXT)
    for preset in "cpu", "cuda":
        (folder / "build" / preset / "bin").mkdir(parents=True)
        (folder / "build" / preset / "bin" / "lace").symlink_to(LACE)
    return home


class Examples(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        root = pathlib.Path(cls.scratch.name)
        cls.folders = {}
        for name in "train", "use":
            cls.folders[name] = root / name
            cls.folders[name].mkdir()
            cls.home = runs_of_their_own(cls.folders[name])
        small = ["--set", f"data.paths={cls.home}/src", "--set", "train.steps=2"]
        for run in "demo", "mine":
            trained = lace("train", "recipes/demo.toml", "--run", f"runs/{run}", *small,
                           cwd=cls.folders["use"])
            assert trained.returncode == 0, trained.stderr

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def start(self, example, folder):
        path = f"{pathlib.Path(LACE).parent}:{os.environ['PATH']}"
        return subprocess.Popen(["bash", "-c", example], cwd=self.folders[folder],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**os.environ, "HOME": str(self.home), "PATH": path},
                                start_new_session=True)

    def train(self, example):
        """Until it has taken a step. The process, what stderr said, and True."""
        process = self.start(example, "train")
        errors = ""
        for line in process.stderr:
            errors += line
            if re.match(r"step \d+ ", line):
                os.killpg(process.pid, signal.SIGINT)
                break
        return process, errors + process.communicate(timeout=100)[1], True

    def use(self, example):
        """For SECONDS at most. The process, what stderr said, and whether it was cut off."""
        process = self.start(example, "use")
        try:
            return process, process.communicate(timeout=SECONDS)[1], False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
            return process, process.communicate(timeout=100)[1], True

    def check(self, example, training, process, errors, cut):
        if "cuda" in example and NO_GPU.search(errors):
            self.assertEqual(process.returncode, 1, errors)
        elif training:  # has saved what it did
            self.assertIn("go on with: lace train --run", errors)
            self.assertEqual(process.returncode, 1, errors)
        elif cut:
            self.assertNotIn("lace:", errors)
        else:
            self.assertEqual(process.returncode, 0, errors)

    def test_every_example_runs(self):
        examples = list(dict.fromkeys([*examples_of_help(), *examples_of_readme()]))
        self.assertGreater(len(examples), 30)
        training = [e for e in examples if re.search(r"\blace train\b", e) and "--dry" not in e]
        using = [e for e in examples if e not in training]
        for example in training:
            with self.subTest(example=example):
                # Two examples give a new run this name.
                if "--run runs/mine" in example and "--resume" not in example:
                    shutil.rmtree(self.folders["train"] / "runs" / "mine", ignore_errors=True)
                self.check(example, True, *self.train(example))
        for example, result in zip(using, in_parallel(self.use, using)):
            with self.subTest(example=example):
                self.check(example, False, *result)


if __name__ == "__main__":
    unittest.main()
