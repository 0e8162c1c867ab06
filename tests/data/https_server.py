"""An HTTPS server on this machine that behaves as badly as servers and networks do.

    with Server(folder) as server: server.url("/cut/3/name"), server.ca, server.files["name"] = bytes

/KIND[/ARGUMENT]/NAME serves files[NAME]; KIND is a method's name below. `requests` lists what was
asked for: (path, range or None)."""

import http.server
import os
import ssl
import subprocess
import threading
import time

PATIENCE_S = 100  # of a server that says nothing, and of a test that waits for something


def make_certificate(folder, name, alternative):
    """A key and a certificate that signs itself, in one file."""
    key, certificate = os.path.join(folder, name + ".key"), os.path.join(folder, name + ".pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=lace test",
                    "-addext", f"subjectAltName={alternative}", "-keyout", key, "-out", certificate],
                   check=True, capture_output=True)  # fmt: skip
    return key, certificate


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "lace-test"

    def do_GET(self):
        self.server.owner.requests.append((self.path, self.headers.get("Range")))
        _, kind, *arguments, name = self.path.split("/")
        self.close_connection = True
        try:
            getattr(self, kind)(self.server.owner.files.get(name, b""), *arguments)
        except (ConnectionError, ssl.SSLError):
            pass  # the client has had enough

    def log_message(self, *_):
        pass

    def answer(self, status, body, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def ranged(self, body, tag='"1"', most=None, modified=None):
        """The part that is asked for, if it is still of this file; at most `most` bytes of it."""
        headers = {"ETag": tag} if modified is None else {"Last-Modified": modified}
        asked = self.headers.get("Range")
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if asked and begin >= len(body):
            return self.answer(416, b"", Content_Range=f"bytes */{len(body)}", **headers)
        if asked and self.headers.get("If-Range") == (tag if modified is None else modified):
            headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
            return self.answer(206, body[begin:][:most], len(body) - begin, **headers)
        return self.answer(200, body[:most], len(body), **headers)

    def times(self):
        """How often this path was asked for before."""
        return sum(path == self.path for path, _ in self.server.owner.requests) - 1

    # What servers do.

    def good(self, body):
        self.ranged(body)

    def cut(self, body, parts):
        self.ranged(body, most=len(body) // int(parts) + 1)

    def dated(self, body, parts):
        self.ranged(body, most=len(body) // int(parts) + 1, modified="Sat, 01 Jan 2022 00:00:00 GMT")

    def weak(self, body):
        self.ranged(body, tag='W/"1"', most=len(body) // 2 if self.times() == 0 else None)

    def no_range(self, body):
        self.answer(200, body[: len(body) // 2] if self.times() == 0 else body, len(body), ETag='"1"')

    def changes(self, body):
        first = self.times() == 0
        self.ranged(body[::-1] if first else body, tag='"1"' if first else '"2"',
                    most=len(body) // 2 if first else None)

    def shrinks(self, body):
        first = self.times() == 0
        self.ranged(body * 3 if first else body, tag='"1"' if first else '"2"',
                    most=2 * len(body) if first else None)

    def other_place(self, body):
        if self.times() == 0:
            self.ranged(body, most=len(body) // 2)
        else:
            self.answer(206, body[7:], Content_Range=f"bytes 7-{len(body) - 1}/{len(body)}", ETag='"1"')

    def promises_more(self, body):
        self.answer(200, body, len(body) + 1000)

    def says_nothing_of_length(self, body):
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def wrong_body(self, body):
        self.answer(200, bytes([body[0] ^ 1]) + body[1:])

    def stall(self, body):
        if self.times() == 0:
            self.ranged(body, most=len(body) // 2)
            self.server.owner.stop.wait(PATIENCE_S)
        else:
            self.ranged(body)

    def silent(self, _):
        self.server.owner.stop.wait(PATIENCE_S)

    def redirect(self, _):
        self.answer(302, b"moved", Location=self.path.replace("/redirect/", "/good/"))

    def to_http(self, _):
        self.answer(302, b"", Location="http://127.0.0.1:1/" + self.path)

    def to_file(self, _):
        self.answer(302, b"", Location="file:///etc/passwd")

    def loop(self, _):
        self.answer(302, b"", Location=self.path)

    def status(self, body, status, times):
        if self.times() < int(times):
            self.answer(int(status), b"an error page")
        else:
            self.ranged(body)


class QuietServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # clients that refuse the certificate, or are killed


class Server:
    def __init__(self, folder, name="server", alternative="IP:127.0.0.1"):
        self.files, self.requests, self.stop = {}, [], threading.Event()
        key, self.ca = make_certificate(folder, name, alternative)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, key)
        self.http = QuietServer(("127.0.0.1", 0), Handler)
        self.http.owner = self
        # The handshake belongs to the connection's thread, or a client that hangs would stop all.
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True,
                                               do_handshake_on_connect=False)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.05,))

    def url(self, path):
        return f"https://127.0.0.1:{self.http.server_port}{path}"

    def wait_for(self, path):
        """Until the path has been asked for."""
        until = time.monotonic() + PATIENCE_S
        while not any(asked == path for asked, _ in self.requests):
            assert time.monotonic() < until, self.requests
            time.sleep(0.01)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()
