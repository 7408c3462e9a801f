//! `nsm`: every process of the mesh in one program.

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use nsm_components::{
    api::{names, with_causes},
    apps,
    daemon::{self, Log},
    settings::{self, LogLevel, ProcessEnvironment, Recorded, Target, Vars, vars},
};
use tracing::{info, warn};

/// Exit code for settings that cannot be used (as for a bad command line).
const USAGE: u8 = 2;

/// Network Service Mesh: registry, nsmgr, forwarder, identity, client and endpoint.
///
/// Each process reads its settings from the environment, under upstream's names: see
/// `nsm <process> --help`. All processes of the mesh read NSM_LOG_LEVEL (INFO), NSM_METRICS_LISTEN_ON,
/// NSM_MAX_REQUESTS_IN_FLIGHT (256), NSM_MAX_IDENTITY_OUTAGE (24h), NSM_SERVER_POLICIES, NSM_CLIENT_POLICIES,
/// NSM_MONITOR_POLICIES, NSM_REGISTRY_SERVER_POLICIES, NSM_REGISTRY_CLIENT_POLICIES and NSM_TRUSTED_IDS.
/// SIGUSR1 sets the log level to trace, SIGUSR2 back.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    process: Process,
}

const CONNECTIONS_EXAMPLES: &str = "\
Examples:
  nsm connections                    what is there now
  nsm connections -o wide --watch    all of it, and again with every change, until Ctrl-C
  nsm connections -o json | jq '.connections[] | select(.state != \"UP\")'
                                     those that are not up, with the error";

const PURGE_EXAMPLES: &str = "\
Examples:
  nsm purge --dry-run      what would be removed
  nsm purge                all that a mesh left on this host
  nsm purge --forwarder forwarder-standalone
                           what `nsm standalone` left, beside a cluster's forwarder that runs on
  kubectl debug node/w-17 -it --profile=sysadmin --image=<image of the mesh> -- \\
    env NSM_BASE_DIR=/host/var/lib/nsm-forwarder/connections /nsm purge
                           on a node of a cluster";

