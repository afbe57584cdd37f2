"""urllib3 without requests around it: asks for each URL and prints what came."""

import sys

import urllib3

pool = urllib3.PoolManager()
for url in sys.argv[1:]:
    answer = pool.request("GET", url, timeout=20, retries=False)
    if answer.status != 200:
        sys.exit(f"{url} answered {answer.status}")
    print("Cache-Status:", answer.headers.get("Cache-Status"))
    print(answer.data.decode())
