"""Archives for the tests of lace data get."""

import io
import random
import tarfile
import zipfile

TEXT = random.Random(1).randbytes(300_000)


def zipped(entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, body in entries:
            archive.writestr(name, body)
    return out.getvalue()


def tarred(entries):
    """entries: name, and bytes or, in a list, the TarInfo type of what leads to /etc/passwd."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as archive:
        for name, body in entries:
            info = tarfile.TarInfo(name)
            if isinstance(body, bytes):
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
            else:
                info.type, info.linkname = body[0], "/etc/passwd"
                archive.addfile(info)
    return out.getvalue()


GOOD = zipped([("enwik8", TEXT)])