#[derive(Subcommand)]
enum Process {
    /// Keeps network services and endpoints, in memory or in custom resources.
    ///
    /// NSM_LISTEN_ON (tcp://:5002), SPIFFE_ENDPOINT_SOCKET, NSM_MAX_TOKEN_LIFETIME (10m),
    /// NSM_REGISTRY_STORAGE (Memory or CRD), and for CRD NSM_NAMESPACE (default) and POD_NAME.
    Registry,
    /// The node's switchboard for clients, endpoints and forwarders.
    ///
    /// NSM_NAME, NSM_LISTEN_ON (the first tcp:// URL is how other nodes reach it), NSM_REGISTRY_URL,
    /// NSM_NODE_STATE, SPIFFE_ENDPOINT_SOCKET.
    Nsmgr,
    /// Makes the kernel of a node carry connections. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN, CAP_NET_RAW to ask how
    /// large a packet reaches another node and to tell neighbours of new links, and CAP_NET_BROADCAST to hear of links
    /// that somebody deletes.
    ///
    /// NSM_NAME, NSM_LISTEN_ON, NSM_CONNECT_TO, NSM_TUNNEL_IP, NSM_BASE_DIR, SPIFFE_ENDPOINT_SOCKET.
    Forwarder,
    /// Registry, nsmgr, forwarder and identity in one process, for a host without Kubernetes. Needs
    /// CAP_NET_ADMIN and CAP_SYS_ADMIN.
    ///
    /// NSM_BASE_DIR (/var/lib/networkservicemesh) is the folder of its sockets and files. Clients and
    /// endpoints find it by default, with SPIFFE_ENDPOINT_SOCKET=unix://$NSM_BASE_DIR/agent.sock; in another folder
    /// also with NSM_CONNECT_TO=unix://$NSM_BASE_DIR/nsm.io.sock. NSM_NAME (standalone), NSM_LISTEN_ON,
    /// NSM_TRUST_DOMAIN (host.nsm), NSM_SVID_LIFETIME (1h), NSM_CA_LIFETIME (1 year), NSM_SPIFFE_ID_TEMPLATE,
    /// NSM_EXCLUDED_PREFIXES_FILE, NSM_DIAL_TIMEOUT.
    Standalone,
    /// Asks for network services and keeps the connections.
    ///
    /// NSM_NAME, NSM_CONNECT_TO, NSM_NETWORK_SERVICES (kernel://service/interface?label=value, …),
    /// NSM_AWARENESS_GROUPS, NSM_REQUEST_TIMEOUT (15s), NSM_LOCAL_DNS_SERVER_ENABLED (true),
    /// NSM_LOCAL_DNS_SERVER_ADDRESS (127.0.0.1:53), SPIFFE_ENDPOINT_SOCKET.
    Nsc,
    /// Offers network services and hands out addresses.
    ///
    /// NSM_NAME, NSM_CONNECT_TO, NSM_SERVICE_NAMES, NSM_LABELS, NSM_PAYLOAD, NSM_CIDR_PREFIX,
    /// NSM_IPAM_POLICY (polite), NSM_DNS_CONFIGS, NSM_PBR_CONFIG_PATH, NSM_IDLE_TIMEOUT (never),
    /// NSM_REGISTER_SERVICE (true), NSM_UNREGISTER_ITSELF (false), SPIFFE_ENDPOINT_SOCKET.
    Nse,
    /// Shows the connections of this node: who is connected to what, by which interface and addresses, since
    /// when, how much was sent, and what was healed last and why.
    ///
    /// It asks the node's nsmgr on its unix socket (NSM_CONNECT_TO, by default
    /// unix:///var/lib/networkservicemesh/nsm.io.sock) with an identity from SPIFFE_ENDPOINT_SOCKET (by default
    /// agent.sock beside that socket, or unix:///run/nsm/identity/agent.sock). The nsmgr tells all to processes of
    /// the mesh alone: run it as the user that the mesh runs as, or in the nsmgr's pod:
    ///
    ///   kubectl -n nsm-system exec <nsmgr's pod> -- /nsm connections
    ///
    /// SENT and RECEIVED are the client's bytes as of its last refresh. TOKEN is how old the connection's token is,
    /// and its life. SINCE begins anew with the nsmgr. LAST HEAL and ERROR are there when there is one to show.
    ///
    /// Exit codes: 0, also when there are no connections, which standard error tells; 1 when the nsmgr or the
    /// identity cannot be had, with the socket that was asked; 2 for what cannot be asked.
    #[command(after_help = CONNECTIONS_EXAMPLES)]
    Connections(apps::connections::Options),
    /// Has this node take no new connections, and waits until its nsmgr and forwarders may be stopped.
    ///
    /// Connections that there are go on, and are refreshed; new ones are refused with the reason, until
    /// `nsm drain --undo` or a restart. Links stay in any case. It asks as `nsm connections` does, and the same may:
    /// NSM_CONNECT_TO, SPIFFE_ENDPOINT_SOCKET.
    ///
    /// Exit codes: 0 when all may be stopped, or take new connections again; 1 when one may not within the time,
    /// which standard error names with the reason, or when the nsmgr or the identity cannot be had; 2 for what
    /// cannot be asked.
    Drain(apps::drain::Options),
    /// Removes what a mesh has left on this machine: links, rules of policy routes, and the journal.
    ///
    /// For a node whose mesh is gone, or that did not answer when the mesh was removed. Links and rules are found in
    /// all namespaces of the machine by the marks that the mesh gives them when it makes them; what has no mark is
    /// not touched. Nothing is removed while a forwarder runs here. Needs CAP_NET_ADMIN and CAP_SYS_ADMIN and the
    /// machine's process ids. NSM_BASE_DIR (/var/lib/nsm-forwarder/connections): folder of the forwarder's journal.
    ///
    /// Exit codes: 0 when all is removed, or there is nothing; 1 when something could not be, or a forwarder runs,
    /// which standard error tells; 2 for what cannot be asked.
    #[command(after_help = PURGE_EXAMPLES)]
    Purge(apps::purge::Options),
    /// Serves the SPIFFE Workload API, from which every process gets who it is.
    #[command(subcommand)]
    Identity(Identity),
    /// Asks a process of the mesh whether it serves; exit code 0 means yes.
    ///
    /// Without a URL it asks the process whose environment it runs in (NSM_LISTEN_ON).
    Health {
        /// What to ask: a URL, or `nsc`, `nse`, `forwarder`, `nsmgr`, `registry`, to know the default
        /// of NSM_LISTEN_ON; `identity-agent` and `identity-authority` for those.
        target: Option<String>,
        /// How long to wait.
        #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
        timeout: Duration,
    },
}

