"""Runs when Python starts: aiohttp, which reads no proxy variable unless it is told to, does; and
certifi, which programs name as their bundle whatever the variables say, has larder's certificate, too.

Owns: the proxy of aiohttp's requests that name none, certifi's file. Never touches: requests with a
proxy, sessions that do not connect by TCP, credentials (aiohttp's own `trust_env` would also read
~/.netrc).

It must never keep Python from starting: whatever goes wrong here leaves things as they were. It
imports nothing before a program imports one of the two, and does nothing on a Python that is too old
for them.
"""


def _larder():
    import sys
    from _thread import get_ident

    here = __file__.replace("\\", "/").rsplit("/", 1)[0]

    def proxy_of(session, url):
        """The proxy for a request that names none, or None."""
        from urllib.request import getproxies, proxy_bypass

        connector = sys.modules["aiohttp.connector"].TCPConnector
        used = session._connector
        if not isinstance(used, connector):
            return None
        # A connector that connects in its own way, to another kind of proxy, say.
        if type(used)._create_connection is not connector._create_connection:
            return None
        if session._trust_env or getattr(session, "_default_proxy", None) is not None:
            return None
        url = session._build_url(url)
        scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
        if url.host is None or proxy_bypass("%s:%s" % (url.host, url.port)):
            return None
        return getproxies().get(scheme)

    def teach_aiohttp(module):
        """Makes aiohttp's session look for a proxy."""
        import functools

        session = module.ClientSession
        request = session._request

        @functools.wraps(request)
        def _request(self, method, str_or_url, **options):
            if options.get("proxy") is None:
                try:
                    proxy = proxy_of(self, str_or_url)
                except Exception:
                    proxy = None
                if proxy:
                    options["proxy"] = proxy
            return request(self, method, str_or_url, **options)

        session._request = _request

    def with_larder(bundle):
        """A copy of the bundle that has larder's certificate, made once."""
        import os

        copy = here + "/certifi.pem"
        if not os.path.exists(copy):
            own = "%s.%d" % (copy, os.getpid())
            with open(own, "wb") as out:
                for part in (bundle, here + "/larder.pem"):
                    with open(part, "rb") as file:
                        out.write(file.read() + b"\n")
            # Whole or not at all: other processes may be looking.
            os.replace(own, copy)
        return copy

    def teach_certifi(module):
        """Makes certifi name the copy."""
        import functools

        name_it = module.where

        @functools.wraps(name_it)
        def where():
            bundle = name_it()
            try:
                return with_larder(bundle)
            except Exception:
                return bundle

        @functools.wraps(module.contents)
        def contents():
            with open(where(), "r", encoding="ascii") as file:
                return file.read()

        # The package has both by name, if it is there already.
        for place in (module, sys.modules.get("certifi")):
            if getattr(place, "where", None) is name_it:
                place.where, place.contents = where, contents

    lessons = {"aiohttp.client": teach_aiohttp, "certifi.core": teach_certifi}

    class Taught(object):
        """Finds a module as it would be found without, and teaches it once it is there."""

        # Tells other copies of this file that the modules have their teacher.
        is_larders = True

        def __init__(self):
            # Modules that are looked for just now, each with the thread that looks.
            self.sought = set()

        def find_elsewhere(self, name, path, target):
            """The module as the other finders find it. One of them may ask this one again."""
            sought = (name, get_ident())
            if sought in self.sought:
                return None
            self.sought.add(sought)
            try:
                for finder in list(sys.meta_path):
                    ours = finder is self or getattr(finder, "is_larders", False)
                    find = None if ours else getattr(finder, "find_spec", None)
                    spec = find(name, path, target) if find else None
                    if spec is not None:
                        return spec
                return None
            finally:
                self.sought.discard(sought)

        def find_spec(self, name, path=None, target=None):
            teach = lessons.get(name)
            spec = None if teach is None else self.find_elsewhere(name, path, target)
            if spec is None:
                return None
            loader = spec.loader
            execute = getattr(loader, "exec_module", None)
            if execute is None:
                return spec

            def exec_module(module):
                execute(module)
                try:
                    teach(module)
                except Exception:
                    pass

            try:
                loader.exec_module = exec_module
            except Exception:
                pass
            return spec

    # The first larder on the path is the one whose proxy the variables name: a second one adds nothing.
    is_taught = any(getattr(finder, "is_larders", False) for finder in sys.meta_path)
    if sys.version_info >= (3, 7) and not is_taught:
        sys.meta_path.insert(0, Taught())
        # What a .pth file has imported before.
        for name in lessons:
            if name in sys.modules:
                lessons[name](sys.modules[name])
    return here


def _larder_next(here):
    """Runs the sitecustomize that would have run without this one, as the module of that name."""
    import os
    import sys

    ours = os.path.realpath(here)
    rest = [place for place in sys.path if os.path.realpath(place or ".") != ours]
    try:
        from importlib.machinery import PathFinder
        from importlib.util import module_from_spec
    except ImportError:
        return
    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is None or spec.loader is None:
        return
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    spec.loader.exec_module(module)


try:
    _larder_here = _larder()
except Exception:
    _larder_here = None
# Its own errors are its own: Python reports them as it always does.
if _larder_here is not None:
    _larder_next(_larder_here)
