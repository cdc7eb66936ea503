//! rprox: a root-loaded redirect of ports 80 and 443, and the rootless proxy that routes what arrives to pods.
//!
//! Two programs share this package and nothing else: `rprox-loader` ([`loader`]), the only code that ever runs as root, and
//! `rprox-agent` ([`proxy`]), which faces the network and runs without a single privilege. Each is a feature and compiles
//! without the other; that is how the privilege boundary is checked.

pub mod cli;
#[cfg(any(feature = "loader", feature = "proxy"))]
pub mod findings;
#[cfg(feature = "loader")]
pub mod loader;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(any(feature = "loader", feature = "proxy"))]
pub mod users;
