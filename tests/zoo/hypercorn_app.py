"""hypercorn as an origin of tests/suite/zoo: an ASGI application without a framework.

hypercorn serves it over HTTP/1.1 in the clear and over HTTP/2 or HTTP/1.1 with TLS, as its
configuration says (hypercorn.toml). ZOO_ROOT is the directory of bodies.
"""

import gzip
import os
import pathlib

ROOT = pathlib.Path(os.environ["ZOO_ROOT"])
MODIFIED = b"Sun, 06 Nov 1994 08:49:37 GMT"
BYTES = b"application/octet-stream"
TEXT = b"text/plain"


class Exchange:
    """One request and its response."""

    def __init__(self, scope, send):
        self.send = send
        self.asked = dict(scope["headers"])
        self.method = scope["method"]
        self.version = scope["http_version"]
        self.extensions = scope.get("extensions") or {}
        self.fields = [
            (b"cache-control", b"max-age=60"),
            (b"x-zoo", b"hypercorn one"),
            (b"x-zoo", b"hypercorn two"),
            (b"x-protocol", f"HTTP/{scope['http_version']}".encode()),
        ]

    def describe(self, name, kind=BYTES):
        self.fields += [
            (b"content-type", kind),
            (b"etag", self.etag(name)),
            (b"last-modified", MODIFIED),
        ]

    def etag(self, name):
        return f'"hypercorn-{name}"'.encode()

    async def head(self, status, *fields, **more):
        headers = self.fields + list(fields)
        await self.send({"type": "http.response.start", "status": status, "headers": headers} | more)

    async def body(self, data, more=False):
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def text(self, status, text, *fields):
        await self.head(status, (b"content-type", TEXT), *fields)
        await self.body(text)

    async def whole(self, data, *fields):
        await self.head(200, (b"content-length", str(len(data)).encode()), *fields)
        await self.body(b"" if self.method == "HEAD" else data)

    async def is_unchanged(self, name):
        """Answers 304 to a client that has the body already."""
        if self.asked.get(b"if-none-match") != self.etag(name):
            return False
        await self.head(304)
        await self.body(b"")
        return True


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    kind, _, name = scope["path"].lstrip("/").partition("/")
    answer = ANSWERS.get(kind, missing)
    await answer(Exchange(scope, send), pathlib.PurePath(name).name)


async def missing(exchange, _name):
    await exchange.text(404, b"no such thing\n")


async def sized(exchange, name):
    exchange.describe(name)
    if not await exchange.is_unchanged(name):
        await exchange.whole((ROOT / name).read_bytes())


async def in_pieces(exchange, data, more=False):
    for at in range(0, len(data), 70000):
        await exchange.body(data[at : at + 70000], more=True)
    await exchange.body(b"", more=more)


async def unsized(exchange, name):
    exchange.describe(name)
    if not await exchange.is_unchanged(name):
        await exchange.head(200)
        data = b"" if exchange.method == "HEAD" else (ROOT / name).read_bytes()
        await in_pieces(exchange, data)


async def trailers(exchange, name):
    if "http.response.trailers" not in exchange.extensions:
        return await missing(exchange, name)
    exchange.describe(name)
    await exchange.head(200, (b"trailer", b"x-after"), trailers=True)
    await in_pieces(exchange, (ROOT / name).read_bytes())
    after = [(b"x-after", b"hypercorn")]
    await exchange.send({"type": "http.response.trailers", "headers": after, "more_trailers": False})


async def status(exchange, code):
    if code == "204":
        await exchange.head(204)
        await exchange.body(b"")
    elif code == "301":
        away = b"https://elsewhere.example.test/there?a=1&b=2"
        await exchange.text(301, b"it is elsewhere\n", (b"location", away))
    elif code == "500":
        await exchange.text(500, b"hypercorn says no\n")
    else:
        await missing(exchange, code)


async def encoded(exchange, name, coding, encoded_body):
    exchange.fields += [(b"vary", b"Accept-Encoding")]
    data, variant = (ROOT / name).read_bytes(), name
    if coding in exchange.asked.get(b"accept-encoding", b""):
        data, variant = encoded_body(data), f"{coding.decode()}-{name}"
        exchange.fields += [(b"content-encoding", coding)]
    exchange.describe(variant, TEXT)
    if not await exchange.is_unchanged(variant):
        await exchange.whole(data)


async def gzipped(exchange, name):
    await encoded(exchange, name, b"gzip", lambda data: gzip.compress(data, mtime=0))


async def brotlied(exchange, name):
    # The standard library has no encoder.
    await encoded(exchange, name, b"br", lambda _: (ROOT / "brotlied" / name).read_bytes())


async def early(exchange, name):
    if "http.response.early_hint" not in exchange.extensions:
        return await missing(exchange, name)
    links = [b"</style.css>; rel=preload; as=style"]
    await exchange.send({"type": "http.response.early_hint", "links": links})
    await sized(exchange, name)


async def last_empty(exchange, name):
    """A body of a known length; only after it does the application end the stream."""
    if exchange.version != "2":
        return await missing(exchange, name)
    exchange.describe(name)
    data = (ROOT / name).read_bytes()
    await exchange.head(200, (b"content-length", str(len(data)).encode()))
    await exchange.body(data, more=True)
    await exchange.body(b"")


async def cut(exchange, name):
    """Fails in the middle of a body of 16,384 bytes."""
    if name == "connection":
        return await missing(exchange, name)
    fields = [(b"content-length", b"16384")] if name == "sized" else []
    await exchange.head(200, (b"content-type", BYTES), *fields)
    await exchange.body((ROOT / "16384").read_bytes()[:10000], more=True)
    raise ConnectionAbortedError


ANSWERS = {
    "sized": sized,
    "unsized": unsized,
    "trailers": trailers,
    "status": status,
    "gzip": gzipped,
    "br": brotlied,
    "early": early,
    "lastempty": last_empty,
    "cut": cut,
}
