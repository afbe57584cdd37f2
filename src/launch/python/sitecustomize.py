"""Runs when Python starts: aiohttp, which reads no proxy variable unless it is told to, does.

Owns: the proxy of aiohttp's requests that name none. Never touches: requests with a proxy, sessions
that do not connect by TCP, credentials (aiohttp's own `trust_env` would also read ~/.netrc).

It must never keep Python from starting: whatever goes wrong here leaves things as they were. It
imports nothing before aiohttp does, and says nothing on a Python that is too old for aiohttp.
"""


def _larder():
    import sys

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

    def teach(module):
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

    class Taught(object):
        """Finds aiohttp as it would be found without, and teaches it once it is there."""

        def find_spec(self, name, path=None, target=None):
            if name != "aiohttp.client":
                return None
            for finder in sys.meta_path:
                find = None if finder is self else getattr(finder, "find_spec", None)
                spec = find(name, path, target) if find else None
                if spec is not None:
                    break
            else:
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

    if sys.version_info >= (3, 7):
        sys.meta_path.insert(0, Taught())
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
