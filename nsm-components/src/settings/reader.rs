//! Reading variables one by one, whatever is wrong with those before.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Errors, LogLevel, NsmUrl, ObjectRef, SettingError, Shown, Target, UrlError, Vars, duration, loglevel,
    vars,
};

/// Reads variables and collects what is wrong with them.
pub(crate) struct Reader<'a> {
    pub(super) vars: &'a dyn Vars,
    pub(super) errors: Vec<SettingError>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(vars: &'a dyn Vars) -> Self {
        Self { vars, errors: Vec::new() }
    }

    /// The settings, or everything that was wrong.
    pub(crate) fn finish<T>(self, settings: T) -> Result<T, Errors> {
        if self.errors.is_empty() { Ok(settings) } else { Err(Errors(self.errors)) }
    }

    pub(super) fn refuse(&mut self, name: &str, value: &str, allowed: impl Into<String>) {
        self.errors.push(SettingError { name: name.into(), value: value.into(), allowed: allowed.into() });
    }

    pub(crate) fn text(&mut self, name: &str, default: &str) -> String {
        self.vars.get(name).unwrap_or_else(|| default.to_owned())
    }

    /// A value that reads by `parse`; the default stands in when the variable is absent or bad.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        default: T,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        let Some(value) = self.vars.get(name) else { return default };
        parse(value.trim()).unwrap_or_else(|| {
            self.refuse(name, &value, allowed);
            default
        })
    }

    pub(crate) fn duration(&mut self, name: &str, default: Duration) -> Duration {
        self.read(name, default, "a positive duration such as 200ms, 15s or 10m", |text| {
            duration::parse(text).filter(|duration| !duration.is_zero())
        })
    }

    /// A duration; `None` when it is absent or zero.
    pub(crate) fn duration_or_never(&mut self, name: &str) -> Option<Duration> {
        self.read(name, None, "a duration such as 30s or 10m, or 0 for never", |text| match text {
            "0" => Some(None),
            text => {
                let duration = duration::parse(text)?;
                Some((!duration.is_zero()).then_some(duration))
            }
        })
    }

    pub(crate) fn flag(&mut self, name: &str, default: bool) -> bool {
        self.read(name, default, "true or false", |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        })
    }

    /// A parsed value that may be absent; empty counts as absent.
    pub(crate) fn optional<T: FromStr>(&mut self, name: &str, allowed: &str) -> Option<T> {
        self.read(
            name,
            None,
            allowed,
            |text| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) },
        )
    }

    pub(crate) fn port(&mut self, name: &str, default: u16) -> u16 {
        self.read(name, default, "a UDP port from 1 to 65535; 0 means the default", |text| {
            text.parse().ok().map(|port| if port == 0 { default } else { port })
        })
    }

    pub(crate) fn log_level(&mut self) -> LogLevel {
        let text = self.text(vars::NSM_LOG_LEVEL, "INFO");
        text.parse().unwrap_or_else(|error: loglevel::NoLevel| {
            self.refuse(vars::NSM_LOG_LEVEL, &text, error.to_string());
            LogLevel::default()
        })
    }

    /// Where figures are shown: nowhere when it is empty.
    pub(crate) fn shown(&mut self, name: &str, default: &str) -> Shown {
        let by_default = self.vars.get(name).is_none();
        let text = self.text(name, default);
        if text.trim().is_empty() {
            return Shown { target: None, by_default };
        }
        let private = |target: &Target| match target {
            Target::Unix(_) => true,
            Target::Tcp(address) => {
                address.parse().is_ok_and(|address: SocketAddr| address.ip().is_loopback())
            }
        };
        let target = text.parse().ok().filter(private);
        if target.is_none() {
            let allowed = "unix://<path>, tcp://127.0.0.1:<port> or nothing: they are for this host alone";
            self.refuse(name, &text, allowed);
        }
        Shown { target, by_default }
    }

    /// A number in a range.
    pub(crate) fn count(&mut self, name: &str, default: usize, range: RangeInclusive<usize>) -> usize {
        let allowed = format!("a number from {} to {}", range.start(), range.end());
        self.read(name, default, &allowed, |text| text.parse().ok().filter(|count| range.contains(count)))
    }

    pub(crate) fn ip(&mut self, name: &str) -> Option<IpAddr> {
        self.optional(name, "an IP address of this node")
    }

    /// Comma-separated values.
    pub(crate) fn list<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, default: &str) -> Vec<T> {
        let text = self.text(name, default);
        let mut items = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.parse() {
                Ok(item) => items.push(item),
                Err(error) => self.refuse(name, item, format!("{error}")),
            }
        }
        items
    }

    /// `key:value,key2:value2`.
    pub(crate) fn map(&mut self, name: &str, default: &str) -> BTreeMap<String, String> {
        let text = self.text(name, default);
        let mut map = BTreeMap::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            match item.split_once([':', '=']) {
                Some((key, value)) if !key.is_empty() => {
                    map.insert(key.trim().to_owned(), value.trim().to_owned());
                }
                _ => self.refuse(name, item, "a list such as key:value,key2:value2"),
            }
        }
        map
    }

    pub(crate) fn target(&mut self, name: &str, default: &str) -> Target {
        let text = self.text(name, default);
        text.parse().unwrap_or_else(|error: UrlError| {
            self.refuse(name, &text, error.to_string());
            Target::Unix(PathBuf::new())
        })
    }

    /// The socket of the Workload API: a unix socket, by which the agent knows who asks.
    pub(crate) fn socket(&mut self, name: &str) -> Target {
        let target = self.target(name, "");
        if let Target::Tcp(_) = target {
            self.refuse(name, &target.to_string(), "a unix socket: use unix:///path");
        }
        target
    }

    /// Where to listen.
    pub(crate) fn listen(&mut self, name: &str, default: &str) -> Target {
        let target = self.target(name, default);
        self.check_listen(name, &target);
        target
    }

    /// The same, in a list.
    pub(crate) fn listen_list(&mut self, name: &str, default: &str) -> Vec<Target> {
        let targets: Vec<Target> = self.list(name, default);
        for target in &targets {
            self.check_listen(name, target);
        }
        targets
    }

    pub(super) fn check_listen(&mut self, name: &str, target: &Target) {
        if !target.is_own() {
            let allowed = "unix:///path, tcp://ip:port or tcp://:port; names are not looked up to listen";
            self.refuse(name, &target.to_string(), allowed);
        }
    }

    /// `namespace/name` of an object on the API server.
    pub(crate) fn object(&mut self, name: &str, default: &str) -> ObjectRef {
        let text = self.text(name, default);
        match text.split_once('/') {
            Some((namespace, object)) if !namespace.is_empty() && !object.is_empty() => {
                ObjectRef { namespace: namespace.into(), name: object.into() }
            }
            _ => {
                self.refuse(name, &text, "namespace/name of an object");
                ObjectRef { namespace: String::new(), name: String::new() }
            }
        }
    }

    /// A name that must not be empty.
    pub(crate) fn name(&mut self, name: &str, default: &str) -> String {
        let text = self.text(name, default);
        if text.trim().is_empty() {
            self.refuse(name, &text, "a name of at least one character");
        }
        text
    }

    pub(crate) fn prefixes(&mut self, name: &str, default: &str) -> Vec<Vec<IpNet>> {
        let text = self.text(name, default);
        parse_groups(&text).unwrap_or_else(|bad| {
            self.refuse(name, &bad, "IP prefixes such as 172.16.0.0/24, or [172.16.0.0/24,fd00::/64]");
            Vec::new()
        })
    }

    pub(crate) fn url_groups(&mut self, name: &str) -> Vec<Vec<NsmUrl>> {
        let text = self.text(name, "");
        parse_groups(&text).unwrap_or_else(|bad| {
            self.refuse(name, &bad, "groups of NSM URLs such as [kernel://a/nsm-1,kernel://b/nsm-2]");
            Vec::new()
        })
    }
}

/// Items in groups: `[a,b],c` is one group of two and one of one (protocol §6.8).
pub(super) fn parse_groups<T: FromStr>(text: &str) -> Result<Vec<Vec<T>>, String> {
    let mut groups = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (group, after) = if let Some(inner) = rest.strip_prefix('[') {
            inner.split_once(']').ok_or_else(|| rest.to_owned())?
        } else {
            rest.split_once(',').map_or((rest, ""), |(group, _)| (group, &rest[group.len()..]))
        };
        let items = group.split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Result<Vec<T>, _> = items.map(|item| item.parse().map_err(|_| item.to_owned())).collect();
        groups.push(items?);
        rest = after.trim().trim_start_matches(',').trim();
    }
    groups.retain(|group: &Vec<T>| !group.is_empty());
    Ok(groups)
}
