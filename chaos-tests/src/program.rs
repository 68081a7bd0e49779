//! The binary under test.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The `causeway` binary of the profile that this test was built with; built first if it is missing or old.
///
/// # Errors
/// It does not build.
pub fn program() -> anyhow::Result<PathBuf> {
    let me = std::env::current_exe().context("find this test's own file")?;
    // target/PROFILE/deps/test or target/PROFILE/program
    let profile = me.ancestors().find(|folder| folder.join("build").is_dir()).context("find the target folder")?;
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--package", "causeway", "--bin", "causeway"]);
    build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if profile.file_name().is_some_and(|name| name == "release") {
        build.arg("--release");
    }
    ensure!(build.status().context("run cargo")?.success(), "the binary under test does not build");
    Ok(profile.join("causeway"))
}
