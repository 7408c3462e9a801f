//! `resolv.conf` (resolv.conf(5)): what it says, how it is led to another server, and back.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    path::Path,
};

/// Stands before each line that was there before.
const BEFORE: &str = "#nsm#";

/// Most domains that are searched: more make every unknown name slow.
const MAX_DOMAINS: usize = 32;

/// The text of such a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf(String);

impl ResolvConf {
    /// This text.
    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether it was led somewhere else.
    pub(super) fn is_ours(&self) -> bool {
        self.0.lines().any(|line| line.starts_with(BEFORE))
    }

    /// As it was before it was led somewhere else.
    pub(super) fn original(&self) -> Self {
        if !self.is_ours() {
            return self.clone();
        }
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(BEFORE));
        Self(lines.flat_map(|line| [line, "\n"]).collect())
    }

    /// Led to this server, with further domains to search. The lines before stay as comments.
    pub(super) fn led_to<'a>(&self, server: IpAddr, domains: impl IntoIterator<Item = &'a str>) -> Self {
        let mut search: Vec<&str> = self.values("search").collect();
        for domain in domains {
            let domain = domain.trim_matches('.');
            if is_domain(domain) && !search.contains(&domain) {
                search.push(domain);
            }
        }
        search.truncate(MAX_DOMAINS);
        let mut lines: Vec<String> = self.0.lines().map(|line| format!("{BEFORE}{line}")).collect();
        if lines.is_empty() {
            // What was empty is known to be ours as well.
            lines.push(BEFORE.to_owned());
        }
        let options: Vec<&str> = self.values("options").collect();
        for (keyword, values) in [("search", search), ("options", options)] {
            if !values.is_empty() {
                lines.push(format!("{keyword} {}", values.join(" ")));
            }
        }
        lines.push(format!("nameserver {server}\n"));
        Self(lines.join("\n"))
    }

    /// The servers it names.
    pub(super) fn nameservers(&self) -> impl Iterator<Item = IpAddr> {
        self.values("nameserver").filter_map(|ip| ip.parse().ok())
    }

    /// What stands on the lines of a keyword. Of `search` the last line counts.
    fn values<'a>(&'a self, keyword: &'a str) -> impl Iterator<Item = &'a str> {
        let lines = self.0.lines().filter_map(move |line| {
            let mut words = line.split_whitespace();
            (words.next() == Some(keyword)).then_some(words)
        });
        let lines: Vec<_> = lines.collect();
        let skipped = if keyword == "search" { lines.len().saturating_sub(1) } else { 0 };
        lines.into_iter().skip(skipped).flatten()
    }
}

/// Whether it may stand in the file: others gave it.
fn is_domain(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !text.is_empty() && text.len() <= 253 && text.chars().all(allowed)
}

/// Reads the file.
pub(super) fn read(path: &Path) -> io::Result<ResolvConf> {
    fs::read_to_string(path).map(ResolvConf)
}

/// Writes it in place: in a pod it is a mount, which cannot be replaced.
pub(super) fn write(path: &Path, conf: &ResolvConf) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all(conf.0.as_bytes())?;
    // Cut last: who reads meanwhile finds too much rather than nothing.
    file.set_len(conf.0.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# of the pod\nsearch a.local b.local\nnameserver 10.96.0.10\noptions ndots:5\n";

    fn server() -> IpAddr {
        "127.0.0.1".parse().unwrap()
    }

    #[test]
    fn a_file_that_is_led_elsewhere_keeps_its_domains_and_options() {
        let led = ResolvConf::of(TEXT)
            .led_to(server(), ["corp.", "b.local", "bad domain", "x\nnameserver 6.6.6.6"]);
        let active: Vec<_> = led.0.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(active, ["search a.local b.local corp", "options ndots:5", "nameserver 127.0.0.1"]);
        assert_eq!(led.nameservers().collect::<Vec<_>>(), [server()]);
    }

    #[test]
    fn it_comes_back_byte_by_byte_however_often_it_was_led() {
        for text in [TEXT, "nameserver 1.1.1.1\n"] {
            let before = ResolvConf::of(text);
            let once = before.led_to(server(), ["corp"]);
            let twice = once.original().led_to(server(), ["other"]);
            assert!(once.is_ours() && !before.is_ours());
            assert_eq!(twice.original(), before);
            assert_eq!(before.original(), before);
        }
        assert!(ResolvConf::of("").led_to(server(), []).is_ours());
    }

    #[test]
    fn a_shorter_file_leaves_nothing_of_the_longer_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        for text in [TEXT, "nameserver 1.1.1.1\n"] {
            write(&path, &ResolvConf::of(text)).unwrap();
            assert_eq!(read(&path).unwrap(), ResolvConf::of(text));
        }
    }
}