#[derive(Subcommand, Clone, Copy)]
enum Identity {
    /// Without Kubernetes: an own CA on disk, callers known by user and program.
    ///
    /// NSM_LISTEN_ON, NSM_TRUST_DOMAIN, NSM_SVID_LIFETIME (1h), NSM_CA_LIFETIME (1 year),
    /// NSM_SPIFFE_ID_TEMPLATE (/host/uid/{uid}/{program}), NSM_BASE_DIR.
    Standalone,
    /// Has a running `nsm identity standalone` change over to a new CA, without a restart of anything.
    ///
    /// NSM_LISTEN_ON: its socket. Only its own user and root may.
    Rotate,
    /// On each node of a cluster: attests the pods that call and holds their keys. Needs the node's
    /// process ids (hostPID).
    ///
    /// NSM_LISTEN_ON, NODE_NAME, NSM_AUTHORITY_URL, NSM_AUTHORITY_TOKEN_FILE, NSM_BUNDLE_CONFIG_MAP.
    Agent,
    /// Once in a cluster: says what a pod is, and signs.
    ///
    /// NSM_LISTEN_ON, NSM_TRUST_DOMAIN, NSM_SVID_LIFETIME (1h), NSM_ROOT_SECRET,
    /// NSM_BUNDLE_CONFIG_MAP, NSM_AGENT_SERVICE_ACCOUNT.
    Authority,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Libraries that choose a TLS backend by themselves shall all choose this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &error),
    };
    let code = runtime.block_on(run(arguments.process));
    // Background tasks that wait for a peer must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

fn fail(code: u8, error: &(dyn std::error::Error + 'static)) -> ExitCode {
    eprintln!("nsm: {}", with_causes(error));
    ExitCode::from(code)
}

fn end<E: std::error::Error + 'static>(result: Result<(), E>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let error: &(dyn std::error::Error + 'static) = &error;
    let usage = error.downcast_ref().is_some_and(apps::Error::is_usage);
    fail(if usage { USAGE } else { 1 }, error)
}

