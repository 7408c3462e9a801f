//! Names of network services for the whole pod: a small DNS server that asks the servers of all
//! connections and those the pod had, and a `resolv.conf` that leads to it (protocol §4.5).
//!
//! Nothing is changed until a connection brings a DNS server, and all is as before once none does.

mod proxy;
mod resolvconf;

use std::{io, net::SocketAddr, path::PathBuf};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use self::{proxy::Proxy, resolvconf::ResolvConf};
use crate::api::connectioncontext::DnsConfig;

/// Where DNS servers listen (RFC 1035 §4.2).
const PORT: u16 = 53;

/// See the module.
#[derive(Debug)]
pub(super) struct LocalDns {
    listen_on: SocketAddr,
    file: PathBuf,
    serving: Option<(watch::Sender<Vec<SocketAddr>>, AbortOnDropHandle<()>)>,
}

/// Servers to ask: first those of connections. Never this one itself.
fn servers(configs: &[DnsConfig], before: &ResolvConf, own: SocketAddr) -> Vec<SocketAddr> {
    let brought = configs.iter().flat_map(|config| &config.dns_server_ips).filter_map(|ip| ip.parse().ok());
    let mut servers: Vec<SocketAddr> = Vec::new();
    for ip in brought.chain(before.nameservers()) {
        let server = SocketAddr::new(ip, PORT);
        if server != own && !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

impl LocalDns {
    /// Will serve here. Repairs what a former process that was killed has left.
    pub(super) fn new(listen_on: SocketAddr, file: PathBuf) -> Self {
        let local = Self { listen_on, file, serving: None };
        local.restore();
        local
    }

    /// Follows the connections until the stop; then everything is as before.
    pub(super) async fn run(mut self, mut configs: watch::Receiver<Vec<DnsConfig>>, stop: CancellationToken) {
        loop {
            let now = configs.borrow_and_update().clone();
            if let Err(error) = self.follow(&now).await {
                warn!(
                    %error, address = %self.listen_on, file = %self.file.display(),
                    "cannot resolve names of network services; see NSM_LOCAL_DNS_SERVER_ENABLED"
                );
            }
            tokio::select! {
                changed = configs.changed() => if changed.is_err() { break },
                () = stop.cancelled() => break,
            }
        }
        self.end();
    }

    async fn follow(&mut self, configs: &[DnsConfig]) -> io::Result<()> {
        if configs.is_empty() {
            self.end();
            return Ok(());
        }
        let before = resolvconf::read(&self.file)?.original();
        let servers = servers(configs, &before, self.listen_on);
        if let Some((known, _)) = &self.serving {
            known.send_replace(servers);
        } else {
            let (known, followed) = watch::channel(servers);
            let proxy = Proxy::bind(self.listen_on, followed).await?;
            info!(address = %self.listen_on, "serving DNS");
            self.serving = Some((known, AbortOnDropHandle::new(tokio::spawn(proxy.run()))));
        }
        // A resolv.conf names no port: at another one somebody else leads to this server.
        if self.listen_on.port() == PORT {
            let domains = configs.iter().flat_map(|config| config.search_domains.iter().map(String::as_str));
            resolvconf::write(&self.file, &before.led_to(self.listen_on.ip(), domains))?;
        }
        Ok(())
    }

    fn end(&mut self) {
        // Nobody shall be led to a server that is gone.
        self.restore();
        self.serving = None;
    }

    fn restore(&self) {
        let restored = resolvconf::read(&self.file).and_then(|now| {
            if now.is_ours() {
                resolvconf::write(&self.file, &now.original()).map(|()| true)
            } else {
                Ok(false)
            }
        });
        match restored {
            Ok(true) => info!(file = %self.file.display(), "restored"),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(%error, file = %self.file.display(), "cannot restore"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    const BEFORE: &str = "search cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";

    fn config() -> DnsConfig {
        DnsConfig {
            dns_server_ips: vec!["10.0.0.1".into(), "127.0.0.9".into()],
            search_domains: vec!["corp".into()],
        }
    }

    #[test]
    fn servers_of_connections_are_asked_with_those_from_before_and_never_this_one() {
        let own = "127.0.0.9:53".parse().unwrap();
        let all = servers(&[config(), config()], &ResolvConf::of(BEFORE), own);
        assert_eq!(all, ["10.0.0.1:53", "10.96.0.10:53"].map(|server| server.parse().unwrap()));
    }

    #[test]
    fn a_file_that_a_killed_process_left_is_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        let led = ResolvConf::of(BEFORE).led_to("127.0.0.1".parse().unwrap(), ["corp"]);
        resolvconf::write(&file, &led).unwrap();
        LocalDns::new("127.0.0.1:53".parse().unwrap(), file.clone());
        assert_eq!(fs::read_to_string(file).unwrap(), BEFORE);
    }

    #[tokio::test]
    async fn nothing_is_changed_before_a_connection_brings_a_server_nor_after_the_stop() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("resolv.conf");
        fs::write(&file, BEFORE).unwrap();
        let (sender, configs) = watch::channel(Vec::new());
        let stop = CancellationToken::new();
        // An address of its own, so that tests side by side do not meet.
        let local = LocalDns::new("127.53.53.1:53".parse().unwrap(), file.clone());
        let running = tokio::spawn(local.run(configs, stop.clone()));
        let is = |wanted: &'static str| {
            let file = file.clone();
            async move {
                while !fs::read_to_string(&file).unwrap().contains(wanted) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        assert_eq!(fs::read_to_string(&file).unwrap(), BEFORE);
        if std::net::UdpSocket::bind("127.53.53.1:53").is_err() {
            println!("SKIPPED: port 53 is not for this user");
            return;
        }
        sender.send_replace(vec![config()]);
        tokio::time::timeout(Duration::from_secs(10), is("nameserver 127.53.53.1")).await.unwrap();
        stop.cancel();
        running.await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), BEFORE);
    }
}
