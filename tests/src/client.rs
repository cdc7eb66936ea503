//! curl, in the client's namespace, as the independent judge of what the programs answer.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::netns::Netns;

/// The version of HTTP to ask with. On a plain connection HTTP/2 is spoken by prior knowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        })
    }
}

/// A request of curl's, built up and then sent.
#[derive(Debug)]
pub struct Request {
    command: Command,
}

/// What curl got.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status of each answer: of the redirects that were followed, then the final one.
    pub statuses: Vec<u16>,
    /// The final answer's header lines.
    pub head: String,
    /// The final answer's body.
    pub body: String,
    /// What the final answer was spoken in; `None` where curl knows it by another name.
    pub version: Option<Version>,
    /// The address that gave the final answer.
    pub remote: Option<IpAddr>,
    /// From start to last byte, redirects included.
    pub time: Duration,
}

impl Request {
    /// A GET of `url` from inside `netns`, HTTP/1.1, certificates checked against the system's authorities.
    #[must_use]
    pub fn get(netns: &Netns, url: &str) -> Self {
        let mut command = netns.command("curl");
        command
            // First: the user's own .curlrc must not decide what is tested.
            .arg("--disable")
            .args([
                "--silent",
                "--show-error",
                "--include",
                "--max-time",
                "20",
                "--noproxy",
                "*",
                "--http1.1",
            ])
            .args(["--write-out", TRAILER, url]);
        Self { command }
    }

    /// Trusts only the authority whose certificate is in `file`.
    #[must_use]
    pub fn trust(self, file: &PathBuf) -> Self {
        self.argument("--cacert").argument(file)
    }

    /// Takes `address` to be the address of `host`, for both ports.
    #[must_use]
    pub fn resolve(self, host: &str, address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        [80, 443, 8080, 8443].into_iter().fold(self, |request, port| {
            request.argument("--resolve").argument(format!("{host}:{port}:{address}"))
        })
    }

    /// Speaks `version`.
    #[must_use]
    pub fn version(self, version: Version) -> Self {
        match version {
            Version::Http1 => self.argument("--http1.1"),
            Version::Http2 => self.argument("--http2-prior-knowledge"),
        }
    }

    /// Follows redirects.
    #[must_use]
    pub fn follow(self) -> Self {
        self.argument("--location")
    }

    /// Gives curl one more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Sends it.
    ///
    /// # Errors
    ///
    /// There was no answer, or its certificate is not trusted.
    pub fn send(mut self) -> Result<Answer> {
        let said = command::run(&mut self.command)?;
        Answer::parse(&said).with_context(|| format!("curl said {said:?}"))
    }
}

const TRAILER: &str = "\n%{http_version} %{remote_ip} %{time_total}";

impl Answer {
    /// The final answer's status.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.statuses.last().copied()
    }

    /// The value of `key` in a body of `key=value` lines, as the playground's services answer.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        self.body
            .lines()
            .find_map(|line| line.split_once('=').filter(|(name, _)| *name == key))
            .map(|(_, v)| v)
    }

    /// The value of the final answer's header `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.head.lines().filter_map(|line| line.split_once(':'));
        pairs.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    fn parse(said: &str) -> Result<Self> {
        let (mut rest, trailer) = said.rsplit_once('\n').context("no closing line")?;
        let mut head = "";
        let mut statuses = Vec::new();
        while rest.starts_with("HTTP/") {
            (head, rest) = rest.split_once("\r\n\r\n").context("a head that does not end")?;
            let status = head.split_whitespace().nth(1).context("no status")?;
            statuses.push(status.parse().context("status")?);
        }
        let [version, remote, time] = trailer.split(' ').collect::<Vec<_>>()[..] else {
            bail!("closing line {trailer:?}");
        };
        Ok(Self {
            statuses,
            head: head.to_owned(),
            body: rest.to_owned(),
            version: match version {
                "1.1" => Some(Version::Http1),
                "2" => Some(Version::Http2),
                _ => None,
            },
            remote: remote.parse().ok(),
            time: Duration::from_secs_f64(time.parse().context("time")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_followed_redirect_gives_both_statuses_and_the_last_body() {
        let said = "HTTP/1.1 301 Moved\r\nLocation: https://a/\r\n\r\nHTTP/2 200 \r\nvia: 2 rprox\r\n\r\npod=a\nclient=::1\n\n2 198.51.100.1 0.25";
        let answer = Answer::parse(said).expect("parses");
        assert_eq!(answer.statuses, [301, 200]);
        assert_eq!(answer.version, Some(Version::Http2));
        assert_eq!(answer.header("Via"), Some("2 rprox"));
        assert_eq!(answer.field("client"), Some("::1"));
        assert_eq!(answer.remote, Some(IpAddr::from([198, 51, 100, 1])));
        assert_eq!(answer.time, Duration::from_millis(250));
    }
}
