"""Wrong and odd arguments: python3 usage_test.py PATH_OF_LACE"""

import os
import re
import tempfile
import unittest

from cli import in_parallel, lace, parse_json, prepare

EXPLAIN = ["explain", "dense", "--seq-len", "8"]
USAGE = 2  # wrong usage
FAILED = 1

# Arguments, exit code, what stderr says.
WRONG = [
    ([], USAGE, "A subcommand is required"),
    (["explian"], USAGE, "there is no subcommand 'explian', there are explain,"),
    (["explian"], USAGE, "did you mean explain?"),
    (["bench", "atention"], USAGE, "there is no subcommand 'atention' of bench, there are "
     "attention, step, products, decode; did you mean attention?"),
    (["--vresion"], USAGE, "there is no option --vresion; did you mean --version?"),
    (["explain", "--seqlen", "8"], USAGE, "no option --seqlen of explain; did you mean --seq-len?"),
    (["sample", "run", "--sed=4"], USAGE, "no option --sed of sample; did you mean --seed?"),
    (["info", "--colour"], USAGE, "there is no option --colour of info\n"),
    (["info", "extra"], USAGE, "unexpected argument 'extra'"),
    ([*EXPLAIN[:3], "0"], USAGE, "--seq-len: takes a whole number from 1 to 1073741824, got '0'"),
    ([*EXPLAIN[:3], ""], USAGE, "got ''"),
    ([*EXPLAIN[:3], "-8"], USAGE, "got '-8'"),
    ([*EXPLAIN[:3], "8.5"], USAGE, "got '8.5'"),
    ([*EXPLAIN[:3], "9" * 30], USAGE, "got '999"),
    ([*EXPLAIN[:3], b"\xff\x1b"], USAGE, "got '\\xff\\x1b'"),
    ([*EXPLAIN, "--tile", "x"], USAGE, "got x"),
    ([*EXPLAIN, "--svg", ""], USAGE, "--svg: takes a path, got ''"),
    (["explain", b"\xff", "--seq-len", "8"], USAGE, "\\xff"),
    (["bench", "attention", "--pattern", "bad("], USAGE, "unknown pattern 'bad'"),
    (["bench", "attention", "--heads", "0"], USAGE, "--heads: takes a whole number"),
    (["bench", "step", "absent.toml"], USAGE, "absent.toml"),
    (["bench", "step"], USAGE, "recipe is required"),
    (["bench", "step", "."], USAGE, "recipe: . is a folder"),
    (["bench", "step", "tiny.toml", "--rows", "fixed"], USAGE, "--rows: is for --table"),
    (["bench", "step", "--table"], USAGE, "--table: needs --device cuda"),
    (["bench", "products"], USAGE, "products: needs --device cuda"),
    (["bench", "products", "tiny.toml", "--ff", "64"], USAGE, "recipe excludes --ff"),
    (["bench", "step", "--table", "--list", "--rows", "no such"], USAGE,
     "--rows: no row has a name"),
    (["model", "absent.toml"], USAGE, "absent.toml"),
    (["model", "."], USAGE, "recipe: File"),
    (["model", "tiny.toml", "--set", "layers"], FAILED, "--set takes section.key=value"),
    (["train", "absent.toml"], USAGE, "absent.toml"),
    (["train", "tiny.toml", "--run", ""], USAGE, "--run: takes a path, got ''"),
    (["train", "tiny.toml", "--device", "gpu"], USAGE, "--device: takes cpu, cuda or cuda:N"),
    (["train", "tiny.toml", "--threads", "0"], USAGE, "--threads: takes a whole number"),
    (["eval", "absent"], USAGE, "absent"),
    (["eval", "run", "--data", ""], USAGE, "--data: takes a path, got ''"),
    (["eval", "run", "--data", "absent"], FAILED, "absent"),
    (["eval", "run", "--data", "text", "--split", "test"], USAGE, "--split excludes --data"),
    (["eval", "run", "--min-context", "-1"], USAGE, "takes a whole number >= 0, got '-1'"),
    (["eval", "run", "--min-context", "64"], FAILED, "min_context"),
    (["eval", "run", "--sweep", "--min-context", "3"], USAGE, "--min-context excludes --sweep"),
    (["eval", "run", "--windows", "0"], USAGE, "--windows: takes a whole number >= 1, got '0'"),
    (["probe"], USAGE, "run is required"),
    (["probe", "run", "absent"], USAGE, "absent"),
    (["probe", "run", "--lengths", "8,33"], FAILED, "lengths must be in [1, 32], half of seq_len"),
    (["probe", "run", "--depths", "0,1.5"], USAGE, "takes a number from 0 to 1, got '1.5'"),
    (["attention", "run", "--layers", "1"], FAILED, "layers must be in [0, 0], got 1"),
    (["attention", "run", "--size", "513"], USAGE,
     "takes a whole number from 0 to 512, got '513'"),
    (["probe", "run", "--out", "."], USAGE, "--out: . is a folder"),
    (["probe", "run", "--trials", "0"], USAGE, "--trials: takes a whole number"),
    (["sample", "run", "--temperature", "nan"], USAGE, "takes a number >= 0, got 'nan'"),
    (["sample", "run", "--temperature", "inf"], USAGE, "takes a number >= 0, got 'inf'"),
    (["sample", "run", "--top-p", "1.5"], USAGE, "takes a number from 0 to 1, got '1.5'"),
    (["sample", "run", "--top-p", "0"], USAGE, "--top-p: must be above 0"),
    (["sample", "run", "--seed", "-1"], USAGE, "takes a whole number >= 0, got '-1'"),
    (["sample", "run", "--checkpoint", "step-x"], USAGE, "last, previous or step-N, got 'step-x'"),
    (["export", "run"], USAGE, "file is required"),
    (["export", "run", "f", "--dtype", "int8"], USAGE, "--dtype: int8"),
    (["export", "run", "absent/f"], FAILED, "cannot create absent/f.tmp"),
    (["export", "run", "f", "--checkpoint", "step-7"], FAILED, "has no checkpoint step-7"),
    (["import", "absent", "new"], USAGE, "absent"),
    (["import", "text", "new"], FAILED, "text"),
]


