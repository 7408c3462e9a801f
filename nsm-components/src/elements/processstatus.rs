//! What a forwarder tells the nsmgr of its node of itself: its version, what became of the connections that it
//! found, and whether it drains. And the nsmgr has it drain. For processes of the mesh on its unix socket alone.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request as Call, Response, Status};

use super::{
    drain::{Draining, Level},
    grpc::accepted,
    nodestatus::admit,
    xconnect::{AdoptionReport, Xconnect},
};
use crate::{
    api::{
        feature,
        node::{Adoption, DrainRequest, Process, WatchProcessRequest, process_status_server::ProcessStatus},
        trust::Trust,
    },
    chain::Session,
    dataplane::Kernel,
};

/// How often it is looked at whether there is something to tell.
const LOOK: Duration = Duration::from_millis(500);

/// See the module.
pub struct ProcessStatusService<K> {
    process: Process,
    draining: Draining,
    session: Arc<Session>,
    xconnect: Xconnect<K>,
    trust: Trust,
    stop: CancellationToken,
    /// What the sweep is that closes what no session has; it goes on when its caller does not wait.
    sweep: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// Whether the next process is told that this one stops.
    marked: Arc<Mutex<bool>>,
}

impl<K> Clone for ProcessStatusService<K> {
    fn clone(&self) -> Self {
        let Self { process, draining, session, xconnect, trust, stop, sweep, marked } = self;
        let (process, draining, xconnect) = (process.clone(), draining.clone(), xconnect.clone());
        let (session, trust, stop) = (session.clone(), trust.clone(), stop.clone());
        let (sweep, marked) = (sweep.clone(), marked.clone());
        Self { process, draining, session, xconnect, trust, stop, sweep, marked }
    }
}

/// What is told of this program under a name; each call is another incarnation of it.
pub(super) fn incarnation(name: &str) -> Process {
    Process {
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        feature_level: feature::LEVEL,
        instance: uuid::Uuid::new_v4().to_string(),
        ..Process::default()
    }
}

fn adoption(report: &AdoptionReport) -> Adoption {
    let AdoptionReport { baseline, recovered, closed_by_client, lost, longest_gap, quiesced } = *report;
    let longest_gap_milliseconds = u64::try_from(longest_gap.as_millis()).unwrap_or(u64::MAX);
    Adoption { baseline, recovered, closed_by_client, lost, longest_gap_milliseconds, quiesced }
}

// === impl ProcessStatusService ===

impl<K: Kernel> ProcessStatusService<K> {
    /// Tells of the process of this name to those who are trusted.
    pub fn new(
        name: &str,
        draining: Draining,
        session: Arc<Session>,
        xconnect: Xconnect<K>,
        trust: Trust,
        stop: CancellationToken,
    ) -> Self {
        let (sweep, marked) = (Arc::default(), Arc::default());
        Self { process: incarnation(name), draining, session, xconnect, trust, stop, sweep, marked }
    }

    fn now(&self) -> Process {
        let connections = self.session.len().max(self.xconnect.len());
        let drain = self.draining.tell(connections, *self.marked.lock());
        let adoption = adoption(&self.xconnect.adoption().report());
        Process { drain: Some(drain), adoption: Some(adoption), ..self.process.clone() }
    }

    /// Begins to drain or ends it, and keeps what the next process is told in step.
    async fn drain(&self, level: Level) {
        self.draining.set(level);
        if level == Level::Close {
            self.session.end_all();
            let mut sweep = self.sweep.lock();
            if sweep.as_ref().is_none_or(JoinHandle::is_finished) {
                let xconnect = self.xconnect.clone();
                *sweep = Some(tokio::spawn(async move { xconnect.close_left().await }));
            }
        }
        let on = level != Level::Serve;
        let marked = *self.marked.lock();
        if on && !marked && self.draining.making() == 0 {
            *self.marked.lock() = self.xconnect.quiesce().await;
        } else if !on && marked {
            *self.marked.lock() = !self.xconnect.resume().await;
        }
    }

    /// Now, and again whenever it has become something else.
    fn follow(self) -> impl Stream<Item = Process> + Send {
        futures::stream::unfold((self, None), |(status, told)| async move {
            let mut now = status.now();
            while told.as_ref() == Some(&now) {
                tokio::time::sleep(LOOK).await;
                now = status.now();
            }
            Some((now.clone(), (status, Some(now))))
        })
    }
}

type Told = Pin<Box<dyn Stream<Item = Result<Process, Status>> + Send>>;

#[tonic::async_trait]
impl<K: Kernel> ProcessStatus for ProcessStatusService<K> {
    type WatchProcessStream = Told;

    async fn watch_process(&self, call: Call<WatchProcessRequest>) -> Result<Response<Told>, Status> {
        use futures::StreamExt;
        admit(&accepted(&call)?, &self.trust)?;
        let stop = self.stop.clone().cancelled_owned();
        Ok(Response::new(Box::pin(self.clone().follow().map(Ok).take_until(stop))))
    }

    async fn drain(&self, call: Call<DrainRequest>) -> Result<Response<Process>, Status> {
        admit(&accepted(&call)?, &self.trust)?;
        Self::drain(self, call.into_inner().into()).await;
        Ok(Response::new(self.now()))
    }
}
