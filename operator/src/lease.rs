//! The Lease by which one operator of several is chosen, and the fence that all writes pass.

use std::{pin::pin, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt, utils::Backoff, watcher},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tracing::{info, warn};

use crate::{
    election::{Decision, Election, RETRY, claim, released},
    metrics::{self, Metrics},
    names,
};

/// How long one request about the Lease may take: three fit into the time a holder has.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Until when this process may write. Cloned into everything that does.
#[derive(Clone, Debug)]
pub struct Fence(watch::Receiver<Option<Instant>>);

impl Fence {
    /// A fence that lets everything pass until then.
    pub fn until(end: Instant) -> Self {
        Self(watch::channel(Some(end)).1)
    }

    /// Whether one may write now.
    pub fn is_open(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until one may write.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub async fn opened(&self) {
        let mut until = self.0.clone();
        let open = |until: &Option<Instant>| until.is_some_and(|until| Instant::now() < until);
        if until.wait_for(open).await.is_err() {
            // Nobody will ever open it.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until one may not write any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when this is dropped.
    pub async fn closed(&self) {
        let mut until = self.0.clone();
        loop {
            let Some(end) = *until.borrow_and_update() else { return };
            tokio::select! {
                () = sleep_until(end) => {}
                // Without an end: what was granted stays granted until its time is over.
                Ok(()) = until.changed() => continue,
            }
            if !self.is_open() {
                return;
            }
        }
    }
}

/// Takes part in the election until told to leave, then gives the Lease away if it is held.
pub struct Candidate {
    api: Api<Lease>,
    election: Election,
    until: watch::Sender<Option<Instant>>,
    metrics: Metrics,
}

impl Candidate {
    /// A candidate by this name, and the fence that opens while it leads.
    pub fn new(client: &Client, namespace: &str, me: &str, metrics: Metrics) -> (Self, Fence) {
        let (until, fence) = watch::channel(None);
        let api = Api::namespaced(client.clone(), namespace);
        (Self { api, election: Election::new(me), until, metrics }, Fence(fence))
    }

    /// Runs until told to leave.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let news = watcher::watch_object(self.api.clone(), names::MANAGER);
        let mut news = pin!(news.backoff(Constant));
        while !*stop.borrow() {
            let now = Instant::now();
            let wait = match self.election.decide(now) {
                Decision::Create => {
                    self.write(None).await;
                    continue;
                }
                Decision::Write(lease) => {
                    self.write(Some(*lease)).await;
                    continue;
                }
                Decision::Wait(until) => Some(until),
                Decision::Learn => None,
            };
            tokio::select! {
                () = sleep_or_never(wait) => {}
                heard = hear(&mut news) => self.heard(heard),
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        self.release().await;
    }

    fn heard(&mut self, lease: Option<Lease>) {
        self.election.observe(lease, Instant::now());
        self.publish();
    }

    /// Writes the own name into the Lease: this one, or a new one.
    async fn write(&mut self, lease: Option<Lease>) {
        let began = Instant::now();
        let led = self.election.leads_until().is_some();
        let params = PostParams::default();
        let wanted = claim(lease, names::MANAGER, self.election.me());
        let request = async {
            if wanted.metadata.resource_version.is_some() {
                self.api.replace(names::MANAGER, &params, &wanted).await
            } else {
                self.api.create(&params, &wanted).await
            }
        };
        match timeout(TIMEOUT, request).await {
            Ok(Ok(written)) => {
                self.election.wrote(written, began, Instant::now());
                if !led {
                    info!(identity = self.election.me(), "leads");
                }
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => self.election.failed(Instant::now()),
            Ok(Err(error)) => self.failed(&error.to_string()),
            Err(_) => self.failed("no answer in time"),
        }
        self.publish();
    }

    fn failed(&mut self, error: &str) {
        warn!(error, "the Lease could not be written; it is tried again");
        self.election.failed(Instant::now());
    }

    /// Gives the Lease away, so that another one need not wait.
    async fn release(&mut self) {
        self.until.send_replace(None);
        let Some(lease) = self.election.held().cloned().map(released) else { return };
        let params = PostParams::default();
        let request = self.api.replace(names::MANAGER, &params, &lease);
        if matches!(timeout(TIMEOUT, request).await, Ok(Ok(_))) {
            info!("gave the Lease away");
        } else {
            warn!("the Lease could not be given away: another operator takes it when its time is over");
        }
    }

    fn publish(&self) {
        let until = self.election.leads_until();
        let leads = if until.is_some_and(|until| Instant::now() < until) { 1.0 } else { 0.0 };
        self.metrics.set(metrics::LEADS, &[("name", names::MANAGER)], leads);
        self.until.send_if_modified(|old| std::mem::replace(old, until) != until);
    }
}

/// The next that the watch of the Lease tells.
async fn hear(news: &mut (impl Stream<Item = watcher::Result<Option<Lease>>> + Unpin)) -> Option<Lease> {
    loop {
        match news.next().await {
            Some(Ok(lease)) => return lease,
            Some(Err(error)) => {
                warn!(error = &error as &dyn std::error::Error, "the watch of the Lease failed");
            }
            None => std::future::pending().await,
        }
    }
}

async fn sleep_or_never(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// A watch of one object may be opened as often as its writes are tried.
#[derive(Debug)]
struct Constant;

impl Iterator for Constant {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(RETRY)
    }
}

impl Backoff for Constant {
    fn reset(&mut self) {}
}
