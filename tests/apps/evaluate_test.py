"""lace eval's protocol and lace probe as a user runs them: evaluate_test.py LACE."""

import os
import tempfile
import unittest

from cli import TEXT, lace, parse_json, prepare


class Evaluate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        prepare(cls.folder.name)
        os.chdir(cls.folder.name)
        with open("zeros", "wb") as file:
            file.write(bytes(20 * 64))
        lace("train", "tiny.toml", "--run", "records", "--set", "data.paths=zeros",
             "--set", "data.record_bytes=64", "--set", "data.validation_fraction=0.2",
             "--set", "data.test_fraction=0.2", code=0)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def json_of(self, *arguments):
        return parse_json(lace(*arguments, "--json", code=0).stdout)

    def test_a_sweep_is_its_evaluations(self):
        sweep = self.json_of("eval", "run", "--sweep")
        rows = sweep["sweep"]
        self.assertEqual([row["min_context"] for row in rows], [32, 48, 56, 62, 63])
        for row in rows[0], rows[2]:
            alone = self.json_of("eval", "run", "--min-context", str(row["min_context"]))
            for key in "bits_per_byte", "interval_95", "bytes", "windows", "available_windows":
                self.assertEqual(alone[key], row[key])
            low, high = row["interval_95"]
            self.assertTrue(low < row["bits_per_byte"] < high)
        for key in "min_context", "bits_per_byte", "interval_95", "windows":
            self.assertEqual(sweep[key], rows[-1][key])
        text = lace("eval", "run", "--sweep", code=0).stdout.decode()
        self.assertIn("min context", text)
        self.assertIn("●", text)

    def test_some_of_the_windows(self):
        size = len(TEXT)
        some = self.json_of("eval", "run", "--data", "text", "--windows", "5",
                            "--min-context", "60")
        self.assertEqual((some["windows"], some["bytes"]), (5, 20))
        self.assertEqual(some["available_windows"], 1 + (size - 64 + 3) // 4)
        self.assertIn("in 5 of ", lace("eval", "run", "--windows", "5", "--min-context", "60",
                                       code=0).stdout.decode())

    def test_records_are_whole(self):
        scored = self.json_of("eval", "records")
        self.assertEqual((scored["windows"], scored["bytes"]), (4, 4 * 64))
        self.assertIn("records of 64 bytes whole", lace("eval", "records", code=0).stdout.decode())
        for arguments, part in ((["--min-context", "8"], b"must be 0 where windows are records"),
                                (["--sweep"], b"records of 64 bytes")):
            self.assertIn(part, lace("eval", "records", *arguments, code=1).stderr)

    def test_probe(self):
        arguments = ["probe", "run", "records", "--trials", "2", "--lengths", "4,16",
                     "--depths", "0,1"]
        found = self.json_of(*arguments, "--out", "page.html")["runs"]
        self.assertEqual([run["run"] for run in found], ["run", "records"])
        for run in found:
            self.assertEqual(run["filler"], "validation")
            self.assertEqual([(cell["length"], cell["depth"], cell["distance"])
                              for cell in run["copying"]],
                             [(4, 0, 60), (4, 1, 4), (16, 0, 48), (16, 1, 16)])
            for cell in run["copying"]:
                gain = cell["fresh"]["bits_per_byte"] - cell["copied"]["bits_per_byte"]
                self.assertAlmostEqual(cell["gain"]["bits_per_byte"], gain)
            self.assertEqual([row["begin"] for row in run["positions"]], [0, 1, 2, 4, 8, 16, 32])
        with open("page.html") as file:
            page = file.read()
        self.assertEqual(page.count("<td"), 8)
        self.assertIn("<polyline", page)
        text = lace(*arguments, code=0).stdout.decode()
        self.assertLess(text.index("run\n"), text.index("records\n"))
        self.assertEqual(text.count("loss by position"), 2)
        failed = lace(*arguments, "--out", "absent/page.html", code=1)
        self.assertIn(b"absent/page.html", failed.stderr)
        self.assertEqual(failed.stdout.decode(), text)  # what was measured is not lost
        again = self.json_of(*arguments)["runs"]
        self.assertEqual([run["copying"] for run in again], [run["copying"] for run in found])

    def test_probe_with_random_filler(self):
        (run,) = self.json_of("probe", "run", "--random", "--trials", "1")["runs"]
        self.assertEqual((run["filler"], run["positions"]), ("random", []))
        self.assertEqual([cell["length"] for cell in run["copying"]], [8] * 9)
        self.assertIsNone(run["copying"][0]["gain"]["interval_95"])


if __name__ == "__main__":
    unittest.main()
