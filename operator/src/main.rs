//! `nsm-operator`: installs, watches and upgrades Network Service Mesh.

use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use nsm_operator::{daemon, install, names, validate::Installation};

/// Kubernetes operator for Network Service Mesh.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator until SIGTERM.
    Run(Run),
    /// Remove the mesh, and wait until the operator has done so; before the operator itself is removed.
    Remove(Remove),
    /// Print the resource definitions as YAML.
    Crd,
    /// Print the whole installation as YAML, for `kubectl apply --server-side -f -`.
    Manifests(Manifests),
    /// Print the version.
    Version,
}

#[derive(Args)]
struct Run {
    /// Image of the mesh, where an NSMConfig names none.
    #[arg(long, env = "NSM_MESH_IMAGE")]
    mesh_image: String,
    /// Namespace of the operator; the root key of the mesh's identities is kept there.
    #[arg(long, env = "POD_NAMESPACE", default_value = names::OPERATOR_NAMESPACE)]
    namespace: String,
    /// Service account of the operator; it gets its rights in the mesh's namespace.
    #[arg(long, env = "POD_SERVICE_ACCOUNT", default_value = names::MANAGER)]
    service_account: String,
    /// Name of this pod: its identity in the election of the one operator that writes.
    #[arg(long, env = "POD_NAME")]
    identity: String,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[arg(long, env = "NSM_OPERATOR_LISTEN_ON", default_value = "[::]:8080")]
    listen_on: String,
    /// What is logged: a level, or a filter such as `info,nsm_operator=debug`.
    #[arg(long, env = "NSM_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

#[derive(Args)]
struct Remove {
    /// How long to wait, such as 5m.
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Args)]
struct Manifests {
    /// Image of the operator.
    #[arg(long, default_value_t = install::Options::default().operator_image)]
    operator_image: String,
    /// Image of the mesh.
    #[arg(long, default_value_t = install::Options::default().mesh_image)]
    mesh_image: String,
    /// When nodes fetch the operator's image: Always, IfNotPresent or Never.
    #[arg(long, default_value_t = install::Options::default().pull_policy)]
    pull_policy: String,
    /// Namespace of the operator.
    #[arg(long, default_value_t = install::Options::default().namespace)]
    namespace: String,
    /// Namespace it may make for the mesh: spec.namespace of the NSMConfig.
    #[arg(long, default_value_t = install::Options::default().mesh_namespace)]
    mesh_namespace: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(options) => run(options).await,
        Command::Remove(options) => {
            daemon::logs("info")?;
            let client = daemon::client("remove").await?;
            Ok(nsm_operator::remove::mesh(&client, options.timeout).await?)
        }
        Command::Crd => print(&install::crds()?),
        Command::Manifests(options) => print(&install::manifests(&options.into())?),
        Command::Version => print(concat!(env!("CARGO_PKG_VERSION"), "\n")),
    }
}

async fn run(options: Run) -> anyhow::Result<()> {
    daemon::logs(&options.log_level)?;
    let installation = Installation {
        mesh_image: options.mesh_image,
        namespace: options.namespace,
        service_account: options.service_account,
    };
    let client = daemon::client(&options.identity).await?;
    daemon::run(client, installation, &options.identity, &options.listen_on).await?;
    Ok(())
}

fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).context("standard output is closed")
}

impl From<Manifests> for install::Options {
    fn from(options: Manifests) -> Self {
        let Manifests { operator_image, mesh_image, pull_policy, namespace, mesh_namespace } = options;
        Self { namespace, mesh_namespace, operator_image, mesh_image, pull_policy }
    }
}
