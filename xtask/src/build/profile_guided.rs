//! Profile-guided optimisation of rprox-agent: built so that it counts what it runs, run by the benchmark's load, and built once
//! more by the counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rprox_tests::{command, programs};

use super::{host_cargo, linking};
use crate::bench;
use crate::setup::{apt, toolchain};
use crate::steps::Step;

const PROGRAM: &str = "rprox-agent";

/// Builds it into `target/release`, in place of what is there.
pub(super) fn build() -> Result<()> {
    let compiler = Compiler::find()?;
    let folder = programs::target().join("profile-guided");
    let (counts, profile) = (folder.join("counts"), folder.join("agent.profdata"));
    if counts.exists() {
        fs::remove_dir_all(&counts).with_context(|| counts.display().to_string())?;
    }
    let counting = compiler.build(&folder, &format!("-Cprofile-generate={}", counts.display()))?;
    bench::train(&counting)?;
    compiler.merge(&counts, &profile)?;
    let built = compiler.build(&folder, &format!("-Cprofile-use={}", profile.display()))?;
    replace(&built, &programs::target().join("release").join(PROGRAM))
}

/// The compiler, and what reads its counts.
struct Compiler {
    target: String,
    profdata: PathBuf,
}

impl Compiler {
    fn find() -> Result<Self> {
        let step = Step::begin("llvm-profdata");
        let version = command::run(Command::new("rustc").arg("-vV"))?;
        let target = version.lines().find_map(|line| line.strip_prefix("host: "));
        let target = target.context("rustc does not tell its host")?.to_owned();
        let llvm = toolchain::llvm_major(&version).context("rustc does not tell its LLVM")?;
        let sysroot = command::run(Command::new("rustc").args(["--print", "sysroot"]))?;
        // Of rustup's component llvm-tools, or Debian's.
        let places = [
            Path::new(sysroot.trim()).join("lib/rustlib").join(&target).join("bin/llvm-profdata"),
            Path::new("/usr/lib").join(format!("llvm-{llvm}/bin/llvm-profdata")),
        ];
        let find = || places.iter().find(|place| place.exists()).cloned();
        if find().is_none() {
            apt::install(&step, &[format!("llvm-{llvm}")])?;
        }
        let profdata = find().with_context(|| format!("no llvm-profdata of LLVM {llvm}"))?;
        step.finish(&profdata.display().to_string());
        Ok(Self { target, profdata })
    }

    /// Builds with one more flag for each crate of the program, and for none that runs while it is built: cargo tells the two apart
    /// where a target is named. Returns the program.
    fn build(&self, folder: &Path, flag: &str) -> Result<PathBuf> {
        let step = Step::begin(&format!("Build {PROGRAM} with {}", flag.split('=').next().unwrap_or(flag)));
        let mut cargo = host_cargo("build");
        cargo.args(["--locked", "--package", "rprox-agent", "--release", "--bin", PROGRAM]);
        cargo.args(["--target", &self.target, "--target-dir"]).arg(folder);
        // Between flags, so that one may have a space in it.
        let mut flags: Vec<&str> = linking::flags();
        flags.push(flag);
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        step.run(&mut cargo)?;
        let program = folder.join(&self.target).join("release").join(PROGRAM);
        step.finish(&format!("in {}", folder.display()));
        Ok(program)
    }

    fn merge(&self, counts: &Path, profile: &Path) -> Result<()> {
        let step = Step::begin("Merge the counts");
        let mut merge = Command::new(&self.profdata);
        // With functions that were never run, too (no `--sparse`): the compiler makes those small, and puts them out of the others' way.
        step.run(merge.args(["merge", "--output"]).arg(profile).arg(counts))?;
        step.finish(&profile.display().to_string());
        Ok(())
    }
}

/// Puts a program in the place of another. That may be one file with cargo's own, which must stay as it is.
fn replace(program: &Path, other: &Path) -> Result<()> {
    if other.exists() {
        fs::remove_file(other).with_context(|| format!("remove {}", other.display()))?;
    }
    fs::copy(program, other).with_context(|| format!("copy {} to {}", program.display(), other.display()))?;
    Ok(())
}
