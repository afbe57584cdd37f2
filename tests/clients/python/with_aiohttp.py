"""aiohttp: asks for each URL and prints what came."""

import asyncio
import sys

import aiohttp


async def main():
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        for url in sys.argv[1:]:
            async with session.get(url) as answer:
                print("Cache-Status:", answer.headers.get("Cache-Status"))
                print(await answer.text())


asyncio.run(main())
