"""A gRPC service of every kind of call, on raw bytes, as grpcio's own server. Writes the port that it listens on."""

import sys
from concurrent import futures

import grpc


def unary(request, context):
    context.send_initial_metadata((("before", "all"),))
    context.set_trailing_metadata((("after", "all"),))
    return request[::-1]


def failing(request, context):
    context.set_trailing_metadata((("detail-bin", b"\x00\xff"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: \u00fc")


def responses(request, context):
    for number in range(int(request)):
        yield b"%d" % number


def requests(request, context):
    return b",".join(request)


def conversation(request, context):
    for piece in request:
        yield b"you said " + piece


class Service(grpc.GenericRpcHandler):
    METHODS = {
        "/test.Service/Unary": grpc.unary_unary_rpc_method_handler(unary),
        "/test.Service/Failing": grpc.unary_unary_rpc_method_handler(failing),
        "/test.Service/Responses": grpc.unary_stream_rpc_method_handler(responses),
        "/test.Service/Requests": grpc.stream_unary_rpc_method_handler(requests),
        "/test.Service/Conversation": grpc.stream_stream_rpc_method_handler(conversation),
    }

    def service(self, call):
        return self.METHODS.get(call.method)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
server.add_generic_rpc_handlers((Service(),))
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
