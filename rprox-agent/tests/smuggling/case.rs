//! A row of a table, and how it is checked.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::agent::{Agent, PATIENCE};
use crate::recorder::Recorder;

/// Sent behind every row in the same breath: it must arrive as this request or not at all.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
const NEXT_ARRIVES: &str = "GET /next HTTP/1.1\r\nhost: a.example\r\n\r\n";

/// Sent after every row on a connection of its own: it shows that no row is left in a connection to the upstream.
const MARK: &str = "GET /mark HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
const MARK_ARRIVES: &str = "GET /mark HTTP/1.1\r\nhost: a.example\r\n\r\n";

/// What a client sends, and what comes of it.
pub(crate) struct Case(pub(crate) &'static str, pub(crate) Outcome);

pub(crate) enum Outcome {
    /// It arrives like this, and so does what is behind it.
    Passes(&'static str),
    /// It arrives like this; then the connection ends.
    PassesAlone(&'static str),
    /// Nothing arrives. The client gets this status; then the connection ends.
    Refused(u16),
    /// Nothing of it arrives. The client gets this status; what is behind it arrives.
    Answered(u16),
    /// Less than a whole message arrives: this, or the beginning of it. The client gets this status; then the connection ends.
    CutOff(u16, &'static str),
}

/// One agent and one upstream, for a table.
pub(crate) struct Bench {
    agent: Agent,
    upstream: Recorder,
}

impl Bench {
    pub(crate) fn start() -> Self {
        let upstream = Recorder::start();
        // One worker, so that whatever one row left in a pooled connection would be before the next.
        let agent = Agent::start_with(1, &[("*", &upstream.address.to_string())], "");
        Self { agent, upstream }
    }

    /// Checks all rows, and tells of all that don't hold.
    pub(crate) fn check(&self, cases: &[Case]) {
        let wrong: Vec<String> = cases.iter().filter_map(|case| self.try_case(case).err()).collect();
        assert!(wrong.is_empty(), "{} of {}:\n\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
    }

    fn try_case(&self, Case(request, outcome): &Case) -> Result<(), String> {
        let statuses = self.exchange(&latin1(&format!("{request}{NEXT}")));
        let mark = self.exchange(MARK.as_bytes());
        let arrived = self.upstream.take();
        let short: String = request.chars().take(200).collect();
        let wrong =
            |why: &str| Err(format!("{short:?}\n  {why}\n  statuses {statuses:?}, arrived {arrived:?}"));
        if mark != [200] {
            return wrong("the next request on another connection fails");
        }
        let Some((before, after)) = arrived.split_once(MARK_ARRIVES) else {
            return wrong("the next request on another connection does not arrive as it is");
        };
        let arrived = format!("{before}{after}");
        let (expected_statuses, expected) = match outcome {
            Outcome::Passes(expected) => (vec![200, 200], format!("{expected}{NEXT_ARRIVES}")),
            Outcome::PassesAlone(expected) => (vec![200], (*expected).to_owned()),
            Outcome::Refused(status) => (vec![*status], String::new()),
            Outcome::Answered(status) => (vec![*status, 200], NEXT_ARRIVES.to_owned()),
            Outcome::CutOff(status, whole) => {
                let begins = whole.starts_with(&arrived);
                (vec![*status], if begins { arrived.clone() } else { (*whole).to_owned() })
            }
        };
        if statuses != expected_statuses {
            return wrong(&format!("expected statuses {expected_statuses:?}"));
        }
        if arrived != expected {
            return wrong(&format!("expected {expected:?}"));
        }
        Ok(())
    }

    /// Sends `bytes` and reads until the agent closes; the responses' statuses.
    fn exchange(&self, bytes: &[u8]) -> Vec<u16> {
        let mut stream = TcpStream::connect(self.agent.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The agent may have closed before it took all.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => return vec![0],
            _ => {}
        }
        let answer = String::from_utf8_lossy(&answer);
        answer.split("HTTP/1.").skip(1).map(|reply| reply[2..5].parse().unwrap()).collect()
    }
}

/// Characters up to U+00FF as one byte each, so that rows can hold any.
pub(crate) fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect()
}
