//! What the API server was asked, by its own record.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde::Deserialize;

use super::eventually;

/// The audit log of a control plane.
#[derive(Clone)]
pub struct Audit {
    path: PathBuf,
    client: Client,
}

/// A place in the log, by default its beginning: everything before it was answered before the mark
/// was set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark(u64);

/// One request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// get, list, watch, create, update, patch, delete or deletecollection.
    pub verb: String,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// Who says to have asked.
    pub user_agent: String,
    /// When it came.
    #[serde(rename = "requestReceivedTimestamp")]
    pub at: Option<Timestamp>,
    /// When it was answered.
    #[serde(rename = "stageTimestamp")]
    pub answered: Option<Timestamp>,
    user: User,
    #[serde(rename = "objectRef")]
    object: Object,
    stage: String,
    #[serde(rename = "responseStatus")]
    answer: Answer,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[serde(rename_all = "camelCase")]
struct Object {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    code: u16,
}

/// Requests in the order of their answers.
#[derive(Clone, Debug)]
pub struct Requests(Vec<Request>);

// === impl Audit ===

impl Audit {
    pub(super) fn new(path: PathBuf, client: Client) -> Self {
        Self { path, client }
    }

    /// Marks the log as it is now.
    pub async fn mark(&self) -> Result<Mark> {
        Ok(self.fence(Mark(0)).await?.0)
    }

    /// What this user has asked since the mark, up to now. A watch counts when it is opened,
    /// everything else when it is answered. Leases do not count: who leads renews its own for ever.
    pub async fn of(&self, user: &str, since: Mark) -> Result<Requests> {
        Ok(self.all_of(user, since).await?.filter(|request| !request.is_about("leases")))
    }

    /// The same about Leases alone.
    pub async fn of_leases(&self, user: &str, since: Mark) -> Result<Requests> {
        Ok(self.all_of(user, since).await?.filter(|request| request.is_about("leases")))
    }

    async fn all_of(&self, user: &str, since: Mark) -> Result<Requests> {
        let (_, requests) = self.fence(since).await?;
        Ok(Requests(requests).filter(|request| request.user.username == user))
    }

    /// Makes a request that is found again, and reads the log from a mark up to it. Lines come a
    /// few milliseconds after their answers.
    async fn fence(&self, from: Mark) -> Result<(Mark, Vec<Request>)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let query = format!("fence={}.", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut request =
            kube::core::Request::new("/version").get("fence", &kube::api::GetParams::default())?;
        *request.uri_mut() = format!("/version?{query}").parse()?;
        self.client.request_text(request).await.context("ask for the version")?;
        eventually("own request in the audit log", async || self.read_to(from, &query)).await
    }

    fn read_to(&self, from: Mark, query: &str) -> Result<(Mark, Vec<Request>)> {
        let mut file = File::open(&self.path).context("the audit log")?;
        file.seek(SeekFrom::Start(from.0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let found = text.find(query).context("not there yet")?;
        let end = found + text[found..].find('\n').context("not whole yet")? + 1;
        let lines = text[..end].lines().map(serde_json::from_str::<Request>);
        let lines = lines.collect::<Result<Vec<_>, _>>().context("a line of the audit log")?;
        let counted = |request: &Request| (request.verb == "watch") == (request.stage == "ResponseStarted");
        Ok((Mark(from.0 + u64::try_from(end)?), lines.into_iter().filter(counted).collect()))
    }
}

// === impl Requests ===

impl Requests {
    /// Those that would change something. Events, which only tell of changes, are not among them.
    #[must_use]
    pub fn writes(self) -> Self {
        const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];
        self.filter(|request| WRITES.contains(&request.verb.as_str()) && !request.is_about("events"))
    }

    /// Those that were granted.
    #[must_use]
    pub fn granted(self) -> Self {
        self.filter(|request| request.code() < 300)
    }

    /// Those with this property.
    #[must_use]
    pub fn filter(self, property: impl FnMut(&Request) -> bool) -> Self {
        Self(self.0.into_iter().filter(property).collect())
    }

    /// The requests themselves.
    pub fn iter(&self) -> impl Iterator<Item = &Request> {
        self.0.iter()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What each was about, for comparing and for people.
    pub fn words(&self) -> Vec<String> {
        self.0.iter().map(Request::words).collect()
    }

    /// Fails unless there are none.
    pub fn ensure_none(&self, what: &str) -> Result<()> {
        ensure!(self.0.is_empty(), "{what}: {:#?}", self.words());
        Ok(())
    }
}

/// The name of a node daemon, without the revision that its DaemonSet has.
pub fn without_revision(name: &str) -> &str {
    let revision = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.rsplit_once('-').filter(|(_, end)| revision(end)).map_or(name, |(daemon, _)| daemon)
}

// === impl Request ===

impl Request {
    /// Verb and object, such as `patch nsmconfigs/status default` or `patch daemonsets nsm-system/nsmgr`. Of
    /// a DaemonSet the revision in its name is left off.
    pub fn words(&self) -> String {
        let Object { resource, subresource, namespace, name, .. } = &self.object;
        let name = if resource == "daemonsets" { without_revision(name) } else { name };
        let part = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
        let place = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let refused = if self.code() < 300 { String::new() } else { format!(" ({})", self.code()) };
        format!("{} {resource}{part} {place}{name}{refused}", self.verb)
    }

    /// Kind and name, such as `services registry`.
    pub fn object(&self) -> String {
        format!("{} {}", self.object.resource, self.object.name)
    }

    /// Group and kind, such as `apps` and `daemonsets/status`.
    pub fn about(&self) -> (String, String) {
        let Object { api_group, resource, subresource, .. } = &self.object;
        let part = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
        (api_group.clone(), format!("{resource}{part}"))
    }

    /// Whether it is about objects of this kind.
    pub fn is_about(&self, resource: &str) -> bool {
        self.object.resource == resource
    }

    /// Whether it is about the status alone.
    pub fn is_status(&self) -> bool {
        self.object.subresource == "status"
    }

    /// Code of the answer.
    pub fn code(&self) -> u16 {
        self.answer.code
    }
}
