//! Follows objects: one list, then one watch, opened again where it was when it ends. kube's own watcher
//! does not tell when a watch is open again, and so not whether what is known may be old.

use std::{pin::pin, time::Duration};

use futures::StreamExt;
use kube::{
    Api,
    api::{DynamicObject, ListParams, WatchEvent, WatchParams},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{api::with_causes, elements::registry::Reach};

/// Objects a page of a list.
const PAGE: u32 = 500;

/// Limit of one page, and of the opening of a watch.
const LIMIT: Duration = Duration::from_secs(30);

/// How long a watch stays open, in seconds; the API server takes no more than 295.
const OPEN: u32 = 290;

/// Pauses between tries begin here.
const FIRST: Duration = Duration::from_millis(100);

/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);

/// Where what is seen goes.
pub(super) trait Sink {
    /// The whole of what there is at a version.
    fn list(&self, objects: Vec<DynamicObject>, version: u64);

    /// What an object is now.
    fn observe(&self, object: DynamicObject);

    /// An object is gone; this is what it was.
    fn gone(&self, object: DynamicObject);
}

/// What is followed.
pub(super) struct Follow<S> {
    pub(super) api: Api<DynamicObject>,
    /// Selects objects by their labels; empty for all.
    pub(super) labels: &'static str,
    /// What these are called where the reach of the API server is told.
    pub(super) what: &'static str,
    pub(super) reach: Reach,
    pub(super) sink: S,
}

/// Why a watch did not go on.
enum Broken {
    /// What the last one saw is too long ago.
    Expired,
    /// The API server cannot be asked, or refuses.
    Failed(String),
}

impl Broken {
    fn new(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            error => Self::Failed(with_causes(error)),
        }
    }

    fn late() -> Self {
        Self::Failed("the API server does not answer".to_owned())
    }
}

impl<S: Sink> Follow<S> {
    /// Follows for ever.
    pub(super) async fn run(self) {
        let (mut version, mut pause) = (None, FIRST);
        loop {
            let began = Instant::now();
            if let Err(broken) = self.step(&mut version).await {
                match broken {
                    Broken::Expired => version = None,
                    Broken::Failed(why) => self.reach.failed(self.what, &why),
                }
            }
            // A watch that lasted ended as watches do.
            pause = if began.elapsed() > LONGEST { FIRST } else { pause };
            if began.elapsed() < LONGEST {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST);
            }
        }
    }

    /// Lists if it must, and follows until the watch ends.
    async fn step(&self, version: &mut Option<String>) -> Result<(), Broken> {
        let from = match version {
            Some(version) => version.clone(),
            None => version.insert(self.list().await?).clone(),
        };
        let params = WatchParams::default().timeout(OPEN).labels(self.labels);
        let changes = timeout(LIMIT, self.api.watch(&params, &from)).await.map_err(|_| Broken::late())?;
        let mut changes = pin!(changes.map_err(|error| Broken::new(&error))?);
        self.reach.opened(self.what);
        let silence = Duration::from_secs(u64::from(OPEN)) + LIMIT;
        while let Some(event) = timeout(silence, changes.next()).await.map_err(|_| Broken::late())? {
            match event {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    version.clone_from(&object.metadata.resource_version);
                    self.sink.observe(object);
                }
                Ok(WatchEvent::Deleted(object)) => {
                    version.clone_from(&object.metadata.resource_version);
                    self.sink.gone(object);
                }
                Ok(WatchEvent::Bookmark(mark)) => *version = Some(mark.metadata.resource_version),
                Ok(WatchEvent::Error(status)) => return Err(Broken::new(&kube::Error::Api(status))),
                // The connection was cut: whether the API server is there tells the next try.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// Lists all, and answers the version to go on from.
    async fn list(&self) -> Result<String, Broken> {
        let mut params = ListParams::default().limit(PAGE).labels(self.labels);
        let mut objects = Vec::new();
        loop {
            let page = timeout(LIMIT, self.api.list(&params)).await.map_err(|_| Broken::late())?;
            let page = page.map_err(|error| Broken::new(&error))?;
            objects.extend(page.items);
            let version = page.metadata.resource_version.unwrap_or_default();
            if let Some(token) = page.metadata.continue_.filter(|token| !token.is_empty()) {
                params = params.continue_token(&token);
                continue;
            }
            self.sink.list(objects, version.parse().unwrap_or(0));
            self.reach.listed(self.what);
            return Ok(version);
        }
    }
}
