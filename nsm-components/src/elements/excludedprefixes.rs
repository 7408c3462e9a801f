//! `excludedprefixes`: addresses that no endpoint shall hand out, because the cluster uses them; a
//! file names them (protocol §4.5).
//!
//! Every Request looks whether the file is another one than before, which is one `stat`, and reads it
//! only then. So an edit counts from the next Request on, however the file is replaced.

use std::{fs, io, os::unix::fs::MetadataExt, path::PathBuf};

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde::Deserialize;
use tracing::{info, warn};

use crate::chain::{Cx, Element, Next, Reply, Request, Result};

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct ExcludedPrefixes {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    stamp: Option<Stamp>,
    prefixes: Vec<String>,
}

/// What changes with a file: device, inode, size, and seconds and nanoseconds of its last change.
type Stamp = (u64, u64, u64, i64, i64);

/// The form of the file.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    prefixes: Vec<String>,
}

/// The prefixes that can be read, put together as far as they touch.
fn normalize(texts: &[String]) -> Vec<String> {
    let read = |text: &String| {
        let prefix = text.trim().parse::<IpNet>();
        prefix.inspect_err(|_| warn!(%text, "is no prefix; the others count")).ok()
    };
    let prefixes: Vec<IpNet> = texts.iter().filter_map(read).collect();
    IpNet::aggregate(&prefixes).iter().map(ToString::to_string).collect()
}

// === impl ExcludedPrefixes ===

impl ExcludedPrefixes {
    /// Excludes what this file names. While there is none, nothing is excluded.
    pub fn new(file: PathBuf) -> Self {
        Self { file, known: Mutex::default() }
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        match fs::metadata(&self.file) {
            Ok(file) => Ok(Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, stamp: Option<Stamp>) -> std::result::Result<Vec<String>, String> {
        let Some((_, _, size, ..)) = stamp else { return Ok(Vec::new()) };
        if size > MAX_BYTES {
            return Err(format!("it has {size} bytes; {MAX_BYTES} are allowed"));
        }
        let text = fs::read_to_string(&self.file).map_err(|error| error.to_string())?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let file: File = serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
        Ok(normalize(&file.prefixes))
    }

    /// What is excluded now. A file that cannot be used leaves it as it was.
    fn now(&self) -> Vec<String> {
        let mut known = self.known.lock();
        let stamp = match self.stamp() {
            Ok(stamp) => stamp,
            Err(error) => {
                warn!(file = %self.file.display(), %error, "cannot look at the excluded prefixes");
                return known.prefixes.clone();
            }
        };
        if known.stamp != stamp {
            known.stamp = stamp;
            match self.read(stamp) {
                Ok(prefixes) => {
                    info!(file = %self.file.display(), prefixes = prefixes.join(","), "prefixes are excluded");
                    known.prefixes = prefixes;
                }
                Err(error) => {
                    warn!(file = %self.file.display(), error, "the excluded prefixes stay as they were");
                }
            }
        }
        known.prefixes.clone()
    }
}

#[async_trait]
impl Element for ExcludedPrefixes {
    fn name(&self) -> &'static str {
        "excludedprefixes"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        // Also where nothing is excluded: endpoints of upstream need an IP context.
        let context = request.connection.context.get_or_insert_default();
        let excluded = &mut context.ip_context.get_or_insert_default().excluded_prefixes;
        for prefix in self.now() {
            if !excluded.contains(&prefix) {
                excluded.push(prefix);
            }
        }
        next.request(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::chain::Chain;

    #[tokio::test]
    async fn a_request_goes_on_with_an_ip_context_whatever_is_excluded() {
        let element = ExcludedPrefixes::new("/nowhere/excluded.yaml".into());
        let chain = Chain::new([Arc::new(element) as Arc<dyn Element>]);
        let cx = Cx::within(Duration::from_secs(1));
        let reply = chain.start().request(&cx, Request::default()).await.unwrap();
        assert!(reply.connection.context.unwrap().ip_context.unwrap().excluded_prefixes.is_empty());
    }

    #[tokio::test]
    async fn what_the_file_names_now_is_excluded_merged_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("excluded.yaml");
        let chain = Chain::new([Arc::new(ExcludedPrefixes::new(file.clone())) as Arc<dyn Element>]);
        let mut request = Request::default();
        let context = request.connection.context.get_or_insert_default();
        context.ip_context.get_or_insert_default().excluded_prefixes = vec!["10.96.0.0/12".into()];
        let excluded = async || {
            let reply = chain.start().request(&Cx::within(Duration::from_secs(1)), request.clone()).await;
            reply.unwrap().connection.context.unwrap().ip_context.unwrap().excluded_prefixes
        };
        assert_eq!(excluded().await, ["10.96.0.0/12"], "without a file there is what the client says");
        let replace = |text: &str| {
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(new, &file).unwrap();
        };
        replace("prefixes: [\"172.16.0.0/17\", 172.16.128.0/17, 10.96.0.0/12, nonsense, \"fd00::/64\"]\n");
        assert_eq!(excluded().await, ["10.96.0.0/12", "172.16.0.0/16", "fd00::/64"]);
        replace("prefixes: {this is: no list}\n");
        assert_eq!(excluded().await.len(), 3, "what cannot be read changes nothing");
        replace("");
        assert_eq!(excluded().await.len(), 1);
        replace("prefixes:\n- 192.168.0.0/24\n");
        assert_eq!(excluded().await[1], "192.168.0.0/24");
        fs::remove_file(&file).unwrap();
        assert_eq!(excluded().await.len(), 1);
    }
}
