"""Which certificates hosts present to a client behind the proxy: `presented.py HOST:PORT...`.

Prints the SHA-256 of each, one a line. Nothing is asked for: what is presented need not be trusted.
"""

import hashlib
import os
import ssl
import sys
from http.client import HTTPSConnection
from urllib.parse import urlsplit

proxy = urlsplit(os.environ["https_proxy"])
for place in sys.argv[1:]:
    host, port = place.rsplit(":", 1)
    context = ssl._create_unverified_context()
    connection = HTTPSConnection(proxy.hostname, proxy.port, context=context, timeout=20)
    connection.set_tunnel(host, int(port))
    connection.connect()
    print(hashlib.sha256(connection.sock.getpeercert(binary_form=True)).hexdigest())
    connection.close()
