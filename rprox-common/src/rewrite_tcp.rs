//! What the programs in the packets' path do with TCP.

/// Which TCP connections to FROM have their packets changed. A connection stays as it began, also where the mode changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RewriteTcp {
    /// Those that live on TO already: mode `steer` gets all others. After mode `rewrite`.
    Begun = 0,
    /// All: mode `rewrite`.
    All = 1,
    /// All but those that live on FROM, having been steered: mode `rewrite` after mode `steer`.
    NotSteered = 2,
    /// None, nor is a packet of TCP looked at: mode `steer`, where it was never `rewrite`.
    None = 3,
}
