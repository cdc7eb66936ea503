//! A row of a table, and how it is checked.

use std::time::Duration;

use crate::agent::Agent;
use crate::frames::{ACK, Frame, GOAWAY, PING, Peer, RST_STREAM, frame};
use crate::recorder::Recorder;

/// How long an outcome may take to show.
const PATIENCE: Duration = Duration::from_secs(15);

/// The section, what is sent once both sides have introduced themselves, and what comes of it.
pub(crate) struct Case(
    pub(crate) &'static str,
    pub(crate) &'static str,
    pub(crate) Vec<u8>,
    pub(crate) Outcome,
);

#[derive(Debug)]
pub(crate) enum Outcome {
    /// The stream gets a response with this status.
    Answer(u32, u16),
    /// Nothing ends: a PING is answered.
    Alive,
    /// The stream ends with one of these codes; the connection doesn't.
    Stream(&'static [Code]),
    /// The connection ends with one of these codes.
    Connection(&'static [Code]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    None = 0,
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Compression = 9,
}

const PROBE: [u8; 8] = *b"conforms";

/// Checks all rows against one agent, and tells of all that don't hold.
pub(crate) fn check(cases: &[Case]) {
    let upstream = Recorder::start();
    let agent = Agent::start(&[("*", &upstream.address.to_string())], "[limits]\nstreams = 10");
    let wrong: Vec<String> = cases.iter().filter_map(|case| run(&agent, case).err()).collect();
    assert!(wrong.is_empty(), "{} of {}:\n\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn run(agent: &Agent, Case(section, what, bytes, outcome): &Case) -> Result<(), String> {
    let mut peer = Peer::connect(agent.http, PATIENCE, &[]);
    peer.send(bytes);
    let probes = matches!(outcome, Outcome::Alive | Outcome::Stream(_));
    if probes {
        peer.send(&frame(PING, 0, 0, &PROBE));
    }
    let mut seen = Vec::new();
    let (mut pong, mut reset) = (false, false);
    loop {
        let next = peer.try_receive();
        let end = !matches!(next, Ok(Some(_)));
        if let Ok(Some(frame)) = &next {
            pong |= frame.kind == PING && frame.flags == ACK && frame.payload == PROBE;
            reset |= matches!(outcome, Outcome::Stream(codes) if ends_with(frame, RST_STREAM, codes));
            seen.push(frame.clone());
        }
        let holds = match outcome {
            Outcome::Answer(stream, status) => {
                seen.iter().any(|frame| frame.stream == *stream && frame.status() == Some(*status))
            }
            Outcome::Alive => pong,
            Outcome::Stream(_) => pong && reset,
            Outcome::Connection(codes) => end && seen.iter().any(|frame| ends_with(frame, GOAWAY, codes)),
        };
        if holds {
            return Ok(());
        }
        if end {
            return Err(format!("{section} {what}\n  {outcome:?}\n  got {next:?} after {}", tell(&seen)));
        }
    }
}

fn ends_with(frame: &Frame, kind: u8, codes: &[Code]) -> bool {
    frame.kind == kind && codes.iter().any(|code| frame.code() == Some(*code as u32))
}

fn tell(frames: &[Frame]) -> String {
    let tell = |frame: &Frame| {
        let extra = frame.code().or(frame.status().map(u32::from));
        format!("type {} stream {} {extra:?}", frame.kind, frame.stream)
    };
    frames.iter().map(tell).collect::<Vec<_>>().join(", ")
}
