"""urllib with certifi's roots, as many programs have it: asks for each URL and prints what came."""

import ssl
import sys
from urllib.request import urlopen

import certifi

context = ssl.create_default_context(cafile=certifi.where())
for url in sys.argv[1:]:
    with urlopen(url, timeout=20, context=context) as answer:
        print("Cache-Status:", answer.headers["Cache-Status"])
        print(answer.read().decode())
