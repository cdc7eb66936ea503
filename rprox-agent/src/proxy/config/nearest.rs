//! "Did you mean": the right word that is nearest to a wrong one.

#![forbid(unsafe_code)]

/// How alike two words must be for one to be meant by the other, from 0 to 1.
const ALIKE: f64 = 0.7;

/// The message of a TOML error, in which an unknown key or value gets the known one that is nearest to it. serde lists them all,
/// which for some tables is a screenful.
pub(super) fn reword(message: &str) -> String {
    reworded(message).unwrap_or_else(|| message.to_owned())
}

/// Of "unknown field `x`, expected one of `a`, `b`"; `None` of anything else.
fn reworded(message: &str) -> Option<String> {
    let (what, rest) = match message.split_once(" `")? {
        ("unknown field", rest) => ("key", rest),
        ("unknown variant", rest) => ("value", rest),
        _ => return None,
    };
    let (wrong, known) = rest.split_once("`, expected ")?;
    // Between backticks; the rest is commas and words.
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    Some(match nearest(wrong, &known) {
        Some(right) => format!("unknown {what} `{wrong}`; did you mean `{right}`?"),
        None => format!("unknown {what} `{wrong}`; there are {}", known.join(", ")),
    })
}

fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let alike = |right: &&&str| strsim::normalized_damerau_levenshtein(wrong, right);
    let best = known.iter().max_by(|one, other| alike(one).total_cmp(&alike(other)))?;
    (alike(&best) >= ALIKE).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_proposed() {
        let message = "unknown field `upsteam`, expected one of `host`, `path`, `upstream`";
        assert_eq!(reword(message), "unknown key `upsteam`; did you mean `upstream`?");
        let message = "unknown variant `jsn`, expected one of `text`, `json`";
        assert_eq!(reword(message), "unknown value `jsn`; did you mean `json`?");
        let message = "unknown field `keys`, expected `cert` or `key`";
        assert_eq!(reword(message), "unknown key `keys`; did you mean `key`?");
    }

    #[test]
    fn where_none_is_near_all_are_named() {
        let message = "unknown field `color`, expected `cert` or `key`";
        assert_eq!(reword(message), "unknown key `color`; there are cert, key");
    }

    #[test]
    fn other_messages_stay() {
        assert_eq!(reword("missing field `upstream`"), "missing field `upstream`");
        assert_eq!(reword("expected `=`"), "expected `=`");
    }
}
