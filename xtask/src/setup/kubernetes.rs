//! The schemas of Kubernetes' objects, with what checks a manifest by them. No Debian package has any.

use std::process::Command;

use anyhow::{Context, Result};
use rprox_tests::programs;

use super::apt;
use crate::steps::Step;

/// From Python's index, with the schemas of the Kubernetes version that it is called after, and of those before it.
const PACKAGE: &str = "kubernetes-validate==1.37.0";

/// Installs it into a folder of its own.
pub(super) fn set_up() -> Result<()> {
    let step = Step::begin("Kubernetes' schemas");
    if programs::kubernetes_validate().exists() {
        step.finish("all there");
        return Ok(());
    }
    let python = "/usr/bin/python3";
    let has_pip = Command::new(python).args(["-c", "import ensurepip, venv"]).output();
    if !has_pip.is_ok_and(|output| output.status.success()) {
        apt::install(&step, &["python3-venv".to_owned()])?;
    }
    let folder = programs::tools().join("kubernetes");
    step.run(Command::new(python).args(["-m", "venv"]).arg(&folder))?;
    let mut pip = Command::new(folder.join("bin/pip"));
    step.run(pip.args(["install", "--quiet", "--disable-pip-version-check", PACKAGE]))
        .with_context(|| format!("install {PACKAGE} from PyPI"))?;
    step.finish(&format!("installed {PACKAGE}"));
    Ok(())
}
