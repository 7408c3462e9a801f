//! The two kinds of URLs in settings: where a peer is, and which network service a client wants.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr};

/// A URL that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither a unix socket nor a TCP address.
    #[error("use unix:///path, tcp://host:port or host:port")]
    NoTarget,
    /// No network service in an NSM URL.
    #[error("use kernel://service, with /interface and ?label=value as needed")]
    NoService,
    /// A mechanism that nobody knows.
    #[error("the mechanism {0:?} is none of NSM's; use kernel://")]
    Mechanism(String),
    /// An interface name the kernel would refuse.
    #[error("the interface name {0:?} needs 1 to 15 bytes without blanks, '/' or ':'")]
    Interface(String),
}

/// Where a peer is (protocol §1.8).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A unix socket by path.
    Unix(PathBuf),
    /// `host:port`; the host may be a name.
    Tcp(String),
}

impl FromStr for Target {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(UrlError::NoTarget) };
        }
        let address = text.strip_prefix("tcp://").unwrap_or(text);
        match address.rsplit_once(':') {
            Some((host, port)) if !host.contains('/') && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(address.to_owned()))
            }
            _ => Err(UrlError::NoTarget),
        }
    }
}

impl Target {
    /// Whether one can listen there: the host is no name.
    pub fn is_own(&self) -> bool {
        let Self::Tcp(address) = self else { return true };
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.is_empty() || host.parse::<IpAddr>().is_ok()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

/// Types of mechanisms between an application and its forwarder (protocol §6.1).
const MECHANISMS: [&str; 4] = ["KERNEL", "MEMIF", "VFIO", "NOOP"];

/// What a client asks for: `kernel://service[@domain][/interface][?label=value&…]` (protocol §6.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NsmUrl {
    /// Type of the mechanism: the scheme in upper case.
    pub mechanism: String,
    /// Network service, with its domain if one is given.
    pub network_service: String,
    /// Interface name in the client; made up when absent.
    pub interface: Option<String>,
    /// Labels of the connection.
    pub labels: BTreeMap<String, String>,
}

impl FromStr for NsmUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("kernel://{text}") };
        let url = url::Url::parse(&with_scheme).map_err(|_| UrlError::NoService)?;
        let mechanism = url.scheme().to_ascii_uppercase();
        if !MECHANISMS.contains(&mechanism.as_str()) {
            return Err(UrlError::Mechanism(url.scheme().to_owned()));
        }
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(UrlError::NoService)?;
        let network_service =
            if url.username().is_empty() { host.to_owned() } else { format!("{}@{host}", url.username()) };
        let interface = url.path().rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_owned);
        if let Some(name) = &interface
            && (name.len() > 15 || name.contains([':', ' ', '%']) || name == "." || name == "..")
        {
            return Err(UrlError::Interface(name.clone()));
        }
        let mut labels: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in url.query_pairs() {
            labels
                .entry(key.into_owned())
                .and_modify(|all| {
                    all.push(',');
                    all.push_str(&value);
                })
                .or_insert_with(|| value.into_owned());
        }
        Ok(Self { mechanism, network_service, interface, labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_upstream_writes_them() {
        let unix = Target::Unix("/a/b.sock".into());
        assert_eq!("unix:///a/b.sock".parse(), Ok(unix.clone()));
        assert_eq!("unix:/a/b.sock".parse(), Ok(unix));
        for text in ["registry:5002", "tcp://registry:5002"] {
            assert_eq!(text.parse(), Ok(Target::Tcp("registry:5002".into())));
        }
        assert_eq!("10.0.0.1:5002".parse(), Ok(Target::Tcp("10.0.0.1:5002".into())));
        assert_eq!("tcp://[fd00::1]:5002".parse(), Ok(Target::Tcp("[fd00::1]:5002".into())));
        for text in ["", "registry", "unix://relative", "ftp://x", "tcp://host:port"] {
            assert_eq!(text.parse::<Target>(), Err(UrlError::NoTarget), "{text}");
        }
    }

    #[test]
    fn an_nsm_url_names_service_domain_interface_and_labels() {
        let url: NsmUrl = "kernel://finance@bank/nsm-1?app=a&app=b&x=".parse().unwrap();
        assert_eq!(url.network_service, "finance@bank");
        assert_eq!(url.interface.as_deref(), Some("nsm-1"));
        assert_eq!(url.labels, BTreeMap::from([("app".into(), "a,b".into()), ("x".into(), String::new())]));
        assert_eq!("finance".parse::<NsmUrl>().unwrap().interface, None);
    }

    #[test]
    fn an_nsm_url_that_cannot_work_says_why() {
        assert_eq!("http://x".parse::<NsmUrl>(), Err(UrlError::Mechanism("http".into())));
        assert_eq!("kernel://".parse::<NsmUrl>(), Err(UrlError::NoService));
        assert!(matches!("kernel://x/sixteen-bytes-xx".parse::<NsmUrl>(), Err(UrlError::Interface(_))));
    }

    /// Upstream's published request URLs, one annotation a line.
    const PUBLISHED: &str = include_str!("../../tests/data/upstream-request-urls.txt");

    #[test]
    fn published_request_urls_name_what_stands_in_them() {
        let lines = PUBLISHED.lines().filter(|line| !line.starts_with('#'));
        let urls: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
        assert_eq!(urls.len(), 68);
        for text in &urls {
            let url: NsmUrl = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            let (mechanism, rest) = text.split_once("://").unwrap();
            let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
            let (service, interface) = rest.split_once('/').map_or((rest, None), |(s, i)| (s, Some(i)));
            let labels = query.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(url.mechanism.to_ascii_lowercase(), mechanism, "{text}");
            assert_eq!(url.network_service, service, "{text}");
            assert_eq!(url.interface.as_deref(), interface, "{text}");
            assert_eq!(url.labels, labels.into_iter().collect(), "{text}");
        }
        let schemes = |scheme| urls.iter().filter(|url| url.starts_with(scheme)).count();
        assert_eq!([schemes("kernel:"), schemes("memif:"), schemes("vfio:")], [59, 8, 1]);
    }

    #[test]
    fn a_port_in_an_nsm_url_says_nothing() {
        assert_eq!("kernel://finance:80/nsm-1".parse::<NsmUrl>().unwrap().network_service, "finance");
    }
}
