"""docs/json.md and what --json prints: every key of every document, and of the files of a run,
stands in the page's section of its command, and every name in such a section is a key:
python3 json_test.py PATH_OF_LACE PROJECT"""

import array
import json
import os
import pathlib
import re
import sys
import tempfile
import unittest
import wave

from cli import RECIPE, TEXT, in_parallel, lace, parse_json

PROJECT = pathlib.Path(sys.argv.pop(1)).resolve()

# The keys below these are names of something else: patterns, parameters, fields of recipes.
OPEN = {"settings", "baselines", "selected", "selected_cuda", "machine", "model"}

# Section and command.
COMMANDS = [
    ("lace explain", "explain", "local(4) | strided(4)", "--seq-len", "32", "--layers", "2"),
    ("lace model", "model", "tiny.toml"),
    ("lace model", "model", "tiny.toml", "--set", "model.positions=rotary", "--set",
     "model.rotary_scaling=yarn", "--set", "model.rotary_factor=2"),
    ("lace train", "train", "tiny.toml", "--dry-run"),
    ("lace train", "train", "tiny.toml", "--run", "other"),
    ("lace eval", "eval", "run", "--sweep", "--windows", "2"),
    ("lace eval", "eval", "run", "--data", "text", "--baselines"),
    ("lace eval", "eval", "audio"),
    ("lace probe", "probe", "run", "--trials", "2"),
    ("lace data show", "data", "show", "tiny.toml"),
    ("lace data get", "data", "get", "cifar10", "--to", "."),
    ("lace watch", "watch", "run"),
    ("lace compare", "compare", "run", "audio"),
    ("attention.json", "attention", "run", "--query", "20"),
    ("lace sample", "sample", "run", "--length", "3"),
    ("lace sample", "sample", "run", "--length", "3", "--count", "2"),
    ("lace bench attention", "bench", "attention", "--pattern", "dense", "--seq-len", "16",
     "--rounds", "1"),
    ("lace bench step", "bench", "step", "tiny.toml", "--steps", "1"),
    ("lace bench decode", "bench", "decode", "tiny.toml", "--steps", "2"),
    ("lace info", "info"),
]
# Names in sections that are no keys of a document made here, beside those of commands and files.
NO_KEYS = {
    "lace train": {"share_of_peak", "gpu", "device", "spike", "windows", "imported"},
    "lace eval": {"validation", "train"},  # splits of baselines.json
    "lace bench attention": {"extra_memory_mb"},  # of a million tokens
    "lace bench decode": {"name", "pattern", "n", "gpu"},  # with --lengths, on a GPU
    "lace info": {"error", "capability", "memory_bytes", "selected_cuda"},
}

WITHOUT_JSON = {"lace data", "lace bench", "lace report", "lace export", "lace import",
                "lace attention"}  # the last writes attention.json, which has a section


def sections():
    """Title -> the words in backticks that may be keys, "on a GPU" left out."""
    found = {}
    for part in (PROJECT / "docs" / "json.md").read_text().split("\n## ")[1:]:
        title, text = part.split("\n", 1)
        text = text.split("\nOn a GPU also:")[0].split("\nWith `--table`")[0]
        found[title] = set(re.findall(r"`([a-z][a-z0-9_]*)`", text)) - {"null"}
    return found


def keys_of(document):
    if isinstance(document, list):
        return set().union(*map(keys_of, document)) if document else set()
    if not isinstance(document, dict):
        return set()
    keys = set(document)
    for key, value in document.items():
        if key not in OPEN or not isinstance(value, dict):
            keys |= keys_of(value)
    return keys


def write_wav(path):
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, 12000, 0, "NONE", ""))
        file.writeframes(array.array("h", range(0, 12000, 2)).tobytes())


def prepare():
    """Two runs with all that their folders may hold, and what `lace data get` takes for its work."""
    pathlib.Path("text").write_text(TEXT)
    pathlib.Path("tiny.toml").write_text(
        RECIPE + "sample_every = 10\nsample_bytes = 9\ncheckpoint_every = 5\n")
    os.mkdir("music")
    for i in range(4):
        write_wav(f"music/{i}.wav")
    os.mkdir("cifar10")
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        with open(f"cifar10/{name}.bin", "wb") as file:
            file.truncate(10000 * 3073)  # takes no room
    for run, more in (("run", []), ("audio", ["--set", "data.kind=audio", "--set",
                                              "data.paths=music", "--set", "train.steps=2"])):
        lace("train", "tiny.toml", "--run", run, *more, code=0)
    lace("eval", "run", "--baselines", code=0)


def files_of(run):
    """The files of a run's folder that docs/json.md tells of, and in which section."""
    for name in ("run.json", "last.json", "best.json", "metrics.jsonl", "samples.jsonl"):
        for line in (run / name).read_text().splitlines() if name.endswith("l") else [
                (run / name).read_text()]:
            yield "lace train", f"{run}/{name}", json.loads(line)
    yield "lace eval", f"{run}/baselines.json", json.loads((run / "baselines.json").read_text())


class Keys(unittest.TestCase):
    def test_the_page_names_every_key_and_no_others(self):
        self.addCleanup(os.chdir, os.getcwd())
        with tempfile.TemporaryDirectory() as scratch:
            os.chdir(scratch)
            prepare()
            printed = in_parallel(lambda c: parse_json(lace(*c[1:], "--json", code=0).stdout),
                                  COMMANDS)
            documents = [(c[0], "lace " + " ".join(c[1:]), d) for c, d in zip(COMMANDS, printed)]
            documents += files_of(pathlib.Path("run"))
            os.chdir("/")
        page, seen = sections(), {}
        for section, what, document in documents:
            keys = keys_of(document)
            self.assertEqual(keys - page[section], set(), f"{what}: not in docs/json.md")
            seen[section] = seen.get(section, set()) | keys
        for section, keys in seen.items():
            self.assertEqual(page[section] - keys - NO_KEYS.get(section, set()), set(),
                             f"docs/json.md, {section}: no document has these keys")

    def test_every_command_has_a_section_or_prints_no_json(self):
        for group in (), ("bench",), ("data",):
            text = lace(*group, "--help", code=0).stdout.decode()
            listed = text.split("Subcommands:\n")[1].split("\n\n")[0]
            for name in re.findall(r"^  (\w+) ", listed, re.MULTILINE):
                title = " ".join(["lace", *group, name])
                self.assertTrue(title in sections() or title in WITHOUT_JSON, title)


if __name__ == "__main__":
    unittest.main()
