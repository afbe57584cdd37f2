"""Runs when Python starts. aiohttp, which by default reads no proxy variable, then uses the proxy, and the
bundles of certifi and stripe, which programs use despite the variables, also contain larder's certificate.

Owns: the proxy of aiohttp requests without one, and the paths of these bundles. Never touches: requests
with a proxy, sessions that do not use TCP, credentials (aiohttp's `trust_env` would also read ~/.netrc).

An error here never prevents Python from starting and changes nothing. The module imports nothing before a
program imports one of these packages, and does nothing on a Python that is too old for them.
"""


def _larder():
    import sys
    from _thread import get_ident

    here = __file__.replace("\\", "/").rsplit("/", 1)[0]

    def proxy_of(session, url):
        """The proxy for a request without one, or None."""
        from urllib.request import getproxies, proxy_bypass

        connector = sys.modules["aiohttp.connector"].TCPConnector
        used = session._connector
        if not isinstance(used, connector):
            return None
        # A connector with its own connect method, for another kind of proxy for example.
        if type(used)._create_connection is not connector._create_connection:
            return None
        if session._trust_env or getattr(session, "_default_proxy", None) is not None:
            return None
        url = session._build_url(url)
        scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
        if url.host is None or proxy_bypass("%s:%s" % (url.host, url.port)):
            return None
        return getproxies().get(scheme)

    def patch_aiohttp(module):
        """Makes aiohttp's sessions use the proxy."""
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

    def with_larder(bundle, name="certifi"):
        """The path of a copy of the bundle with larder's certificate, written once."""
        import os

        copy = "%s/%s.pem" % (here, name)
        if not os.path.exists(copy):
            own = "%s.%d" % (copy, os.getpid())
            with open(own, "wb") as out:
                for part in (bundle, here + "/larder.pem"):
                    with open(part, "rb") as file:
                        out.write(file.read() + b"\n")
            # Atomic: other processes may read the copy.
            os.replace(own, copy)
        return copy

    def patch_certifi(module):
        """Makes certifi return the path of the copy."""
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

        # The package re-exports both names, if it is loaded already.
        for place in (module, sys.modules.get("certifi")):
            if getattr(place, "where", None) is name_it:
                place.where, place.contents = where, contents

    def patch_stripe(module):
        """Makes stripe verify with a copy of the bundle that it ships."""
        module.ca_bundle_path = with_larder(module.ca_bundle_path, "stripe")

    patches = {"aiohttp.client": patch_aiohttp, "certifi.core": patch_certifi, "stripe": patch_stripe}

    class PatchingFinder(object):
        """Finds a module through the other finders, and patches it once it is loaded."""

        # Shows other copies of this file that the modules are patched already.
        is_larder_finder = True

        def __init__(self):
            # The searches in progress: module and thread.
            self.sought = set()

        def find_elsewhere(self, name, path, target):
            """The module as the other finders find it. One of them may call this one again."""
            sought = (name, get_ident())
            if sought in self.sought:
                return None
            self.sought.add(sought)
            try:
                for finder in list(sys.meta_path):
                    ours = finder is self or getattr(finder, "is_larder_finder", False)
                    find = None if ours else getattr(finder, "find_spec", None)
                    spec = find(name, path, target) if find else None
                    if spec is not None:
                        return spec
                return None
            finally:
                self.sought.discard(sought)

        def find_spec(self, name, path=None, target=None):
            patch = patches.get(name)
            spec = None if patch is None else self.find_elsewhere(name, path, target)
            if spec is None:
                return None
            loader = spec.loader
            execute = getattr(loader, "exec_module", None)
            if execute is None:
                return spec

            def exec_module(module):
                execute(module)
                try:
                    patch(module)
                except Exception:
                    pass

            try:
                loader.exec_module = exec_module
            except Exception:
                pass
            return spec

    # The variables name the proxy of the first larder on the path: a second copy adds nothing.
    is_patched = any(getattr(finder, "is_larder_finder", False) for finder in sys.meta_path)
    if sys.version_info >= (3, 7) and not is_patched:
        sys.meta_path.insert(0, PatchingFinder())
        # A .pth file may have imported them already.
        for name in patches:
            if name in sys.modules:
                patches[name](sys.modules[name])
    return here


def _larder_next(here):
    """Runs the sitecustomize that this one hides, as the module of that name."""
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
# Python reports errors of the hidden sitecustomize as usual.
if _larder_here is not None:
    _larder_next(_larder_here)
