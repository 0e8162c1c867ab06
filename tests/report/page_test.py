"""The page of a report of a hostile run, read by Python's parser: page_test.py RENDER_PAGE"""

import base64
import hashlib
import html.parser
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import hostile_run

RENDER_PAGE = sys.argv.pop(1)
VOID = {"meta", "link", "input", "img", "br"}
ATTRIBUTES = re.compile(r"[a-zA-Z:][\w:.-]*")


class Page(html.parser.HTMLParser):
    """Checks that elements are closed as they were opened, and gathers what they hold."""

    def __init__(self):
        super().__init__()
        self.open, self.scripts, self.styles, self.tags, self.urls, self.text = [], [], [], [], [], ""
        self.policy = None

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        for name, value in attrs:
            assert ATTRIBUTES.fullmatch(name) and not name.startswith("on"), (tag, name)
            if name in ("src", "href", "xlink:href", "action"):
                self.urls.append(value)
        attrs = dict(attrs)
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside == "style":
            self.styles.append(data)
        else:
            self.text += data

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data[:80]}")


class HostileRun(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        folder = hostile_run.make(pathlib.Path(cls.scratch.name) / "run <b>&amp;")
        result = subprocess.run([RENDER_PAGE, folder], capture_output=True, timeout=60)
        assert result.returncode == 0, result.stderr
        cls.html = result.stdout.decode("utf-8", "strict")
        cls.page = Page()
        cls.page.feed(cls.html)
        cls.page.close()

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def test_elements_are_closed(self):
        self.assertEqual(self.page.open, [])
        self.assertIn("main", self.page.tags)
        self.assertTrue("<!--" not in self.html)

    def test_only_its_own_script_may_run(self):
        self.assertEqual(len(self.page.scripts), 1)
        digest = base64.b64encode(hashlib.sha256(self.page.scripts[0].encode()).digest()).decode()
        self.assertIn(f"script-src 'sha256-{digest}'", self.page.policy)
        self.assertIn("default-src 'none'", self.page.policy)
        self.assertNotIn("PWNED", self.page.scripts[0] + "".join(self.page.styles))

    def test_nothing_is_fetched(self):
        self.assertTrue(self.page.urls)
        for url in self.page.urls:
            self.assertTrue(url.startswith("data:"), url[:80])
        self.assertNotIn("url(", "".join(self.page.styles))
        self.assertNotIn("@import", "".join(self.page.styles))

    def test_hostile_text_is_shown_as_text(self):
        self.assertTrue("document.title='PWNED'" in self.page.text)
        self.assertTrue(r"\x1b[31m\x07\x00" in self.page.text)
        self.assertTrue(r"\xfe\xff" in self.page.text)  # the end of all 256 bytes
        self.assertTrue(r"plain € text" in self.page.text)
        for c in self.page.text:
            self.assertTrue(c in "\n\t" or 32 <= ord(c) < 127 or ord(c) >= 160, hex(ord(c)))

    def test_only_files_of_samples_are_read(self):
        self.assertTrue("not to be shown" not in self.html)
        self.assertTrue("root:x:0:0" not in self.html)

    def test_what_is_readable_is_there(self):
        for text in ("fixed(16, 4, 2)", "step 200", "xz -9", "layer 1, head 0", "Spikes", "Memory",
                     "last.json must nest at most", "lines of metrics.jsonl are no metrics"):
            self.assertTrue(text in self.page.text, text)
        self.assertTrue("gzip -9" not in self.page.text)  # 1e300 bits a byte are none


if __name__ == "__main__":
    unittest.main(verbosity=2)
