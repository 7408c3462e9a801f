//! Where the programs are that tests run.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The folder of the whole repository.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The driver of the local Kubernetes: `NSM_CLUSTER_BIN`, or where `make cluster` puts it.
pub(super) fn driver() -> Result<PathBuf> {
    let built = repository().join("e2e/cluster/bin/cluster");
    named("NSM_CLUSTER_BIN", built, "make cluster")
}

/// The operator: `NSM_OPERATOR_BIN`, or the one that cargo built beside this test.
pub(super) fn operator() -> Result<PathBuf> {
    let test = env::current_exe().context("where this test is")?;
    let profile = test.ancestors().nth(2).context("a test lies in the deps of a profile")?;
    named("NSM_OPERATOR_BIN", profile.join("nsm-operator"), "cargo build --workspace --bins")
}

/// Helm, from `NSM_HELM_BIN`.
pub(super) fn helm() -> Result<PathBuf> {
    named("NSM_HELM_BIN", repository().join("NSM_HELM_BIN"), "e2e/helm.sh")
}

fn named(variable: &str, otherwise: PathBuf, command: &str) -> Result<PathBuf> {
    let path = env::var_os(variable).map_or(otherwise, PathBuf::from);
    if !path.is_file() {
        bail!("{} is missing: build it with `{command}`, or name another in {variable}", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_the_command_that_builds_it() {
        let error = named("NSM_NO_SUCH_VARIABLE", "/nowhere/it".into(), "make it").unwrap_err().to_string();
        assert!(error.contains("/nowhere/it") && error.contains("`make it`"), "{error}");
    }
}
