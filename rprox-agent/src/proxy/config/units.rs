//! Values as people write them: `10s`, `64KiB`, `[::]:8080`.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use crate::cli::{LogFormat, parse_log_level};
use crate::proxy::host;

/// Beyond a year a duration is a slip, and so long that adding it to a clock might overflow.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// The least that a header section is limited to: what browsers and their cookies need.
const LEAST_HEADER_BYTES: u64 = 8 << 10;

/// Reads `500ms`, `10s`, `5m`, `2h` or `1d`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_number(text);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let number = number.parse::<u64>().ok().filter(|_| milliseconds > 0);
    let number = number
        .ok_or_else(|| format!("{text:?} is not a duration; write a number and ms, s, m, h or d: \"10s\""))?;
    let duration = Duration::from_millis(number.saturating_mul(milliseconds));
    if duration > LONGEST { Err(format!("{text:?} is more than a year")) } else { Ok(duration) }
}

/// Reads `512`, `64KiB` or `1GiB`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_number(text);
    let shift = match unit {
        "" | "B" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        "TiB" => Some(40),
        _ => None,
    };
    let bytes =
        number.parse::<u64>().ok().zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| {
        format!("{text:?} is not a size; write a number and B, KiB, MiB, GiB or TiB: \"64KiB\"")
    })
}

fn split_number(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// Reads an address to listen on.
pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("{text:?} is not an address and port; write it as \"[::]:8080\" or \"0.0.0.0:8080\"")
    })
}

/// Reads a DNS server's address, with port 53 where none is given.
pub(super) fn parse_dns_server(text: &str) -> Result<SocketAddr, String> {
    let alone = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    alone.or_else(|_| text.parse()).map_err(|_| {
        format!("{text:?} is not a DNS server's address; write it as \"10.89.0.1\", \"10.89.0.1:5353\" or \"[fd00::1]:5353\"")
    })
}

/// Reads a network, or an address, which is a network of one.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let alone = text.parse::<IpAddr>().map(IpNet::from);
    alone
        .or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} is not a network; write it as \"10.0.0.0/8\" or as one address"))
}

/// Reads a domain name; it comes back in lower case without a trailing dot.
pub(super) fn parse_domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_domain = host::is_name(name);
    is_domain.then(|| name.to_ascii_lowercase()).ok_or_else(|| format!("{text:?} is not a domain name"))
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    text(deserializer, "a duration such as \"10s\"", parse_duration)
}

pub(super) fn positive_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = duration(deserializer)?;
    if duration.is_zero() { Err(D::Error::custom("must be more than zero")) } else { Ok(duration) }
}

pub(super) fn some_positive_duration<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    positive_duration(deserializer).map(Some)
}

pub(super) fn header_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let bytes = size(deserializer)?;
    if bytes < LEAST_HEADER_BYTES {
        return Err(D::Error::custom("must be at least 8KiB"));
    }
    usize::try_from(bytes).map_err(D::Error::custom)
}

pub(super) fn body_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

/// Bytes for each second.
pub(super) fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    u32::try_from(size(deserializer)?).map_err(|_| D::Error::custom("must be less than 4GiB"))
}

pub(super) fn ipv6_prefix<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let bits = u8::deserialize(deserializer)?;
    if (1..=128).contains(&bits) { Ok(bits) } else { Err(D::Error::custom("must be 1 to 128")) }
}

/// A number of things, of which there must be one at least.
pub(super) fn count<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + PartialEq + From<u8>,
{
    let count = T::deserialize(deserializer)?;
    if count == T::from(0) { Err(D::Error::custom("must be at least 1")) } else { Ok(count) }
}

pub(super) fn domain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    text(deserializer, "a domain name", parse_domain).map(Some)
}

pub(super) fn log_level<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    text(deserializer, "a log level", parse_log_level)
}

pub(super) fn log_format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<LogFormat, D::Error> {
    text(deserializer, "\"text\" or \"json\"", |text| {
        LogFormat::from_str(text, false)
            .map_err(|_| format!("{text:?} is not a log format; write \"text\" or \"json\""))
    })
}

pub(super) fn dns_servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    one_or_many(deserializer, "a DNS server's address or a list of them", parse_dns_server)
}

pub(super) fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    one_or_many(deserializer, "a network or a list of them", parse_network)
}

/// One text or a list of them.
pub(super) fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
) -> Result<Vec<String>, D::Error> {
    one_or_many(deserializer, expected, |text| Ok(text.to_owned()))
}

/// The addresses of `listen.http` or `listen.https`.
#[derive(Debug)]
pub(super) struct Addresses(pub(super) Vec<SocketAddr>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_or_many(deserializer, "an address and port or a list of them", parse_listen).map(Self)
    }
}

/// A value that is written as text, and takes `parse` to read.
fn text<'de, D, T, E>(
    deserializer: D,
    expected: &'static str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: Display,
{
    deserializer.deserialize_str(Text { expected, parse })
}

struct Text<P> {
    expected: &'static str,
    parse: P,
}

impl<T, E: Display, P: Fn(&str) -> Result<T, E>> Visitor<'_> for Text<P> {
    type Value = T;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.expected)
    }

    fn visit_str<F: Error>(self, text: &str) -> Result<T, F> {
        (self.parse)(text).map_err(F::custom)
    }
}

/// A number of bytes, as text with a unit or as a number.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = u64;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a size such as \"64KiB\"")
        }

        fn visit_str<F: Error>(self, text: &str) -> Result<u64, F> {
            parse_size(text).map_err(F::custom)
        }

        fn visit_i64<F: Error>(self, bytes: i64) -> Result<u64, F> {
            u64::try_from(bytes).map_err(|_| F::custom("a size can't be negative"))
        }
    }
    deserializer.deserialize_any(Size)
}

/// One text or a list of them.
fn one_or_many<'de, D, T>(
    deserializer: D,
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
{
    struct OneOrMany<T>(&'static str, fn(&str) -> Result<T, String>);
    impl<'de, T> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_str<F: Error>(self, text: &str) -> Result<Vec<T>, F> {
            Ok(vec![(self.1)(text).map_err(F::custom)?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(text) = list.next_element::<String>()? {
                values.push((self.1)(&text).map_err(A::Error::custom)?);
            }
            Ok(values)
        }
    }
    deserializer.deserialize_any(OneOrMany(expected, parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, milliseconds) in
            [("500ms", 500), ("10s", 10_000), ("5 m", 300_000), ("2h", 7_200_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "10 seconds",
            "400d",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", 0), ("512", 512), ("512B", 512), ("64KiB", 65_536), ("4 GiB", 4 << 30)] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "KiB", "64kb", "64KB", "-1", "99999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_dns_server("10.89.0.1").unwrap().to_string(), "10.89.0.1:53");
        assert_eq!(parse_dns_server("fd00::1").unwrap().to_string(), "[fd00::1]:53");
        assert_eq!(parse_dns_server("[fd00::1]:5353").unwrap().to_string(), "[fd00::1]:5353");
        assert!(parse_dns_server("dns.example").is_err());
        assert_eq!(parse_network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(parse_network("fd00::/8").unwrap().to_string(), "fd00::/8");
        assert!(parse_network("10.0.0.0/33").is_err());
        assert!(parse_listen("8080").is_err());
    }
}
