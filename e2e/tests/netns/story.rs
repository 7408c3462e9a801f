//! How most tests begin: one endpoint, and connections to it from the same and from another node.

use std::time::Duration;

use nsm_e2e::{
    interface::Interface,
    mesh::{Mesh, Signal, Who},
    monitor::IpMonitor,
    stream::{Report, Stream},
    wait,
};

/// Long enough for a process to come back under load, short enough to wait for.
pub(crate) const LIFE: Duration = Duration::from_secs(10);

/// The interface that clients ask for.
pub(crate) const IFNAME: &str = "nsm-1";

/// An endpoint of `finance` on node 2 and two clients that are connected to it.
pub(crate) struct Story {
    pub(crate) mesh: Mesh,
    pub(crate) endpoint: Who,
    /// On node 1: through a tunnel.
    pub(crate) remote: Who,
    /// On node 2: a pair of links.
    pub(crate) local: Who,
}

impl Story {
    pub(crate) fn begin() -> Self {
        Self::begin_with(LIFE)
    }

    /// With tokens of another life.
    pub(crate) fn begin_with(life: Duration) -> Self {
        Self::begin_in(Mesh::start(life).unwrap())
    }

    /// In this mesh.
    pub(crate) fn begin_in(mut mesh: Mesh) -> Self {
        let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
        let remote = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
        let local = mesh.client(2, &format!("kernel://finance/{IFNAME}")).unwrap();
        let story = Self { mesh, endpoint, remote, local };
        for client in story.clients() {
            story.interface(client);
        }
        story
    }

    pub(crate) fn clients(&self) -> [Who; 2] {
        [self.remote, self.local]
    }

    pub(crate) fn interface(&self, client: Who) -> Interface {
        self.mesh.connected(client, IFNAME).unwrap()
    }

    pub(crate) fn interfaces(&self) -> [Interface; 2] {
        self.clients().map(|client| self.interface(client))
    }

    pub(crate) fn stream(&self, client: Who) -> Stream {
        let interface = self.interface(client);
        let from = (self.mesh.pod_of(client).unwrap(), interface.address.unwrap().0);
        Stream::start(from, (self.mesh.pod_of(self.endpoint).unwrap(), interface.peer.unwrap())).unwrap()
    }

    /// Watches the pods of both clients and of the endpoint.
    pub(crate) fn watch(&self) -> Vec<(Who, IpMonitor)> {
        let endpoint = IpMonitor::start(self.mesh.pod_of(self.endpoint).unwrap()).unwrap();
        let mut watched = self.watch_clients();
        watched.push((self.endpoint, endpoint));
        watched
    }

    /// Watches the pods of both clients.
    pub(crate) fn watch_clients(&self) -> Vec<(Who, IpMonitor)> {
        let watch = |who| (who, IpMonitor::start(self.mesh.pod_of(who).unwrap()).unwrap());
        self.clients().map(watch).into()
    }
}

impl Story {
    /// Ends processes and starts them again beneath a thousand packets a second on each connection.
    pub(crate) fn loses_nothing_without(mut self, whom: &[Who], signal: Signal) {
        let before = self.interfaces();
        let watched = self.watch();
        let streams = self.clients().map(|client| self.stream(client));
        streams[0].run_for(Duration::from_millis(200)).unwrap();
        self.mesh.end(whom, signal).unwrap();
        streams[0].run_for(Duration::from_millis(500)).unwrap();
        self.mesh.start_again(whom).unwrap();
        // What is not refreshed expires one life after the start at the latest.
        streams[0].run_for(self.mesh.life() + Duration::from_secs(2)).unwrap();
        for stream in streams {
            assert_whole(stream);
        }
        assert_silent(watched);
        assert_eq!(self.interfaces(), before);
        for node in [1, 2] {
            assert_eq!(self.mesh.journal(node).len(), node, "connections known on node {node}");
        }
    }
}

/// Nothing was changed while it was watched.
pub(crate) fn assert_silent(watched: Vec<(Who, IpMonitor)>) {
    for (who, monitor) in watched {
        let seen = monitor.seen().unwrap();
        assert!(seen.is_empty(), "{who}: {}", seen.join("\n"));
    }
}

/// Longer than a busy machine holds up a thread; shorter than what a link takes that was made anew.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// Every packet came back, once and in time: packets that waited for a new link are not lost either.
pub(crate) fn assert_whole(stream: Stream) -> Report {
    let report = stream.report().unwrap();
    println!("{report:?}");
    assert!(report.sent > 0 && report.lost == 0 && report.duplicated == 0, "{report:?}");
    assert!(report.longest_gap < LONGEST_GAP * wait::slowness(), "{report:?}");
    report
}
