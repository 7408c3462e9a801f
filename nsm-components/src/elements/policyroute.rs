//! `policyroute`: hands the policy routes of a file to clients (protocol §4.5). The file is read at
//! every Request, so a change reaches every client with its next refresh.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, de::Visitor};
use tokio::io::AsyncReadExt;
use tracing::warn;

use crate::{
    api::connectioncontext::{IpContext, PolicyRoute as Policy, Route},
    chain::{Cx, Element, Next, Reply, Request, Result},
};

/// Most bytes of a file that are read.
const MAX_BYTES: u64 = 256 << 10;

/// Why policy routes cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyRouteError {
    /// The file cannot be read.
    #[error("cannot read the policy routes {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is very large.
    #[error(
        "the policy routes {path:?} have more than {MAX_BYTES} bytes, the most that are read: name fewer"
    )]
    Large {
        /// The file.
        path: PathBuf,
    },
    /// It is something else.
    #[error(
        "{path:?} is no list of policy routes with from, proto, dstport, srcport and routes of prefix and nexthop"
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// See the module.
#[derive(Debug)]
pub struct PolicyRoute {
    path: PathBuf,
    /// As they could be read last.
    last: Mutex<Vec<Policy>>,
}

/// One entry of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    from: Text,
    #[serde(default)]
    proto: Text,
    /// `port` is how upstream called it first.
    #[serde(default, alias = "dst_port", alias = "dstPort", alias = "port")]
    dstport: Text,
    #[serde(default, alias = "src_port", alias = "srcPort")]
    srcport: Text,
    #[serde(default)]
    routes: Vec<Via>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Via {
    prefix: Text,
    #[serde(default, alias = "nextHop", alias = "next_hop")]
    nexthop: Text,
}

/// Text, or a number that stands for it: people write ports without quotes.
#[derive(Default)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text or a number")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Text, E> {
                Ok(Text(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> std::result::Result<Text, E> {
                Ok(Text(number.to_string()))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> std::result::Result<Text, E> {
                u64::try_from(number).map_err(E::custom).and_then(|number| self.visit_u64(number))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

fn parse(text: &str) -> std::result::Result<Vec<Policy>, Box<dyn std::error::Error + Send + Sync>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let entries: Vec<Entry> = serde_saphyr::from_str(text)?;
    let route = |via: Via| Route { prefix: via.prefix.0, next_hop: via.nexthop.0 };
    let policies = entries.into_iter().map(|entry| Policy {
        from: entry.from.0,
        proto: entry.proto.0,
        dst_port: entry.dstport.0,
        src_port: entry.srcport.0,
        routes: entry.routes.into_iter().map(route).collect(),
    });
    Ok(policies.collect())
}

async fn read(path: &Path) -> std::result::Result<Vec<Policy>, PolicyRouteError> {
    let failed = |source| PolicyRouteError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).await.map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(PolicyRouteError::Large { path: path.to_owned() });
    }
    parse(&text).map_err(|source| PolicyRouteError::Parse { path: path.to_owned(), source })
}

/// Replaces the policies; addresses that packets of the old ones came from go with them.
fn replace(context: &mut IpContext, policies: Vec<Policy>) {
    let old = std::mem::take(&mut context.policies);
    context.src_ip_addrs.retain(|address| !old.iter().any(|policy| policy.from == *address));
    for policy in &policies {
        if !policy.from.is_empty() && !context.src_ip_addrs.contains(&policy.from) {
            context.src_ip_addrs.push(policy.from.clone());
        }
    }
    context.policies = policies;
}

impl PolicyRoute {
    /// The policy routes of this file, which can be read now.
    pub async fn new(path: PathBuf) -> std::result::Result<Self, PolicyRouteError> {
        let last = Mutex::new(read(&path).await?);
        Ok(Self { path, last })
    }
}

#[async_trait]
impl Element for PolicyRoute {
    fn name(&self) -> &'static str {
        "policyroute"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let policies = match read(&self.path).await {
            Ok(policies) => {
                self.last.lock().clone_from(&policies);
                policies
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                warn!(%error, cause, "the policy routes stay as they were");
                self.last.lock().clone()
            }
        };
        let context = request.connection.context.get_or_insert_default().ip_context.get_or_insert_default();
        replace(context, policies);
        next.request(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc, time::Duration};

    use super::*;
    use crate::chain::Chain;

    const FILE: &str = "---
- from: 172.16.2.201/24
  proto: 6
  dstport: 6666
  routes:
  - prefix: 172.16.3.0/24
    nexthop: 172.16.2.200
- proto: 17
  port: \"6666-6668\"
- srcport: 5555
";

    #[test]
    fn upstreams_file_is_read_with_numbers_and_with_texts() {
        let policies = parse(FILE).unwrap();
        assert_eq!((policies[0].proto.as_str(), policies[0].dst_port.as_str()), ("6", "6666"));
        assert_eq!(policies[0].routes[0].next_hop, "172.16.2.200");
        assert_eq!((policies[1].dst_port.as_str(), policies[2].src_port.as_str()), ("6666-6668", "5555"));
        assert_eq!(parse("\n").unwrap(), []);
        assert!(parse("- form: 172.16.2.201/24").unwrap_err().to_string().contains("form"));
    }

    #[tokio::test]
    async fn a_changed_file_replaces_the_policies_and_a_broken_one_leaves_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        fs::write(&path, FILE).unwrap();
        let chain = Chain::new([Arc::new(PolicyRoute::new(path.clone()).await.unwrap()) as Arc<dyn Element>]);
        let cx = Cx::within(Duration::from_secs(1));
        let mut connection = crate::api::Connection::default();
        let context = connection.context.get_or_insert_default().ip_context.get_or_insert_default();
        context.src_ip_addrs.push("172.16.1.1/32".into());
        let mut seen = Vec::new();
        for text in [FILE, "- from: 10.0.0.1/32", "[", ""] {
            fs::write(&path, text).unwrap();
            let request = Request { connection, ..Request::default() };
            connection = chain.start().request(&cx, request).await.unwrap().connection;
            let context = connection.context.clone().unwrap().ip_context.unwrap();
            seen.push((context.policies.len(), context.src_ip_addrs[1..].join(",")));
        }
        let texts = ["172.16.2.201/24", "10.0.0.1/32", "10.0.0.1/32", ""];
        assert_eq!(seen, [3, 1, 1, 0].into_iter().zip(texts.map(str::to_owned)).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_file_that_is_missing_or_wrong_at_the_start_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let missing = PolicyRoute::new(path.clone()).await.unwrap_err();
        assert!(missing.to_string().contains("config.yaml"), "{missing}");
        fs::write(&path, "from: x").unwrap();
        assert!(matches!(PolicyRoute::new(path).await, Err(PolicyRouteError::Parse { .. })));
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_is_refused_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let most = usize::try_from(MAX_BYTES).unwrap();
        let comment = |bytes: usize| format!("#{}", " ".repeat(bytes - 1));
        fs::write(&path, comment(most) + "\n- from: 10.0.0.1/32").unwrap();
        let large = PolicyRoute::new(path.clone()).await.unwrap_err().to_string();
        assert!(large.contains("config.yaml") && large.contains("262144"), "{large}");
        fs::write(&path, comment(most)).unwrap();
        PolicyRoute::new(path).await.unwrap();
    }
}
