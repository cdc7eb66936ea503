//! A server that reads each request to its body's end, looks at all of it, and only then answers.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use anyhow::{Result, bail};

pub(super) fn serve(stream: &TcpStream) -> Result<()> {
    const BUFFER: usize = 256 << 10;
    let mut reader = BufReader::with_capacity(BUFFER, stream);
    let as_it_should_be = vec![b'x'; BUFFER];
    loop {
        let (mut left, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                left = value.trim().parse()?;
            }
        }
        let mut whole = true;
        while left > 0 {
            let piece = reader.fill_buf()?;
            let piece = &piece[..piece.len().min(left)];
            if piece.is_empty() {
                bail!("{left} bytes of a body did not come");
            }
            whole &= piece == &as_it_should_be[..piece.len()];
            let length = piece.len();
            reader.consume(length);
            left -= length;
        }
        let status = if whole { "200 OK" } else { "400 Bad Request" };
        write!(&*stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")?;
    }
}
