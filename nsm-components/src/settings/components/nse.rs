//! Settings of `nsm nse`.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use super::Endpoint;
use crate::settings::{Errors, Reader, Vars, vars};

/// Where policy routes are read from unless told otherwise.
const POLICY_ROUTES: &str = "/etc/policy-based-routing/config.yaml";

/// `nsm nse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nse {
    /// What all endpoints read.
    pub endpoint: Endpoint,
    /// `NSM_CIDR_PREFIX`: each group hands out one pair of addresses.
    pub cidr_prefix: Vec<Vec<IpNet>>,
    /// `NSM_IPAM_POLICY`.
    pub ipam_policy: IpamPolicy,
    /// `NSM_DNS_CONFIGS`: handed to every client.
    pub dns_configs: Vec<DnsServers>,
    /// `NSM_PBR_CONFIG_PATH`: the file with the policy routes of clients; absent when there is
    /// none where upstream looks for one by default.
    pub policy_routes: Option<PathBuf>,
}

/// What becomes of addresses that a client brings along and that are not of the endpoint's prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpamPolicy {
    /// They stay on the client's interface beside the endpoint's, but for those that the endpoint
    /// before handed out.
    #[default]
    Polite,
    /// They go: the client has what this endpoint hands out.
    Strict,
}

/// DNS servers and the domains searched with them, as upstream writes them in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsServers {
    /// Addresses of the servers.
    #[serde(default)]
    pub dns_server_ips: Vec<IpAddr>,
    /// Domains, without a dot before or behind.
    #[serde(default)]
    pub search_domains: Vec<String>,
}

impl Nse {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            endpoint: Endpoint::read_from(&mut reader),
            cidr_prefix: reader.prefixes(vars::NSM_CIDR_PREFIX, "169.254.0.0/16"),
            ipam_policy: reader.read(vars::NSM_IPAM_POLICY, IpamPolicy::Polite, "polite or strict", |text| {
                match text {
                    "polite" => Some(IpamPolicy::Polite),
                    "strict" => Some(IpamPolicy::Strict),
                    _ => None,
                }
            }),
            dns_configs: reader.read(vars::NSM_DNS_CONFIGS, Vec::new(), DNS_CONFIGS, |text| {
                if text.is_empty() { Some(Vec::new()) } else { serde_json::from_str(text).ok() }
            }),
            policy_routes: policy_routes(&mut reader),
        };
        reader.finish(settings)
    }
}

const DNS_CONFIGS: &str =
    r#"a JSON list such as [{"dns_server_ips":["172.16.1.2"],"search_domains":["my.domain"]}]"#;

/// A file that is named has to be there; the one by default need not.
fn policy_routes(reader: &mut Reader<'_>) -> Option<PathBuf> {
    let text = reader.text(vars::NSM_PBR_CONFIG_PATH, POLICY_ROUTES);
    let path = PathBuf::from(&text);
    let there = path.is_file();
    if !there && !text.is_empty() && text != POLICY_ROUTES {
        reader.refuse(vars::NSM_PBR_CONFIG_PATH, &text, "a file that can be read");
    }
    there.then_some(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Nse, Errors> {
        let given = [(vars::SPIFFE_ENDPOINT_SOCKET, "unix:///s"), (vars::NSM_SERVICE_NAMES, "finance")];
        let all = given.iter().chain(pairs).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Nse::read(&all.collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn the_defaults_are_upstreams() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.ipam_policy, IpamPolicy::Polite);
        assert_eq!((settings.dns_configs.len(), settings.policy_routes), (0, None));
        assert_eq!((settings.endpoint.idle_timeout, settings.endpoint.unregister_itself), (None, false));
        assert_eq!(settings.endpoint.payload, "ETHERNET");
    }

    #[test]
    fn dns_servers_are_read_as_upstream_writes_them() {
        let text = r#"[{"dns_server_ips": ["10.0.0.1", "fd00::1"], "search_domains": ["a.b"]}, {}]"#;
        let settings = read(&[(vars::NSM_DNS_CONFIGS, text), (vars::NSM_IDLE_TIMEOUT, "0")]).unwrap();
        assert_eq!(settings.dns_configs[0].dns_server_ips.len(), 2);
        assert_eq!(settings.dns_configs[0].search_domains, ["a.b"]);
        assert_eq!(settings.endpoint.idle_timeout, None);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_could() {
        let errors = read(&[
            (vars::NSM_IPAM_POLICY, "rude"),
            (vars::NSM_DNS_CONFIGS, r#"[{"dns_server_ips": ["nowhere"]}]"#),
            (vars::NSM_PBR_CONFIG_PATH, "/no/such/file"),
            (vars::NSM_IDLE_TIMEOUT, "never"),
        ]);
        let errors = errors.unwrap_err().to_string();
        for part in [
            "NSM_IPAM_POLICY=\"rude\" is not allowed: polite or strict",
            "NSM_DNS_CONFIGS=",
            "NSM_PBR_CONFIG_PATH=\"/no/such/file\"",
            "NSM_IDLE_TIMEOUT=\"never\"",
        ] {
            assert!(errors.contains(part), "{part} in {errors}");
        }
    }
}
