//! How much memory the process may have.

#![forbid(unsafe_code)]

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

use super::units::parse_size;

/// Below this the agent would refuse requests while it does next to nothing.
const LEAST: u64 = 16 << 20;

/// Beyond which nothing more is begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryLimit {
    /// What the process's control group leaves it, if that has a limit.
    #[default]
    Cgroup,
    /// Whatever there is.
    Off,
    /// So many bytes.
    Bytes(u64),
}

impl<'de> Deserialize<'de> for MemoryLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl Visitor<'_> for Written {
            type Value = MemoryLimit;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a size such as \"512MiB\", or \"off\"")
            }

            fn visit_str<F: Error>(self, text: &str) -> Result<MemoryLimit, F> {
                match text {
                    "off" => Ok(MemoryLimit::Off),
                    _ => enough(parse_size(text).map_err(|error| F::custom(format!("{error}, or \"off\"")))?),
                }
            }

            fn visit_i64<F: Error>(self, bytes: i64) -> Result<MemoryLimit, F> {
                enough(u64::try_from(bytes).map_err(|_| F::custom("a size can't be negative"))?)
            }
        }
        fn enough<F: Error>(bytes: u64) -> Result<MemoryLimit, F> {
            if bytes < LEAST {
                Err(F::custom("must be at least 16MiB"))
            } else {
                Ok(MemoryLimit::Bytes(bytes))
            }
        }
        deserializer.deserialize_any(Written)
    }
}