class Usage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        prepare(cls.folder.name)
        os.chdir(cls.folder.name)

    @classmethod
    def tearDownClass(cls):
        os.chdir("/")
        cls.folder.cleanup()

    def json_of(self, *arguments, **options):
        """What --json prints: one document, whatever the arguments hold."""
        result = lace(*arguments, "--json", **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return parse_json(result.stdout)

    def test_wrong_arguments_are_named(self):
        results = in_parallel(lambda row: lace(*row[0]), WRONG)
        for (arguments, code, says), result in zip(WRONG, results):
            with self.subTest(arguments=arguments):
                self.assertEqual((result.returncode, result.stdout), (code, b""), result.stderr)
                text = result.stderr.decode("utf-8", "strict")
                self.assertTrue(text.startswith("lace: "), text)
                self.assertIn(says, text)
                self.assertEqual("--help`" in text, code == USAGE, text)
                self.assertIsNone(re.search("exception|terminate|what\\(\\)|[\x00-\x09\x0b-\x1f]",
                                            text), text)

    def test_numbers_are_decimal(self):
        self.assertEqual(self.json_of("explain", "dense", "--seq-len", "010")["seq_len"], 10)

    def test_bytes_that_are_no_text(self):
        run = b"run\xff"
        os.symlink("run", run)
        trained = self.json_of("train", "tiny.toml", "--run", b"new\xff")
        self.assertEqual(trained["run"], "new\\xff")
        self.assertTrue(os.path.exists(b"new\xff/last.json"))
        with open(b"text\xff", "w") as file:
            file.write("some text")
        scored = self.json_of("eval", run, "--data", b"text\xff")
        self.assertEqual((scored["run"], scored["data"]), ("run\\xff", ["text\\xff"]))
        drawn = self.json_of("sample", run, "--prompt", b"\xfe!", "--length", "3")
        self.assertEqual(drawn["prompt"], "\\xfe!")
        info = self.json_of("info", env={**os.environ, "LACE_KERNEL": os.fsdecode(b"\xff")})
        self.assertEqual(info["forced"], "\\xff")
        self.assertIn(b"run files in run\\xff/", lace("eval", run).stdout)

    def test_all_of_the_data_that_is_named_is_scored(self):
        size = os.path.getsize("text")
        of_run = self.json_of("eval", "run")
        self.assertEqual((of_run["split"], of_run["bytes"]), ("test", int(0.05 * size)))
        scored = self.json_of("eval", "run", "--data", "text", "--baselines")
        self.assertEqual((scored["bytes"], scored["data"], scored["files"]), (size, ["text"], 1))
        self.assertIsNone(scored["split"])
        # A compressor on a twentieth of this text needs far more bits a byte.
        tail = self.json_of("eval", "run", "--baselines")
        gzip = [figures["baselines"]["gzip -9"] for figures in (scored, tail)]
        self.assertLess(gzip[0], gzip[1] / 4)
        # So many files would be split by file.
        os.mkdir("many")
        for i in range(30):
            with open(f"many/{i}", "w") as file:
                file.write("some text\n" * (i + 1))
        many = self.json_of("eval", "run", "--data", "many")
        self.assertEqual((many["bytes"], many["files"]), (10 * 30 * 31 // 2, 30))
        self.assertIn(b"on all 4,650 bytes of many",
                      lace("eval", "run", "--data", "many").stdout)
        # The run's own data are not needed.
        os.rename("text", "moved")
        try:
            self.assertEqual(self.json_of("eval", "run", "--data", "moved")["bytes"], size)
            self.assertEqual(lace("eval", "run").returncode, FAILED)
        finally:
            os.rename("moved", "text")

    def test_a_tilde_is_the_home_folder(self):
        home = os.path.abspath("home")
        os.makedirs(home)
        options = {"env": {**os.environ, "HOME": home}}
        for name in "text", "tiny.toml":
            os.link(name, os.path.join(home, name))
        trained = self.json_of("train", "~/tiny.toml", "--set", "data.paths=~/text", "--run",
                               "~/run", **options)
        self.assertEqual(trained["run"], os.path.join(home, "run"))
        self.assertEqual(self.json_of("eval", "~/run", "--data", "~/text", **options)["data"],
                         [os.path.join(home, "text")])
        self.assertEqual(len(self.json_of("sample", "~/run", "--length", "3", **options)["bytes"]),
                         3)
        self.json_of("model", "~/tiny.toml", **options)
        self.json_of("bench", "step", "~/tiny.toml", "--steps", "1", **options)
        self.json_of(*EXPLAIN, "--svg=~/picture.svg", **options)
        self.assertTrue(os.path.exists(os.path.join(home, "picture.svg")))
        # In a recipe too, and where HOME is not set.
        with open("home.toml", "w") as file, open("tiny.toml") as tiny:
            file.write(tiny.read().replace('["text"]', '["~/text"]'))
        self.assertEqual(lace("train", "home.toml", "--run", "at-home", **options).returncode, 0)
        result = lace("eval", "~/no-such-run", env={})
        self.assertEqual(result.returncode, USAGE)
        self.assertNotIn(b"~", result.stderr)


if __name__ == "__main__":
    unittest.main()
