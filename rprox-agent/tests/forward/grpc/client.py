"""Makes the call that its arguments name, HOST:PORT and a method, through the agent; writes what came of it."""

import queue
import sys

import grpc

address, method = sys.argv[1:]
channel = grpc.insecure_channel(address, (("grpc.default_authority", "grpc.example"), ("grpc.enable_retries", 0)))
path = "/test.Service/" + method

try:
    if method == "Responses":
        print(list(channel.unary_stream(path)(b"3", timeout=20)))
    elif method == "Requests":
        print(channel.stream_unary(path)(iter([b"a", b"b", b"c"]), timeout=20))
    elif method == "Conversation":
        words, heard = queue.Queue(), []
        answers = channel.stream_stream(path)(iter(words.get, None), timeout=20)
        for word in (b"one", b"two"):
            # Each is said only once the answer to the one before has been heard.
            words.put(word)
            heard.append(next(answers))
        words.put(None)
        print(heard + list(answers))
    else:
        response, call = channel.unary_unary(path).with_call(b"abc", timeout=20)
        print(response, dict(call.initial_metadata()).get("before"), dict(call.trailing_metadata()))
except grpc.RpcError as error:
    print(error.code().name, error.details(), dict(error.trailing_metadata()).get("detail-bin"))
