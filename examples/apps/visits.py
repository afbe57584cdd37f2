"""An app that knows nothing of larder: each visit of a user checks four roles, then lists them all.

Python's own client, as it is: `visits.py https://api USERS VISITS`.
"""

import json
import sys
from urllib.request import urlopen


def ask(url):
    with urlopen(url, timeout=20) as answer:
        return json.load(answer)


def visit(api, user):
    """The roles of a user by name; each check asks, as apps do."""
    guild = f"{api}/api/v10/guilds/1"
    held = [set(ask(f"{guild}/members/{user}")["roles"]) for _check in range(4)]
    return [role["name"] for role in ask(f"{guild}/roles") if role["id"] in held[0]]


def main():
    api, users, visits = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for _visit in range(visits):
        for user in range(1, users + 1):
            visit(api, user)


main()
