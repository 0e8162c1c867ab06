"""lace data get as a user meets it (tests/data/get_test.py has what servers do):
python3 data_get_test.py PATH_OF_LACE"""

import hashlib
import os
import re
import sys
import tempfile

import cli

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data"))
from get_test_archives import GOOD, TEXT  # noqa: E402
from https_server import Server  # noqa: E402

SHA256 = hashlib.sha256(GOOD).hexdigest()


def main(folder):
    with Server(folder) as server:
        server.files["enwik8.zip"] = GOOD

        def arguments(kind, *more):
            return ["data", "get", "enwik8", "--to", os.path.join(folder, "to"), "--cacert", server.ca,
                    "--url", server.url(f"/{kind}/enwik8.zip"), *more]  # fmt: skip

        wrong = cli.lace(*arguments("good"), code=1)
        assert wrong.stdout == b"" and b"has 36445475 bytes as published" in wrong.stderr, wrong
        cut = cli.lace(*arguments("cut/2", "--digest", "sha256:" + SHA256), code=0)
        assert b"trying again in 0.5 s" in cut.stderr, cut
        lines = cut.stdout.decode().splitlines()
        assert re.fullmatch(r".*/to/enwik8: 300 kB fetched from https://.* in [0-9.]+ s", lines[0]), lines
        assert lines[1:] == ["sha256 " + SHA256, "checked: sha256 of enwik8.zip"], lines
        with open(os.path.join(folder, "to", "enwik8"), "rb") as file:
            assert file.read() == TEXT
        again = cli.parse_json(cli.lace(*arguments("good", "--digest", "none", "--json"), code=0).stdout)
        assert list(again) == ["name", "path", "already_there", "url", "archive_bytes",
                               "archive_sha256", "resumed_bytes", "checked", "elapsed_s"]  # fmt: skip
        assert again["already_there"] and again["archive_bytes"] is None and again["checked"] == []
    for usage, says in (
        (["enwik9"], b"enwik9 not in {enwik8,cifar10}"),
        ([], b"name is required"),
        (["enwik8", "--stall", "0"], b"--stall: takes a whole number from 1 to 3600, got '0'"),
        (["enwik8", "--cacert", "absent"], b"absent"),
    ):
        result = cli.lace("data", "get", *usage, code=2)
        assert says in result.stderr, result


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(name)
