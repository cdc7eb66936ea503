//! How much the tests that can go on for ever do: a sample by default, all that they have by `cargo xtask test --long`.

/// The variable by which `cargo xtask test --long` asks for it; any value but `0` and nothing does.
pub const VARIABLE: &str = "RPROX_LONG";

/// Whether all is asked for.
#[must_use]
pub fn is_asked_for() -> bool {
    std::env::var(VARIABLE).is_ok_and(|value| !matches!(value.as_str(), "" | "0"))
}
