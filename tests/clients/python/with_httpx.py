"""httpx: asks for each URL and prints what came."""

import sys

import httpx

for url in sys.argv[1:]:
    answer = httpx.get(url, timeout=20)
    answer.raise_for_status()
    print("Cache-Status:", answer.headers.get("Cache-Status"))
    print(answer.text)
