//! Settings of `nsm nsc`.

use std::{net::SocketAddr, time::Duration};

use super::{Common, SECOND};
use crate::{
    api::names,
    settings::{Errors, NsmUrl, Reader, Target, Vars, vars},
};

/// Shortest time between two looks whether packets pass, and shortest silence.
const LEAST: Duration = Duration::from_millis(10);

/// `nsm nsc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nsc {
    /// What all read.
    pub common: Common,
    /// `NSM_CONNECT_TO`: the node's nsmgr.
    pub connect_to: Target,
    /// `NSM_NETWORK_SERVICES`, at least one.
    pub network_services: Vec<NsmUrl>,
    /// `NSM_AWARENESS_GROUPS`: connections of one group may have the same addresses, all others
    /// have different ones.
    pub awareness_groups: Vec<Vec<NsmUrl>>,
    /// `NSM_LOCAL_DNS_SERVER_ADDRESS`, unless `NSM_LOCAL_DNS_SERVER_ENABLED` is false: where DNS is
    /// served once a connection brings a DNS server.
    pub local_dns: Option<SocketAddr>,
    /// `NSM_LIVENESS_CHECK_INTERVAL`, 200 ms, and `NSM_LIVENESS_CHECK_TIMEOUT`, 1 s, unless
    /// `NSM_LIVENESS_CHECK_ENABLED` is false: how often it is looked at whether packets pass, at least four
    /// times in the second time, and how long they may not before another endpoint is asked for.
    pub liveness: Option<(Duration, Duration)>,
    /// `NSM_REQUEST_TIMEOUT`, 15 s.
    pub request_timeout: Duration,
    /// `NSM_LISTEN_ON`: where the client answers health checks.
    pub listen_on: Target,
}

impl Nsc {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            common: Common::read(&mut reader, "nsc", 5 * SECOND),
            connect_to: reader.target(vars::NSM_CONNECT_TO, &format!("unix://{}", names::NSMGR_SOCKET)),
            network_services: reader.list(vars::NSM_NETWORK_SERVICES, ""),
            awareness_groups: reader.url_groups(vars::NSM_AWARENESS_GROUPS),
            local_dns: local_dns(&mut reader),
            liveness: liveness(&mut reader),
            request_timeout: reader.duration(vars::NSM_REQUEST_TIMEOUT, 15 * SECOND),
            listen_on: reader.listen(vars::NSM_LISTEN_ON, names::NSC_LISTEN_ON),
        };
        if settings.network_services.is_empty()
            && reader.text(vars::NSM_NETWORK_SERVICES, "").trim().is_empty()
        {
            reader.refuse(vars::NSM_NETWORK_SERVICES, "", "at least one URL such as kernel://service/nsm-1");
        }
        for url in settings.network_services.iter().filter(|url| url.mechanism != "KERNEL") {
            let value = format!("{}://{}", url.mechanism.to_ascii_lowercase(), url.network_service);
            reader.refuse(
                vars::NSM_NETWORK_SERVICES,
                &value,
                "kernel://: this client has kernel interfaces only",
            );
        }
        reader.finish(settings)
    }
}

fn liveness(reader: &mut Reader<'_>) -> Option<(Duration, Duration)> {
    let interval = reader.duration(vars::NSM_LIVENESS_CHECK_INTERVAL, SECOND / 5);
    let timeout = reader.duration(vars::NSM_LIVENESS_CHECK_TIMEOUT, SECOND);
    let enabled = reader.flag(vars::NSM_LIVENESS_CHECK_ENABLED, true);
    for (name, time) in
        [(vars::NSM_LIVENESS_CHECK_INTERVAL, interval), (vars::NSM_LIVENESS_CHECK_TIMEOUT, timeout)]
    {
        if time < LEAST {
            reader.refuse(name, &format!("{time:?}"), "a time from 10ms on, such as 1s");
        }
    }
    // One packet may get lost.
    let interval = interval.min(timeout / 4);
    enabled.then_some((interval, timeout))
}

fn local_dns(reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], 53));
    let address = reader.read(
        vars::NSM_LOCAL_DNS_SERVER_ADDRESS,
        default,
        "an IP address and a port such as 127.0.0.1:53",
        |text| text.parse().ok(),
    );
    reader.flag(vars::NSM_LOCAL_DNS_SERVER_ENABLED, true).then_some(address)
}
