"""A WebSocket service that says what client it sees, and then what it hears."""

import asyncio

import websockets


async def echo(socket, path=None):
    headers = getattr(socket, "request_headers", None) or socket.request.headers
    await socket.send("client=" + headers["X-Forwarded-For"])
    async for message in socket:
        await socket.send(message)


async def main():
    async with websockets.serve(echo, "0.0.0.0", 80):
        await asyncio.Future()


asyncio.run(main())
