#!/usr/bin/env python3
"""Compares two builds of larder: both receive the same 5,000 requests, in the same order, from the same scripted
origin, and must send the same responses and count the same metrics.

    tests/compare/compare.py OLD NEW [--requests N] [--seed N]

Owns: the workload and the list of differences that are allowed (ALLOWED). Never touches: the network beyond loopback.
Exit code 0: alike; 1: differences, which are printed.
"""
import argparse
import http.client
import http.server
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading

HOST = "api.example.test"
# Renamed between the builds: (pattern in the old build's output, replacement).
ALLOWED = [
    (r"held-", "cooldown-"),
    (r'"paced"', '"rate_limit"'),
    (r"/pace\b", "/rate-limit"),
    (r"/invalid-requests\b", "/ban-guard"),
    (r'cause="pace"', 'cause="rate-limit"'),
    (r'cause="invalid-requests"', 'cause="ban-guard"'),
    (r'named="([^"]*)",outcome="([^"]*)"', r'outcome="\2",pattern="\1"'),
]
# Names of keys: the new one, and the one before 0.1.
KEYS = {"rate_limit": "pace", "cooldown": "hold_down"}


class Origin(http.server.ThreadingHTTPServer):
    """Responds by the request's path alone, and by how often the path was requested."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.counts, self.lock = {}, threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_args):
        """A connection that larder closes is no error."""

    def count(self, key):
        with self.lock:
            self.counts[key] = self.counts.get(key, 0) + 1
            return self.counts[key]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        pass

    def send(self, status, fields, body=b"", chunked=False):
        self.send_response_only(status)
        for name, value in fields:
            self.send_header(name, value)
        has_body = status not in (204, 304) and self.command != "HEAD"
        if chunked and has_body:
            self.send_header("Transfer-Encoding", "chunked")
        elif status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if has_body and chunked:
            for at in range(0, len(body), 1000):
                piece = body[at : at + 1000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        elif has_body:
            self.wfile.write(body)

    def respond(self):
        length = int(self.headers.get("Content-Length") or 0)
        received = self.rfile.read(length)
        path = self.path.split("?")[0]
        kind, _, rest = path.lstrip("/").partition("/")
        number = self.server.count((self.command, self.path))
        fields = [("Content-Type", "text/plain")]
        body = f"{self.command} {self.path} {number}\n".encode()
        if self.command == "POST":
            body += received
        if kind == "etag":
            tag = f'"{rest}"'
            fields.append(("ETag", tag))
            if self.headers.get("If-None-Match") == tag:
                return self.send(304, fields)
            body = f"tagged {rest}\n".encode() * 20
        elif kind == "vary":
            fields.append(("Vary", "Accept-Language"))
            body += (self.headers.get("Accept-Language") or "-").encode()
        elif kind == "nostore":
            fields.append(("Cache-Control", "no-store"))
        elif kind == "big":
            body = body * 4000
        elif kind == "chunked":
            return self.send(200, fields, body * 300, chunked=True)
        elif kind == "cookie":
            fields.append(("Set-Cookie", "a=b"))
        elif kind == "missing":
            return self.send(404, fields, body)
        elif kind == "moved":
            fields.append(("Location", "/etag/1"))
            return self.send(301, fields, b"moved\n")
        elif kind == "flaky" and number % 3 == 0:
            return self.send(503, fields, b"failing\n")
        elif kind == "limited" and number % 4 == 0:
            return self.send(429, [*fields, ("Retry-After", "0")], b"slow down\n")
        elif kind == "empty":
            return self.send(204, [])
        return self.send(200, fields, body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = respond


def configuration(origin, directory, old_keys):
    def key(name):
        return KEYS[name] if old_keys else name

    stale = {"for": "24h", key("cooldown"): "0s"}
    route = lambda name, path, **more: {
        "name": name, "match": {"host": HOST, "path": path, "method": ["GET", "HEAD"]},
        "retry": "off", "stale_if_error": stale, **more}
    return {
        "version": 1, "listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"},
        "store": {"path": os.path.join(directory, "data")}, "log": {"level": "warn"},
        "resolve": {HOST: f"127.0.0.1:{origin.server_port}"},
        "upstreams": {"api": {"hosts": [HOST], "mount": {"path": "/api", "to": f"http://{HOST}"},
                              key("rate_limit"): {"limit": "100000/s"}}},
        "routes": [
            route("vary", "/vary/**", scope="shared", ttl="1h"),
            route("origin", "/nostore/**", scope="shared", ttl="origin"),
            route("short", "/flaky/**", scope="shared", ttl="0s"),
            route("limited", "/limited/**", ttl={"fallback": "0s"}),
            route("all", "/**", scope="shared", ttl="1h", ttl_by_status={"404": "1h"}),
        ],
    }


class Larder:
    """One build, with its own origin and directory."""

    def __init__(self, binary):
        self.origin, self.directory = Origin(), tempfile.mkdtemp()
        path = os.path.join(self.directory, "proxy.yaml")
        for old_keys in (False, True):
            with open(path, "w") as out:
                json.dump(configuration(self.origin, self.directory, old_keys), out)
            if subprocess.run([binary, "check", path], capture_output=True).returncode == 0:
                break
        else:
            sys.exit(subprocess.run([binary, "check", path], capture_output=True, text=True).stderr)
        self.process = subprocess.Popen([binary, "run", path], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.ports = {}
        for line in self.process.stdout:
            found = re.match(r"(larder listens|metrics:).*?127\.0\.0\.1:(\d+)", line)
            if found:
                self.ports["admin" if found.group(1) == "metrics:" else "proxy"] = int(found.group(2))
            if len(self.ports) == 2:
                break
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.connection = http.client.HTTPConnection("127.0.0.1", self.ports["proxy"], timeout=20)

    def request(self, method, url, fields, body):
        try:
            self.connection.request(method, url, body=body, headers=fields)
            response = self.connection.getresponse()
            content = response.read()
        except (http.client.HTTPException, OSError) as error:
            self.connection.close()
            return (type(error).__name__, [], b"")
        return (response.status, response.getheaders(), content)

    def metrics(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["admin"], timeout=20)
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def workload(count, seed):
    chance = random.Random(seed)
    kinds = ["etag", "vary", "nostore", "big", "chunked", "cookie", "missing", "moved", "flaky", "limited", "empty", "plain"]
    for _ in range(count):
        path = f"/{chance.choice(kinds)}/{chance.randrange(40)}"
        if chance.random() < 0.2:
            path += f"?q={chance.randrange(3)}"
        method = chance.choices(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"], [80, 8, 5, 2, 2, 1])[0]
        fields = {"Host": HOST}
        if chance.random() < 0.3:
            fields["Accept-Language"] = chance.choice(["de", "en", "fr"])
        if chance.random() < 0.1:
            fields["Authorization"] = chance.choice(["Bearer a", "Bearer b"])
        if chance.random() < 0.1:
            fields["Range"] = chance.choice(["bytes=0-9", "bytes=5-", "bytes=-3", "bytes=0-1,4-5", "bytes=999999-"])
        if chance.random() < 0.1:
            fields["Cache-Control"] = chance.choice(["no-cache", "max-age=0", "only-if-cached", "no-store", "max-stale"])
        if chance.random() < 0.1:
            fields["If-None-Match"] = f'"{chance.randrange(40)}"'
        body = b"x" * chance.randrange(200) if method in ("POST", "PUT") else None
        mounted = chance.random() < 0.1
        if mounted:
            fields.pop("Host")
        yield method, f"/api{path}" if mounted else f"http://{HOST}{path}", fields, body


def normalised(response, old):
    status, fields, body = response
    out = []
    for name, value in fields:
        if old:
            for pattern, new in ALLOWED:
                value = re.sub(pattern, new, value)
        if name.lower() == "date":
            value = "DATE"
        if name.lower() == "age":
            value = "AGE"
        # Seconds that pass between the two builds.
        value = re.sub(r"ttl=(-?)\d+", lambda m: f"ttl={m.group(1)}N", value)
        value = re.sub(r"larder-[0-9a-f]+", "larder-NAME", value)
        out.append((name, value))
    text = body
    if old:
        for pattern, new in ALLOWED:
            text = re.sub(pattern.encode(), new.encode(), text)
    if b'"larder_error"' in text or any(name == "proxy-status" for name, _ in out):
        # The words of larder's own errors may change, not their class and status.
        text = re.sub(rb'"reason":"[^"]*"', b'"reason":""', text)
        out = [(name, "LENGTH" if name.lower() == "content-length" else value) for name, value in out]
    boundary = re.search(rb"--([0-9A-Za-z]{10,})", text)
    if boundary:
        text = text.replace(boundary.group(1), b"BOUNDARY")
        out = [(name, value.replace(boundary.group(1).decode(), "BOUNDARY")) for name, value in out]
    return (status, out, text)


def counters(page, old):
    found = {}
    for line in page.splitlines():
        if line.startswith("#") or "seconds" in line or "process_" in line or "_bytes" in line or "build_info" in line:
            continue
        if old:
            for pattern, new in ALLOWED:
                line = re.sub(pattern, new, line)
        series, _, value = line.rpartition(" ")
        found[series] = value
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("old")
    arguments.add_argument("new")
    arguments.add_argument("--requests", type=int, default=5000)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    requests = list(workload(options.requests, options.seed))
    # One after the other: the waits of one build must not outlast the cooldowns of the other.
    old, new = Larder(options.old), Larder(options.new)
    before = [normalised(old.request(*request), True) for request in requests]
    after = [normalised(new.request(*request), False) for request in requests]
    differences, kinds = 0, set()
    for number, (request, a, b) in enumerate(zip(requests, before, after)):
        status = next((value for name, value in b[1] if name.lower() == "cache-status"), "-")
        kinds.add((b[0], re.sub(r"ttl=-?N", "ttl", status)))
        if a != b:
            differences += 1
            if differences <= 10:
                print(f"request {number}: {request[:3]}\n  old: {a[0]} {a[1]} {a[2][:120]}\n  new: {b[0]} {b[1]} {b[2][:120]}")
    a, b = counters(old.metrics(), True), counters(new.metrics(), False)
    for series in sorted(set(a) | set(b)):
        if a.get(series) != b.get(series):
            differences += 1
            print(f"metric {series}: old {a.get(series)}, new {b.get(series)}")
    old.stop()
    new.stop()
    print(json.dumps({"requests": options.requests, "kinds of response": len(kinds), "series": len(b),
                      "differences": differences}))
    sys.exit(differences != 0)


if __name__ == "__main__":
    main()
