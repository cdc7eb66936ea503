//! What a line looks like in each format.

#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};

use serde::Serialize;
use time::OffsetDateTime;

use super::{Outcome, Record, TARGET};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// An event among the others of the log.
pub(super) fn event(record: &Record, outcome: Outcome) {
    tracing::info!(
        target: TARGET,
        client = %record.client,
        host = record.host,
        method = %record.method,
        path = record.path,
        protocol = %record.protocol(),
        status = outcome.status(),
        bytes = outcome.bytes,
        received = outcome.received,
        duration_ms = u64::try_from(outcome.lasted.as_millis()).unwrap_or(u64::MAX),
        route = record.route,
        endpoint = record.endpoint.map(tracing::field::display),
        trace_id = record.trace.as_ref().map(super::Trace::id),
        "request"
    );
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    client: String,
    tls: bool,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    protocol: String,
    status: u16,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<u64>,
    /// In seconds.
    duration: f64,
    route: &'a str,
    endpoint: Option<String>,
    referer: Option<&'a str>,
    user_agent: Option<&'a str>,
    trace_id: Option<&'a str>,
}

/// A JSON object.
pub(super) fn json(record: &Record, outcome: Outcome, line: &mut String) {
    let time = OffsetDateTime::from(record.start);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second, thousandth) = (time.hour(), time.minute(), time.second(), time.millisecond());
    let object = Line {
        time: format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{thousandth:03}Z"),
        client: record.client.to_string(),
        tls: record.secure,
        method: record.method.as_str(),
        host: &record.host,
        path: &record.path,
        protocol: record.protocol().to_string(),
        status: outcome.status(),
        bytes: outcome.bytes,
        received: outcome.received,
        duration: outcome.lasted.as_secs_f64(),
        route: &record.route,
        endpoint: record.endpoint.map(|endpoint| endpoint.to_string()),
        referer: record.referer.as_deref(),
        user_agent: record.user_agent.as_deref(),
        trace_id: record.trace.as_ref().map(super::Trace::id),
    };
    // Text and numbers can always be written.
    line.push_str(&serde_json::to_string(&object).unwrap_or_default());
}

/// The format that Apache calls so. The user and the identity are always unknown.
pub(super) fn combined(record: &Record, outcome: Outcome, line: &mut String) {
    let time = OffsetDateTime::from(record.start);
    let _ = write!(
        line,
        "{} - - [{:02}/{}/{:04}:{:02}:{:02}:{:02} +0000] \"{} {} {}\" {} {} \"{}\" \"{}\"",
        record.client,
        time.day(),
        MONTHS[usize::from(u8::from(time.month()) - 1)],
        time.year(),
        time.hour(),
        time.minute(),
        time.second(),
        record.method,
        Quoted(&record.path),
        record.protocol(),
        outcome.status(),
        outcome.bytes,
        Quoted(record.referer.as_deref().unwrap_or("-")),
        Quoted(record.user_agent.as_deref().unwrap_or("-")),
    );
}

/// What a client sent, between quotes: it can neither end them nor begin a line.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '"' | '\\' => write!(formatter, "\\{character}")?,
                character if character.is_control() => write!(formatter, "\\x{:02x}", u32::from(character))?,
                character => formatter.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::{Request, StatusCode};

    use super::*;

    fn record() -> Record {
        let request = Request::get("/a%20b?token=secret")
            .header("user-agent", "say \"hi\" \\ there")
            .header("referer", "https://a.example/?token=secret")
            .header("cookie", "secret")
            .header("authorization", "Basic secret")
            .body(())
            .unwrap();
        let mut record = Record::new("192.0.2.1".parse().unwrap(), true, &request.into_parts().0, None);
        record.start = UNIX_EPOCH + Duration::from_millis(784_111_777_042);
        record.host = "a.example".to_owned();
        record
    }

    const OUTCOME: Outcome = Outcome {
        status: Some(StatusCode::OK),
        bytes: 5,
        received: None,
        lasted: Duration::from_millis(1500),
    };

    #[test]
    fn a_combined_line_is_what_analysers_read() {
        let mut line = String::new();
        combined(&record(), OUTCOME, &mut line);
        let expected = "192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] \"GET /a%20b HTTP/1.1\" 200 5 \
                        \"https://a.example/\" \"say \\\"hi\\\" \\\\ there\"";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_json_line_has_every_field_and_no_secret() {
        let mut line = String::new();
        json(&record(), OUTCOME, &mut line);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["time"], "1994-11-06T08:49:37.042Z");
        assert_eq!(object["duration"], 1.5);
        assert_eq!(object["user_agent"], "say \"hi\" \\ there");
        assert_eq!(object["endpoint"], serde_json::Value::Null);
        assert!(!line.contains("secret") && !line.contains("received"), "{line}");
    }

    #[test]
    fn what_was_passed_through_has_a_line_in_every_format() {
        let mut record =
            Record::passthrough("192.0.2.1".parse().unwrap(), "a.example".to_owned(), "a.example");
        record.start = UNIX_EPOCH + Duration::from_millis(784_111_777_042);
        let outcome = Outcome { received: Some(517), ..OUTCOME };
        let mut line = String::new();
        combined(&record, outcome, &mut line);
        assert_eq!(line, "192.0.2.1 - - [06/Nov/1994:08:49:37 +0000] \"- - TLS\" 200 5 \"-\" \"-\"");
        line.clear();
        json(&record, outcome, &mut line);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        let fields = ["protocol", "host", "tls", "received", "bytes"].map(|name| object[name].to_string());
        assert_eq!(fields, ["\"TLS\"", "\"a.example\"", "true", "517", "5"]);
    }
}
