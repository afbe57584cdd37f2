"""One call of an SDK, with the retries that it makes by default: sdk.py NAME BASE_URL; or --version NAME.

A hung API would hold most of them for minutes: where an SDK has a timeout, it is three seconds here.
"""

import asyncio
import importlib.metadata
import sys

PACKAGES = {"github": "PyGithub", "discord": "discord.py", "slack": "slack_sdk"}
TIMEOUT = 3


def openai(base):
    import openai
    return openai.OpenAI(api_key="sk-x", base_url=base + "/v1", timeout=TIMEOUT).models.list()


def anthropic(base):
    import anthropic
    return anthropic.Anthropic(api_key="sk-x", base_url=base, timeout=TIMEOUT).models.list()


def stripe(base):
    import stripe
    client = stripe.RequestsClient(timeout=TIMEOUT)
    return stripe.StripeClient(
        "sk_test_x", base_addresses={"api": base}, http_client=client, max_network_retries=2
    ).v1.balance.retrieve()


def github(base):
    from github import Auth, Github
    return Github(auth=Auth.Token("x"), base_url=base, timeout=TIMEOUT).get_user("octocat").login


def boto3(base):
    import boto3
    from botocore.config import Config
    client = boto3.client(
        "s3", endpoint_url=base, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x",
        config=Config(read_timeout=TIMEOUT, connect_timeout=TIMEOUT),
    )
    return client.list_buckets()


def slack(base):
    from slack_sdk import WebClient
    from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler
    client = WebClient("xoxb-x", base_url=base + "/api/", timeout=TIMEOUT)
    client.retry_handlers.append(RateLimitErrorRetryHandler(max_retry_count=2))
    return client.api_call("users.list", http_verb="GET")


def discord(base):
    import discord
    import discord.http
    discord.http.Route.BASE = base + "/api/v10"

    async def login():
        client = discord.Client(intents=discord.Intents.none())
        try:
            await asyncio.wait_for(client.login("token"), 45)
        finally:
            await client.close()

    return asyncio.run(login())


def requests(base):
    import requests
    from urllib3.util import Retry
    session = requests.Session()
    retry = Retry(total=3, backoff_factor=0.5, status_forcelist=[429, 500, 502, 503, 504])
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
    response = session.get(base + "/things", timeout=TIMEOUT)
    response.raise_for_status()


def main():
    if sys.argv[1] == "--version":
        print(importlib.metadata.version(PACKAGES.get(sys.argv[2], sys.argv[2])))
        return
    name, base = sys.argv[1:]
    try:
        globals()[name](base)
    except Exception as error:  # noqa: BLE001 - any error is the result
        print("ERROR", type(error).__name__, str(error)[:200].replace("\n", " "))
        return
    print("OK")


main()
