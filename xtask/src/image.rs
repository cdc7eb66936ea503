//! `cargo xtask image`: the container images.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rprox_tests::programs::{self, Programs};
use rprox_tests::{command, rootless::image};

use crate::build;
use crate::steps::Step;

/// Builds the programs, unless they are `prebuilt`, and the images from them by `deploy/Containerfile`.
pub(crate) fn build(prebuilt: bool) -> Result<()> {
    if programs::find("podman").is_none() {
        bail!("there is no podman, which builds the image: apt-get install podman");
    }
    if !prebuilt {
        build::build(build::Profile::Release)?;
    }
    let context = programs::target().join("image");
    fs::create_dir_all(&context).with_context(|| format!("make {}", context.display()))?;
    image::fill(&context, &Programs::find()?)?;
    for target in image::TARGETS {
        let step = Step::begin(&format!("Build the {target}'s image"));
        step.run(image::build(&mut Command::new("podman"), target, &image::containerfile(), &context))?;
        let name = image::name(target);
        let size =
            command::run(Command::new("podman").args(["image", "inspect", "--format", "{{.Size}}", &name]))?;
        let size: f64 = size.trim().parse().context("the image's size")?;
        step.finish(&format!("{name}, {:.1} MB", size / 1e6));
    }
    Ok(())
}
