"""get_data() against a server of this machine: python3 get_test.py PATH_OF_GET_DRIVER"""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

from get_test_archives import GOOD, TEXT, tarred, zipped
from https_server import PATIENCE_S, Server

DRIVER = sys.argv.pop(1)
FAILED = 1
BATCH = "cifar-10-batches-bin/data_batch_1.bin"


def sha256(body):
    return "sha256:" + hashlib.sha256(body).hexdigest()


class DataGet(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = Server(cls.folder.name).__enter__()
        cls.server.files["zip"] = GOOD

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()
        cls.folder.cleanup()

    def setUp(self):
        self.to = os.path.join(self.folder.name, self.id())

    def arguments(self, path, digest, *, name="enwik8", server=None, ca=None, stall=30, retries=5):
        server = server or self.server
        url = path if ":" in path else server.url(path)
        return [DRIVER, name, self.to, url, server.ca if ca is None else ca, digest, str(stall), str(retries)]

    def get(self, path, digest=sha256(GOOD), code=0, **options):
        """The JSON of a call that works; what stderr says of another."""
        result = subprocess.run(self.arguments(path, digest, **options), capture_output=True,
                                text=True, timeout=200)  # fmt: skip
        self.assertEqual(result.returncode, code, result.stderr)
        self.errors = result.stderr
        return json.loads(result.stdout) if code == 0 else result.stderr

    def listed(self):
        return sorted(os.listdir(self.to))

    def assert_complete(self):
        self.assertEqual(self.listed(), ["enwik8"])
        with open(os.path.join(self.to, "enwik8"), "rb") as file:
            self.assertEqual(hashlib.sha256(file.read()).digest(), hashlib.sha256(TEXT).digest())

    def ranges(self, path):
        return [asked for was, asked in self.server.requests if was == path]

    def test_fetches_checks_and_unpacks_once(self):
        got = self.get("/good/zip")
        self.assertEqual((got["archive_bytes"], "sha256:" + got["archive_sha256"]),
                         (len(GOOD), sha256(GOOD)))
        self.assertEqual((got["checked"], got["already_there"], got["resumed_bytes"], got["path"]),
                         (["sha256 of enwik8.zip"], False, 0, os.path.join(self.to, "enwik8")))
        self.assert_complete()
        before = len(self.server.requests)
        again = self.get("/good/zip")
        self.assertTrue(again["already_there"])
        self.assertEqual(len(self.server.requests), before)
        # What is published is another file.
        error = self.get("/good/zip", digest="", code=FAILED)
        self.assertIn("enwik8 has 100000000 bytes, got 300000", error)
        self.assertIn("is there already and something else; move it away", error)
        self.assert_complete()

    def test_says_what_was_not_checked(self):
        got = self.get("/good/zip", digest="none")
        self.assertEqual(("sha256:" + got["archive_sha256"], got["checked"]), (sha256(GOOD), []))
        self.assert_complete()

    def test_folders(self):
        self.server.files["tar"] = tarred([(BATCH, TEXT), ("cifar-10-batches-bin/readme", b"!")])
        self.get("/good/tar", name="cifar10", digest=sha256(self.server.files["tar"]))
        self.assertEqual(self.listed(), ["cifar10"])
        with open(os.path.join(self.to, "cifar10", "data_batch_1.bin"), "rb") as file:
            self.assertEqual(file.read(), TEXT)

    def test_goes_on_where_it_was_cut(self):
        for path in "/cut/4/zip", "/dated/4/zip":
            with self.subTest(path=path):
                self.setUp()
                self.get(path, retries=1)
                self.assert_complete()
                step = len(GOOD) // 4 + 1
                self.assertEqual(self.ranges(path), [None] + [f"bytes={i * step}-" for i in (1, 2, 3)])
                self.assertEqual(self.errors.count("retry: "), 3)
                os.unlink(os.path.join(self.to, "enwik8"))

    def test_a_call_that_is_killed_is_gone_on_with(self):
        self.server.files["slow"] = GOOD
        process = subprocess.Popen(self.arguments("/stall/slow", sha256(GOOD)),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        part = os.path.join(self.to, "enwik8.zip.part")
        until = time.monotonic() + 100
        while not (os.path.exists(part) and os.path.getsize(part) == len(GOOD) // 2):
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)
        # Nobody else takes the file meanwhile.
        self.assertIn("another process is fetching", self.get("/stall/slow", code=FAILED))
        process.send_signal(signal.SIGKILL)
        process.wait()
        got = self.get("/stall/slow")
        self.assertEqual(got["resumed_bytes"], len(GOOD) // 2)
        self.assertEqual(self.ranges("/stall/slow"), [None, f"bytes={len(GOOD) // 2}-"])
        self.assert_complete()

    def test_begins_anew_where_it_cannot_go_on(self):
        half = f"bytes={len(GOOD) // 2}-"
        for path, ranges in (("/no_range/zip", [None, half]), ("/weak/zip", [None, None]),
                             ("/changes/zip", [None, half]),
                             ("/shrinks/zip", [None, f"bytes={2 * len(GOOD)}-", None])):
            with self.subTest(path=path):
                self.assertEqual(self.get(path)["resumed_bytes"], 0)
                self.assertEqual(self.ranges(path), ranges)
                self.assert_complete()
                os.unlink(os.path.join(self.to, "enwik8"))

    def test_a_part_of_another_address_is_not_gone_on_with(self):
        self.get("/cut/2/zip", retries=0, code=FAILED)
        self.assertEqual(self.listed(), ["enwik8.zip.part", "enwik8.zip.part.json"])
        self.assertEqual(self.get("/good/zip")["resumed_bytes"], 0)
        self.assert_complete()

    def test_a_part_that_nobody_knows_is_not_gone_on_with(self):
        for state in "", "{", "[" * 100_000, '{"url": 3}', json.dumps({"url": "x", "validator": ""}):
            os.makedirs(self.to, exist_ok=True)
            with open(os.path.join(self.to, "enwik8.zip.part"), "wb") as file:
                file.write(b"rubbish")
            with open(os.path.join(self.to, "enwik8.zip.part.json"), "w") as file:
                file.write(state)
            self.assertEqual(self.get("/good/zip")["resumed_bytes"], 0)
            self.assert_complete()
            os.unlink(os.path.join(self.to, "enwik8"))

    def test_wrong_lengths(self):
        error = self.get("/promises_more/zip", retries=1, code=FAILED)
        self.assertEqual(len(self.ranges("/promises_more/zip")), 2)
        self.assertIn("cannot fetch https://127.0.0.1", error)
        # Known before anything is fetched.
        for path in "/good/zip", "/redirect/zip":
            self.assertIn(f"has 36445475 bytes as published, the server has {len(GOOD)}",
                          self.get(path, digest="", code=FAILED))
        error = self.get("/says_nothing_of_length/zip", retries=0, digest="", code=FAILED)
        self.assertIn(f"the connection ended after {len(GOOD)} of 36445475 bytes", error)
        self.assertNotIn("enwik8", self.listed())
        self.get("/says_nothing_of_length/zip")
        self.assert_complete()

    def test_a_wrong_body_is_removed(self):
        error = self.get("/wrong_body/zip", code=FAILED)
        self.assertRegex(error, "enwik8.zip has the sha256 [0-9a-f]{64}, got [0-9a-f]{64}; what was "
                                "fetched from https://127.0.0.1.* is removed")
        self.assertEqual(self.listed(), [])

    def test_a_range_from_another_place(self):
        error = self.get("/other_place/zip", code=FAILED)
        self.assertIn(f"goes on at byte {len(GOOD) // 2} as asked, the server goes on at 7", error)
        self.assertNotIn("enwik8", self.listed())

    def test_connections_that_stall(self):
        started = time.monotonic()
        self.assertEqual(self.get("/stall/zip", stall=1)["resumed_bytes"], 0)
        self.assertIn("nothing came for 1 s", self.errors)
        self.assert_complete()
        os.unlink(os.path.join(self.to, "enwik8"))
        error = self.get("/silent/zip", stall=1, retries=0, code=FAILED)
        self.assertIn("nothing came for 1 s", error)
        # Not the server has ended these connections.
        self.assertLess(time.monotonic() - started, PATIENCE_S)

    def test_redirects(self):
        self.get("/redirect/zip")
        self.assert_complete()
        os.unlink(os.path.join(self.to, "enwik8"))
        for path in "/to_http/zip", "/to_file/zip":
            self.assertRegex(self.get(path, code=FAILED), "Protocol .* not supported or disabled")
        self.assertIn("Maximum (10) redirects", self.get("/loop/zip", code=FAILED))
        for path in "/to_http/zip", "/to_file/zip":  # not tried again
            self.assertEqual(len(self.ranges(path)), 1)
        self.assertEqual(self.listed(), [])

    def test_statuses(self):
        self.assertIn("404", self.get("/status/404/9/zip", code=FAILED))
        self.assertEqual(len(self.ranges("/status/404/9/zip")), 1)
        for status in 503, 429:
            self.get(f"/status/{status}/1/zip")
            self.assertEqual(len(self.ranges(f"/status/{status}/1/zip")), 2)
            self.assert_complete()
            os.unlink(os.path.join(self.to, "enwik8"))
        self.assertIn("500", self.get("/status/500/9/zip", retries=2, code=FAILED))
        self.assertEqual(len(self.ranges("/status/500/9/zip")), 3)
        self.assertIn("gives a file with status 200, got 203",
                      self.get("/status/203/9/zip", code=FAILED))
        self.assertEqual(self.listed(), [])

    def test_certificates(self):
        before = len(self.server.requests)
        with tempfile.NamedTemporaryFile() as nobody:
            self.assertIn("certificate", self.get("/good/zip", ca=nobody.name, code=FAILED))
        self.assertIn("certificate", self.get("/good/zip", ca="", code=FAILED))  # the system's
        with Server(self.folder.name, "other", "DNS:other.example") as other:
            other.files["zip"] = GOOD
            error = self.get("/good/zip", server=other, code=FAILED)
            self.assertRegex(error, "does not match target host name|no alternative certificate")
            self.assertEqual(other.requests, [])
        self.assertEqual(len(self.server.requests), before)
        self.assertEqual(self.listed(), [])

    def test_archives_that_lead_out(self):
        outside = os.path.join(self.folder.name, "evil")
        link, hard, device = [tarfile.SYMTYPE], [tarfile.LNKTYPE], [tarfile.CHRTYPE]
        for name, archive, says in (
            ("up", zipped([("enwik8", TEXT), ("../evil", b"!")]), "leads out of its folder"),
            ("deep", tarred([("a/../../evil", b"!")]), "leads out of its folder"),
            ("absolute", tarred([(outside, b"!")]), "leads out of its folder"),
            ("link", tarred([("enwik8", link)]), "neither a file nor a folder"),
            ("hard", tarred([("enwik8", hard)]), "neither a file nor a folder"),
            ("device", tarred([("enwik8", device)]), "neither a file nor a folder"),
            ("twice", tarred([("enwik8", b"1"), ("enwik8", b"2")]), "holds enwik8 twice"),
            ("below", tarred([("enwik8", b"1"), ("enwik8/x", b"2")]), "holds 'enwik8/x' in what is no folder"),
            ("torn", GOOD[: len(GOOD) // 2], "is damaged or no archive"),
            ("text", TEXT, "is damaged or no archive"),
            ("empty", b"", "is damaged or no archive"),
            ("other", zipped([("text8", TEXT)]), "enwik8.zip unpacks to enwik8, this one does not"),
        ):
            with self.subTest(name=name):
                self.server.files[name] = archive
                error = self.get(f"/good/{name}", digest=sha256(archive), code=FAILED)
                self.assertIn(says, error)
                self.assertEqual(self.listed(), [])
                self.assertFalse(os.path.exists(outside))

    def test_wrong_arguments(self):
        for digest in "sha256:12", "crc32:12345678", "x", "md5:" + "g" * 32:
            self.assertIn("a digest is md5:HEX", self.get("/good/zip", digest=digest, code=FAILED))
        for url in "http://127.0.0.1/x", "file:///etc/passwd", ":", "https://":
            self.assertIn("https://", self.get(url, retries=0, code=FAILED))
        self.assertIn("there are enwik8 and cifar10, got enwik9",
                      self.get("/good/zip", name="enwik9", code=FAILED))

    def limited(self, path, most, digest, **options):
        """What a call says that can write files of at most `most` bytes, as on a full disk."""
        result = subprocess.run(self.arguments(path, digest, **options), capture_output=True,
                                text=True, restore_signals=False,  # SIGXFSZ stays ignored
                                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
        self.assertEqual((result.returncode, result.stdout), (FAILED, ""), result.stderr)
        return result.stderr

    def test_what_a_full_disk_stopped_is_gone_on_with(self):
        self.assertIn("enwik8.zip.part: File too large", self.limited("/good/zip", 100_000, "none"))
        self.assertEqual(self.listed(), ["enwik8.zip.part", "enwik8.zip.part.json"])
        self.assertEqual(self.get("/good/zip")["resumed_bytes"], 100_000)
        self.assert_complete()
        # An archive that fits, of what does not.
        self.server.files["zeros"] = tarred([("cifar-10-batches-bin/x", bytes(1_000_000))])
        digest = sha256(self.server.files["zeros"])
        os.unlink(os.path.join(self.to, "enwik8"))
        self.assertIn("x: File too large",
                      self.limited("/good/zeros", 50_000, digest, name="cifar10"))
        self.assertEqual(self.listed(), ["cifar-10-binary.tar.gz.part", "cifar-10-binary.tar.gz.part.json"])
        self.get("/good/zeros", name="cifar10", digest=digest)
        self.assertEqual(self.ranges("/good/zeros"), [None])  # fetched once
        self.assertEqual(self.listed(), ["cifar10"])

    def test_a_folder_that_cannot_be_made(self):
        with open(self.to, "w"):
            pass
        self.assertIn("cannot make the folder", self.get("/good/zip", code=FAILED))


if __name__ == "__main__":
    unittest.main()
