//! `nsm nse`: an endpoint that hands out addresses, policy routes and DNS servers, and answers in
//! its own network namespace.

use tokio_util::sync::CancellationToken;

use super::{Endpoint, Error};
use crate::{
    api::connectioncontext::DnsConfig,
    elements::{DnsContextServer, Keep, Point2PointIpam, PolicyRoute},
    settings::{DnsServers, IpamPolicy, Nse},
};

fn config(servers: &DnsServers) -> DnsConfig {
    let dns_server_ips = servers.dns_server_ips.iter().map(ToString::to_string).collect();
    DnsConfig { dns_server_ips, search_domains: servers.search_domains.clone() }
}

/// Serves until the stop.
pub async fn run(settings: Nse, stop: CancellationToken) -> Result<(), Error> {
    let keep = match settings.ipam_policy {
        IpamPolicy::Polite => Keep::Foreign,
        IpamPolicy::Strict => Keep::Nothing,
    };
    let life = settings.endpoint.common.max_token_lifetime;
    let mut endpoint =
        Endpoint::new(settings.endpoint).with(Point2PointIpam::new(settings.cidr_prefix, keep, life));
    if let Some(path) = settings.policy_routes {
        endpoint = endpoint.with(PolicyRoute::new(path).await?);
    }
    let dns = DnsContextServer::new(settings.dns_configs.iter().map(config).collect());
    endpoint.kernel()?.with(dns).serve(stop).await
}
