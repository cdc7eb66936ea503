//! A DNS server that knows one name with some IPv4 addresses.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;

const A: [u8; 2] = [0, 1];

/// Answers every A question with `addresses`, and that there is nothing else.
pub(crate) fn serve(addresses: Vec<Ipv4Addr>) -> SocketAddr {
    serve_at("127.0.0.1:0", addresses)
}

/// The same at `address`.
pub(crate) fn serve_at(address: &str, addresses: Vec<Ipv4Addr>) -> SocketAddr {
    let socket = UdpSocket::bind(address).unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut question = [0; 512];
        loop {
            let (length, peer) = socket.recv_from(&mut question).unwrap();
            socket.send_to(&answer(&question[..length], &addresses), peer).unwrap();
        }
    });
    address
}

fn answer(question: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let mut end = 12;
    while question[end] != 0 {
        end += usize::from(question[end]) + 1;
    }
    let asks_a = question[end + 1..end + 3] == A;
    let addresses = if asks_a { addresses } else { &[] };
    let count = u8::try_from(addresses.len()).unwrap();
    let mut answer = question[..end + 5].to_vec();
    answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, count, 0, 0, 0, 0]);
    for address in addresses {
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
