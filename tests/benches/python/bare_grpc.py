"""One bare grpcio server: the same echo without Ostler. Its address is the first argument."""

import asyncio
import sys

import grpc
import msgpack


async def echo(message, context):
    request = msgpack.unpackb(message)
    return msgpack.packb({"ok": request["body"]})


async def main():
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    handler = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ostler.worker.v1.Worker", {"Call": handler}),))
    server.add_insecure_port(sys.argv[1])
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


asyncio.run(main())
