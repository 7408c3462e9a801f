//! `linkevents`: a connection's link that somebody deletes or sets down is told to the connection's client, which
//! asks again at once; that repairs it (dataplane §10.3). Clients of upstream know the word as well.

use std::{sync::Arc, time::SystemTime};

use tracing::{info, warn};

use super::{Monitor, Xconnect};
use crate::{
    api::with_causes,
    dataplane::{Broken, ForwarderId, Kernel, LinkEvents},
};

/// See the module. It stands beside the chain.
pub struct BrokenLinks<K> {
    /// Which connections are in use.
    pub xconnect: Xconnect<K>,
    /// Tells their clients.
    pub monitor: Arc<Monitor>,
    /// Whose links count.
    pub forwarder: ForwarderId,
}

// === impl BrokenLinks ===

impl<K: Kernel> BrokenLinks<K> {
    /// Listens until dropped, in the network namespace of this process. Without the right to, connections are
    /// repaired when they are refreshed.
    pub async fn run(self) {
        let failed = |error| {
            let error = with_causes(&error);
            warn!(%error, "cannot hear of links in pods: refreshes find what is broken; it takes CAP_NET_BROADCAST");
        };
        let mut events = match LinkEvents::open() {
            Ok(events) => events,
            Err(error) => return failed(error),
        };
        loop {
            match events.next().await {
                Ok((since, all)) => all.iter().for_each(|broken| self.tell(broken, since)),
                Err(error) => return failed(error),
            }
        }
    }

    /// What was asked for meanwhile was looked at: it was this process that made it anew.
    fn tell(&self, broken: &Broken, since: SystemTime) {
        let Broken { connection, forwarder, name, gone } = broken;
        let is_own = forwarder.as_ref().is_none_or(|forwarder| *forwarder == self.forwarder);
        if !is_own || !self.xconnect.is_in_use(connection) {
            return;
        }
        let what = if *gone { "deleted" } else { "set down" };
        let why = format!("somebody has {what} its interface {name}");
        if self.monitor.ask_again(connection.as_str(), &why, since) {
            info!(connection.id = %connection, interface = %name, gone, "a link is broken: its client is told");
        }
    }
}