async fn run(process: Process) -> ExitCode {
    if let Process::Health { target, timeout } = process {
        // A probe fails with one line; what goes wrong on the way is said there.
        Log::start(&LogLevel::off());
        // These two have no identity to be asked with.
        macro_rules! probe {
            ($settings:ident, $probe:path) => {
                match settings::$settings::read(&ProcessEnvironment) {
                    Ok(settings) => end($probe(&settings).await),
                    Err(errors) => fail(USAGE, &errors),
                }
            };
        }
        return match target.as_deref() {
            Some("identity-agent") => probe!(IdentityAgent, apps::identity::probe_agent),
            Some("identity-authority") => probe!(IdentityAuthority, apps::identity::probe_authority),
            target => end(health(target, timeout).await),
        };
    }
    let stop = match daemon::stop_on_signals() {
        Ok(stop) => stop,
        Err(error) => return fail(1, &error),
    };
    if let Process::Connections(options) = process {
        // What goes wrong is said in one line.
        Log::start(&LogLevel::off());
        return match settings::Connections::read(&ProcessEnvironment) {
            Ok(settings) => end(apps::connections::run(options, settings, stop).await),
            Err(errors) => fail(USAGE, &errors),
        };
    }
    if let Process::Drain(options) = process {
        Log::start(&LogLevel::off());
        return match settings::Connections::read(&ProcessEnvironment) {
            Ok(settings) => end(apps::drain::run(options, settings, stop).await),
            Err(errors) => fail(USAGE, &errors),
        };
    }
    if let Process::Purge(options) = process {
        Log::start(&LogLevel::off());
        return match settings::Purge::read(&ProcessEnvironment) {
            Ok(settings) => end(apps::purge::run(options, settings).await),
            Err(errors) => fail(USAGE, &errors),
        };
    }
    let vars = Recorded::new(ProcessEnvironment);
    macro_rules! start {
        ($settings:ident, $run:path, $($level:ident).+) => {
            match settings::$settings::read(&vars) {
                Ok(settings) => {
                    if let Err(error) = begin(&settings.$($level).+, &vars) {
                        return fail(1, &error);
                    }
                    end($run(settings, stop).await)
                }
                Err(errors) => fail(USAGE, &errors),
            }
        };
    }
    match process {
        Process::Registry => start!(Registry, apps::registry::run, common.log_level),
        Process::Nsmgr => start!(Nsmgr, apps::nsmgr::run, common.log_level),
        Process::Forwarder => start!(Forwarder, apps::forwarder::run, common.log_level),
        Process::Standalone => start!(Standalone, apps::standalone::run, log_level),
        Process::Nsc => start!(Nsc, apps::nsc::run, common.log_level),
        Process::Nse => start!(Nse, apps::nse::run, endpoint.common.log_level),
        Process::Identity(Identity::Standalone) => {
            start!(IdentityStandalone, apps::identity::standalone::run, log_level)
        }
        Process::Identity(Identity::Rotate) => {
            match settings::IdentityStandalone::read(&ProcessEnvironment) {
                Ok(settings) => match apps::identity::rotate(&settings).await {
                    Ok(rotation) => {
                        println!("{rotation}");
                        ExitCode::SUCCESS
                    }
                    Err(error) => fail(1, &error),
                },
                Err(errors) => fail(USAGE, &errors),
            }
        }
        Process::Identity(Identity::Agent) => start!(IdentityAgent, apps::identity::agent::run, log_level),
        Process::Identity(Identity::Authority) => {
            start!(IdentityAuthority, apps::identity::authority::run, log_level)
        }
        Process::Health { .. } | Process::Connections(_) | Process::Drain(_) | Process::Purge(_) => {
            ExitCode::SUCCESS
        }
    }
}

/// Starts logging, and says with what settings the process runs.
fn begin(level: &LogLevel, vars: &Recorded<ProcessEnvironment>) -> std::io::Result<()> {
    Log::start(level).follow_signals()?;
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    info!(settings = vars.read().join(" "), ignored = vars.ignored(names).join(" "), "settings");
    match daemon::raise_open_files() {
        Ok(limit) => info!(limit, "open files"),
        Err(error) => warn!(%error, "the limit of open files stays as it is"),
    }
    Ok(())
}

async fn health(target: Option<&str>, limit: Duration) -> Result<(), apps::Error> {
    let unknown = |reason: &str| apps::Error::Unhealthy {
        target: target.unwrap_or(vars::NSM_LISTEN_ON).to_owned(),
        reason: reason.to_owned(),
    };
    let socket = ProcessEnvironment.get(vars::SPIFFE_ENDPOINT_SOCKET).unwrap_or_default();
    let socket: Target = socket.parse().map_err(|_| unknown("SPIFFE_ENDPOINT_SOCKET is not set to a URL"))?;
    let listen_on = ProcessEnvironment.get(vars::NSM_LISTEN_ON);
    let by_default = match target {
        Some("nsc") => Some(names::NSC_LISTEN_ON),
        Some("nse") => Some(names::NSE_LISTEN_ON),
        Some("forwarder") => Some(names::FORWARDER_LISTEN_ON),
        Some("nsmgr") => Some(names::NSMGR_LISTEN_ON),
        Some("registry") => Some(names::REGISTRY_LISTEN_ON),
        _ => None,
    };
    let url = match (target, by_default) {
        (Some(url), None) => url.to_owned(),
        (_, by_default) => listen_on
            .as_deref()
            .and_then(|list| list.split(',').next())
            .or(by_default)
            .ok_or_else(|| unknown("NSM_LISTEN_ON is not set; name a URL or a process"))?
            .to_owned(),
    };
    let url: Target = url.trim().parse().map_err(|_| unknown("it is no URL"))?;
    apps::health::check(&socket, &url, limit).await
}
