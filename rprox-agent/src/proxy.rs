//! The rootless proxy.
