//! Which protocols a route's connections may be upgraded to.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::LazyLock;

use serde::de::{Deserialize as _, Deserializer, Error};

static DEFAULT: LazyLock<[String; 1]> = LazyLock::new(|| ["websocket".to_owned()]);

/// What every browser may ask for.
pub(in crate::proxy) fn default() -> Cow<'static, [String]> {
    Cow::Borrowed(&*DEFAULT)
}

/// Reads a list of protocols as `Upgrade` names them. HTTP itself is refused: whoever speaks it through a tunnel asks the
/// upstream for what no route was looked up for.
pub(super) fn protocols<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    let mut protocols = Vec::<String>::deserialize(deserializer)?;
    for protocol in &mut protocols {
        protocol.make_ascii_lowercase();
        let (name, version) = protocol.split_once('/').unwrap_or((protocol, "1"));
        if ![name, version].into_iter().all(is_token) {
            return Err(D::Error::custom(format!(
                "{protocol:?} is not a protocol as Upgrade names one; write for example \"websocket\""
            )));
        }
        if matches!(name, "http" | "h2" | "h2c" | "h3" | "tls") {
            return Err(D::Error::custom(format!(
                "{protocol:?} would carry requests past the routes; use h2c:// before the upstream for HTTP/2"
            )));
        }
    }
    Ok(Some(protocols))
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}
