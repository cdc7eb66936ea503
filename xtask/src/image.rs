//! `cargo xtask image`: the agent's container image.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rprox_tests::programs::{self, Programs};
use rprox_tests::{command, rootless::image};

use crate::build;
use crate::steps::Step;

/// Builds the agent, and the image from it by `deploy/Containerfile`.
pub(crate) fn build() -> Result<()> {
    if programs::find("podman").is_none() {
        bail!("there is no podman, which builds the image: apt-get install podman");
    }
    build::build(build::Profile::Release)?;
    let step = Step::begin("Build the agent's image");
    let context = programs::target().join("image");
    fs::create_dir_all(&context).with_context(|| format!("make {}", context.display()))?;
    image::strip(&Programs::find()?.agent, &context)?;
    let mut podman = Command::new("podman");
    step.run(image::build(&mut podman, &image::containerfile(), &context))?;
    let size = ["image", "inspect", "--format", "{{.Size}}", image::AGENT];
    let size: f64 =
        command::run(Command::new("podman").args(size))?.trim().parse().context("the image's size")?;
    step.finish(&format!("{}, {:.1} MB", image::AGENT, size / 1e6));
    Ok(())
}
