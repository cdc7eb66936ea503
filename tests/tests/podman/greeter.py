"""A gRPC service that answers each message of a stream, and says at its end what client it sees."""

from concurrent import futures

import grpc


def greet(requests, context):
    for name in requests:
        yield b"hello " + name
    yield dict(context.invocation_metadata())["x-forwarded-for"].encode()


methods = {"Greet": grpc.stream_stream_rpc_method_handler(greet)}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Greeter", methods),))
server.add_insecure_port("0.0.0.0:50051")
server.start()
server.wait_for_termination()
