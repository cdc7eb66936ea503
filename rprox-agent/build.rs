//! Gives the loader the kernel programs' object to embed.
//!
//! `cargo xtask build` makes the object first. Without it the crate still compiles, so that checks and editors work; such a
//! loader refuses to attach and says how to build a whole one.

use std::path::PathBuf;
use std::{env, fs};

use sha2::{Digest as _, Sha256};

fn main() {
    println!("cargo::rerun-if-env-changed=RPROX_EBPF_OBJECT");
    if env::var_os("CARGO_FEATURE_LOADER").is_none() {
        return;
    }
    let embedded = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("rprox-ebpf");
    let object = env::var_os("RPROX_EBPF_OBJECT").map(PathBuf::from).unwrap_or_default();
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error) => {
            println!(
                "cargo::warning=no kernel programs at {} ({error}): this loader will not attach; run `cargo xtask build`",
                object.display()
            );
            Vec::new()
        }
    };
    fs::write(&embedded, &bytes).expect("OUT_DIR is writable");
    println!("cargo::rustc-env=RPROX_EBPF_SHA256={:x}", Sha256::digest(&bytes));
}
