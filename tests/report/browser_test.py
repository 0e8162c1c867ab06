"""The pages of a hostile run and of one without anything, opened in headless Chromium:
browser_test.py RENDER_PAGE. Exits with 77 where there is no Chromium."""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import hostile_run

RENDER_PAGE = sys.argv.pop(1)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)


class Browser(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def opened(self, html, width=1280):
        """(the page as it stands once it has loaded, what the console said)"""
        page = self.folder / "page.html"
        page.write_text(html)
        result = subprocess.run(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             f"--user-data-dir={self.folder / 'profile'}", f"--window-size={width},900",
             "--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom",
             page.as_uri()], capture_output=True, timeout=120)
        assert result.returncode == 0, result.stderr
        return (result.stdout.decode(),
                re.findall(r"^.*:CONSOLE.*$", result.stderr.decode(errors="replace"), re.MULTILINE))

    def page_of(self, folder):
        return subprocess.run([RENDER_PAGE, folder], capture_output=True, timeout=60,
                              check=True).stdout.decode()

    def check(self, html):
        dom, console = self.opened(html)
        self.assertEqual(console, [])
        self.assertTrue('data-script="ready"' in dom, "the page's own script did not run")
        self.assertTrue("<title>PWNED" not in dom, "a script of the run's did")

    def test_nothing_of_a_hostile_run_runs(self):
        html = self.page_of(hostile_run.make(self.folder / "run"))
        self.check(html)
        # That this test would see it: markup that was not escaped is stopped by the policy, which
        # the console tells, and without a policy it runs.
        broken = html.replace("<main>", f'<main><img src="data:," onerror="{hostile_run.CODE}">', 1)
        dom, console = self.opened(broken)
        self.assertTrue(console)
        self.assertTrue("<title>PWNED" not in dom)
        dom, _ = self.opened(re.sub("<meta http-equiv=Content-Security-Policy[^>]*>", "", broken))
        self.assertTrue("<title>PWNED" in dom)

    def test_a_run_that_has_not_begun(self):
        folder = self.folder / "empty"
        folder.mkdir()
        (folder / "recipe.toml").write_text("name = 'empty'\n")
        self.check(self.page_of(folder))

    def with_script(self, html, code):
        """The page without its policy, so that a script of the test's may run at its end."""
        html = re.sub("<meta http-equiv=Content-Security-Policy[^>]*>", "", html)
        return html.replace("</body>", f"<script>{code}</script></body>")

    def test_figures_under_the_pointer(self):
        html = self.with_script(self.page_of(hostile_run.make(self.folder / "run")), """
            const areas = [...document.querySelectorAll('.area')];
            document.body.dataset.tips = areas.map(area => {
              const box = area.getBoundingClientRect();
              area.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 2}));
              return area.querySelector('.tip').textContent;
            }).join('|');""")
        dom, console = self.opened(html)
        self.assertEqual(console, [])
        tips = re.search('data-tips="([^"]*)"', dom)[1].split("|")
        self.assertEqual(len(tips), 6)
        # Of 300 steps half is 150, which ends a validation; the mean over 12 steps lags 5.5 behind.
        self.assertEqual(tips[0], "step 150 · 76.8 kB · 38 s" "training, smoothed "
                                  f"{2 + 6 / 144.5 ** 0.5:.3f}" "validation 2.59")
        self.assertTrue(tips[1].endswith("Learning rate 0.001"))

    def test_nothing_is_wider_than_a_phone(self):
        html = self.with_script(
            self.page_of(hostile_run.make(self.folder / "run")), "document.body.dataset.wide = "
            "document.documentElement.scrollWidth > document.documentElement.clientWidth")
        # The narrowest window that Chromium opens; what is a phone's layout begins at 560.
        inner, _ = self.opened(html, width=500)
        self.assertTrue('data-wide="false"' in inner)


if __name__ == "__main__":
    if CHROMIUM is None:
        print("skipped: there is no chromium")
        sys.exit(77)
    unittest.main(verbosity=2)
