//! The peers and the load generators.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rprox_tests::programs;

use crate::build::host_cargo;
use crate::setup::apt;
use crate::steps::Step;

const TOOLS: [(&str, &str); 4] =
    [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("hping3", "hping3"), ("taskset", "util-linux")];

/// Programs of peers, each with its package.
const PEERS: [(&str, &str); 2] = [("haproxy", "haproxy"), ("caddy", "caddy")];

/// nginx's module for connections that are not HTTP.
const NGINX_STREAM: &str = "libnginx-mod-stream";

/// The newest version of sozu, which no distribution has.
const SOZU: &str = "2.3.3";
/// aws-lc-rs is rprox's cryptography too, and what sozu's documentation calls the faster one.
const SOZU_FEATURES: &str = "jemallocator,crypto-aws-lc-rs,simd,splice";
/// What sozu's own workspace sets, and its package on crates.io has lost.
const SOZU_PROFILE: [&str; 2] = ["profile.release.lto=true", "profile.release.codegen-units=1"];

/// Installs what is missing; peers are unpacked beside the other tools, since as packages they start services.
pub(super) fn set_up(peers: bool) -> Result<()> {
    let step = Step::begin("Load generators");
    let done = apt::install_missing(&step, &TOOLS)?;
    step.finish(&done);
    if peers {
        let step = Step::begin("Peers of the proxy");
        for (program, package) in PEERS {
            if programs::unpacked(package, program).is_none() {
                apt::unpack(&step, package)?;
            }
        }
        if nginx_stream().is_none() {
            apt::unpack(&step, NGINX_STREAM)?;
        }
        if !sozu().exists() {
            build_sozu(&step)?;
        }
        step.finish("nginx, HAProxy, Caddy and sozu");
    }
    Ok(())
}

/// Where sozu is, once it is built.
pub(super) fn sozu() -> PathBuf {
    programs::tools().join("sozu/bin/sozu")
}

/// nginx's stream module.
pub(super) fn nginx_stream() -> Option<PathBuf> {
    const FILE: &str = "usr/lib/nginx/modules/ngx_stream_module.so";
    [PathBuf::from("/"), programs::tools().join(NGINX_STREAM)]
        .map(|root| root.join(FILE))
        .into_iter()
        .find(|module| module.exists())
}

/// Some minutes; what is left over of it is a gigabyte, and goes.
fn build_sozu(step: &Step) -> Result<()> {
    apt::install_missing(step, &[("protoc", "protobuf-compiler")])?;
    let scratch = programs::tools().join("sozu-build");
    let mut install = host_cargo("install");
    install
        .args(["sozu", "--version", SOZU, "--locked", "--no-default-features", "--features", SOZU_FEATURES])
        .args(SOZU_PROFILE.iter().flat_map(|setting| ["--config", setting]))
        .arg("--root")
        .arg(programs::tools().join("sozu"))
        .arg("--target-dir")
        .arg(&scratch);
    step.run(&mut install).context("sozu does not build")?;
    fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())
}
