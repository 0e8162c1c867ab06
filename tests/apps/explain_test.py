"""Runs `lace explain` as a user does: python3 explain_test.py PATH_OF_LACE"""

import json
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

LACE = sys.argv.pop(1)


def explain(*arguments):
    return subprocess.run([LACE, "explain", *arguments], capture_output=True, text=True)


def explain_json(*arguments):
    run = explain(*arguments, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


class Explain(unittest.TestCase):
    def test_json_of_the_fixed_pattern(self):
        figures = explain_json("block(128)|summary(128,32)", "--seq-len", "12288", "--heads", "8")
        self.assertEqual(figures["patterns"], ["block(128) | summary(128, 32)"])
        self.assertEqual(figures["mean_keys"], 1584.5)
        self.assertEqual(figures["max_keys"], 3168)
        self.assertEqual(figures["live_pairs"], 8 * 12288 * 3169 // 2)
        self.assertEqual(figures["layers_to_full_reach"], 2)
        self.assertIs(figures["exact"], True)
        self.assertAlmostEqual(figures["waste"], figures["computed_pairs"] / figures["live_pairs"])
        for plan in figures, figures["transposed"]:
            for key in "live_pairs", "computed_pairs", "key_tiles":
                self.assertEqual(plan[key], sum(p[key] for p in plan["passes"]), key)
            self.assertGreater(plan["masks"], 0)
            self.assertGreater(plan["plan_bytes"], 0)
            self.assertGreater(plan["compile_ms"], 0)

    def test_unreachable_is_null(self):
        figures = explain_json("strided(8)", "--seq-len", "64", "--layers", "9")
        self.assertIsNone(figures["layers_to_full_reach"])
        self.assertIs(figures["full_reach"], False)

    def test_a_stack_cycles_through_its_patterns(self):
        one = explain_json("strided(8)", "--seq-len", "64", "--tile", "16x32")
        two = explain_json("strided(8)", "local(8)", "--seq-len", "64", "--tile", "16x32")
        self.assertEqual(one["tile"], [16, 32])
        self.assertGreater(two["live_pairs"], one["live_pairs"])
        self.assertEqual(two["layers_to_full_reach"], 2)
        self.assertEqual({p["layer"] for p in two["passes"]}, {0, 1})

    def test_heads_default_to_what_the_pattern_tells_apart(self):
        self.assertEqual(explain_json("fixed(16, 4, 4)", "--seq-len", "64")["heads"], 4)
        self.assertEqual(explain_json("heads(1*dense, 2*local(4))", "--seq-len", "64")["heads"], 3)

    def test_text_shows_figures_and_every_distinct_head(self):
        run = explain("heads(1*local(3), 1*strided(3))", "--seq-len", "9")
        self.assertEqual(run.returncode, 0, run.stderr)
        for line in (
            "keys of a query   mean 2.33, at most 3",
            "full reach        after 2 layers",
            "██····██····██",
            "head 1",
        ):
            self.assertIn(line, run.stdout)
        self.assertNotIn("\033", run.stdout)

    def test_svg(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "figure3.svg")
            run = explain("local(6) | strided(6)", "--seq-len", "36", "--svg", path)
            self.assertEqual(run.returncode, 0, run.stderr)
            root = xml.etree.ElementTree.parse(path).getroot()
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
            texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
            self.assertIn("local(6)", texts)
            self.assertIn("strided(6)", texts)
        run = explain("dense", "--seq-len", "4", "--svg", "/no/such/folder/figure.svg")
        self.assertEqual(run.returncode, 1)
        self.assertIn("/no/such/folder/figure.svg", run.stderr)

    def test_wrong_usage_is_2_and_points_at_the_character(self):
        run = explain("local(128) | blok(128)", "--seq-len", "1024")
        self.assertEqual((run.returncode, run.stdout), (2, ""))
        lines = run.stderr.splitlines()
        self.assertEqual(lines[0], "lace: [pattern] unknown pattern 'blok', did you mean 'block'?")
        self.assertEqual(lines[2].index("^"), lines[1].index("blok"))
        for arguments in (["dense"], ["--seq-len", "8"], ["dense", "--seq-len", "0"],
                          ["dense", "--seq-len", "8", "--tile", "100x128"]):
            self.assertEqual(explain(*arguments).returncode, 2, arguments)

    def test_failure_is_1(self):
        run = explain("heads(3*dense, 3*local(4))", "--seq-len", "64", "--heads", "8")
        self.assertEqual(run.returncode, 1)
        self.assertIn("heads(…) must add up", run.stderr)


if __name__ == "__main__":
    unittest.main()
