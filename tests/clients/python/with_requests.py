"""requests: asks for each URL and prints what came."""

import sys

import requests

for url in sys.argv[1:]:
    answer = requests.get(url, timeout=20)
    answer.raise_for_status()
    print("Cache-Status:", answer.headers.get("Cache-Status"))
    print(answer.text)
