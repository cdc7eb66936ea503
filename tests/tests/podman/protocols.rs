//! What is more than requests and responses, with peers in Python: a WebSocket, and gRPC.

use std::process::Command;

use rprox_tests::rootless::site::Site;
use rprox_tests::topology::CLIENT;
use rprox_tests::{command, wait};

const WEBSOCKET: &str = "
import asyncio, ssl, sys, websockets
async def main():
    trust = ssl.create_default_context(cafile=sys.argv[1])
    async with websockets.connect('wss://echo.mydomain.test/', ssl=trust) as socket:
        print(await socket.recv())
        for word in ('one', 'two', 'x' * 100_000):
            await socket.send(word)
            assert await socket.recv() == word
asyncio.run(main())
";

const GRPC: &str = "
import grpc, sys
trust = grpc.ssl_channel_credentials(open(sys.argv[1], 'rb').read())
with grpc.secure_channel('greeter.mydomain.test:443', trust) as channel:
    greet = channel.stream_stream('/test.Greeter/Greet')
    print(b' '.join(greet(iter([b'pod', b'user']), timeout=10)).decode())
";

#[test]
fn a_websocket_and_a_grpc_stream_reach_their_pods_over_tls() {
    let site = Site::start().unwrap();
    site.make_python_pod("echo", include_str!("echo.py")).unwrap();
    site.make_python_pod("greeter", include_str!("greeter.py")).unwrap();
    let run = |script: &str| {
        let python = || -> Command {
            let mut python = site.host.at_client("/usr/bin/python3");
            python.args(["-c", script]).arg(site.authority());
            python
        };
        // Python takes its time to start in the pod, too.
        let done =
            wait::until(wait::READY, "the service in the pod to answer", || command::run(&mut python()).ok());
        done.unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", command::run(&mut python()), site.log()))
    };
    assert_eq!(run(WEBSOCKET).trim(), format!("client={}", CLIENT.v4));
    assert_eq!(run(GRPC).trim(), format!("hello pod hello user {}", CLIENT.v4));
}
