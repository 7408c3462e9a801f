//! `nsm-operator`: installs, watches and upgrades Network Service Mesh.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nsm_operator::{
    daemon, forecast, install, ledger::Calm, metrics::Metrics, names, validate::Installation,
};

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
    /// Print what an NSMConfig would change on a cluster, and exit.
    #[command(after_help = PLAN_HELP)]
    Plan(Plan),
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
    /// How long the daemons of a node may take to get ready in another revision, before it is taken back.
    #[arg(long, env = "NSM_NODE_TIMEOUT", default_value = "2m", value_parser = humantime::parse_duration)]
    node_timeout: Duration,
    /// How long a watch is open before the API server ends it, and it is opened again where it was.
    #[arg(long, env = "NSM_WATCH_TIMEOUT", default_value = "290s", value_parser = humantime::parse_duration)]
    watch_timeout: Duration,
    /// What is logged: a level, or a filter such as `info,nsm_operator=debug`.
    #[arg(long, env = "NSM_LOG_LEVEL", default_value = "info")]
    log_level: String,
}

const PLAN_HELP: &str = "\
Nothing is written: the API server is asked for a dry run of the NSMConfig and for lists of what the operator made.

Exit codes:
  0  nothing would change
  1  it cannot be said: the cluster does not answer, or not as it should
  2  something would change
  3  the settings cannot be used

Examples:
  nsm-operator plan -f config/samples/nsmconfig.yaml
  kubectl get nsm default -o yaml | sed s/INFO/DEBUG/ | nsm-operator plan -f -
  nsm-operator plan -f nsmconfig.yaml -o json | jq -r '.changes[] | select(.action == \"delete\").name'";

#[derive(Args)]
struct Plan {
    /// File with the NSMConfig, or - for standard input.
    #[arg(short, long, value_name = "FILE")]
    filename: PathBuf,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Namespace of the operator.
    #[arg(long, default_value = names::OPERATOR_NAMESPACE)]
    namespace: String,
    /// Image of the mesh, where the NSMConfig names none; by default the one the operator was installed with.
    #[arg(long)]
    mesh_image: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// One line a change, and a sum.
    Text,
    /// {"changes": [{"action", "kind", "namespace", "name", "because"}]}.
    Json,
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
async fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Plan(options) => return plan(options).await,
        Command::Run(options) => run(options).await,
        Command::Remove(options) => {
            daemon::logs("info")?;
            let client = daemon::client("remove", &Metrics::default(), &Calm::default()).await?;
            nsm_operator::remove::mesh(&client, options.timeout).await?;
            Ok(())
        }
        Command::Crd => print(&install::crds()?),
        Command::Manifests(options) => print(&install::manifests(&options.into())?),
        Command::Version => print(concat!(env!("CARGO_PKG_VERSION"), "\n")),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Prints what would change; the exit code tells whether anything would.
async fn plan(options: Plan) -> anyhow::Result<ExitCode> {
    let Plan { filename, output, namespace, mesh_image } = options;
    let file = filename.display().to_string();
    let text = if file == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(&filename)
    };
    let text = text.with_context(|| format!("{file} cannot be read"))?;
    let (name, spec) = match forecast::config(&file, &text) {
        Ok(config) => config,
        Err(error) => return Ok(refuse(&error)),
    };
    let client = daemon::client("plan", &Metrics::default(), &Calm::default()).await?;
    let installation = forecast::installation(&client, &namespace, mesh_image).await?;
    let forecast = match forecast::forecast(&client, &name, &spec, &installation).await {
        Ok(forecast) => forecast,
        Err(error @ forecast::Error::Settings(_)) => return Ok(refuse(&error)),
        Err(error) => return Err(error.into()),
    };
    match output {
        Output::Text => print(&forecast.text())?,
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&forecast)?))?,
    }
    Ok(if forecast.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn refuse(error: &forecast::Error) -> ExitCode {
    eprintln!("Error: {error}");
    ExitCode::from(3)
}

async fn run(options: Run) -> anyhow::Result<()> {
    daemon::logs(&options.log_level)?;
    let installation = Installation {
        mesh_image: options.mesh_image,
        namespace: options.namespace,
        service_account: options.service_account,
    };
    let metrics = Metrics::default();
    let calm = Calm::default();
    let client = daemon::client(&options.identity, &metrics, &calm).await?;
    let Run { identity, listen_on, node_timeout, watch_timeout, .. } = options;
    let options = daemon::Options { identity, listen_on, node_timeout, watch_timeout };
    daemon::run(client, installation, &options, metrics, calm).await?;
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
