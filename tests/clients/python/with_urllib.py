"""Python's own client: asks for each URL and prints what came."""

import sys
from urllib.request import urlopen

for url in sys.argv[1:]:
    with urlopen(url, timeout=20) as answer:
        print("Cache-Status:", answer.headers["Cache-Status"])
        print(answer.read().decode())
