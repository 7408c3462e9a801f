//! The paths of a process: which ones are to be asked, and what becomes known of them. Pure.
//!
//! A path whose link counts packets is alive, and nothing is sent. Of the silent paths to one endpoint one
//! is asked at a time, in turn, as many as there are; once one is late all are asked.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use tokio::{sync::watch, time::Instant};

use super::pulse::{Data, Pace, Pulse};

/// Where the packets of a connection go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) endpoint: String,
    pub(super) interface: String,
    /// Own address and the other's, of one family each.
    pub(super) pairs: Vec<(IpAddr, IpAddr)>,
}

/// One connection. It is here before it has a route, for those who want to know of it.
struct Path {
    route: Option<Route>,
    pulse: Pulse,
    /// Pairs whose echo is not answered yet.
    awaited: HashSet<usize>,
    /// Packets that the link had counted, and answers that are among those since.
    received: Option<u64>,
    answers: u64,
    /// Whether an echo was answered on this way.
    reached: bool,
    data: watch::Sender<Data>,
}

/// See the module.
pub(super) struct Paths {
    pace: Pace,
    known: BTreeMap<String, Path>,
    /// Endpoints that have answered an echo.
    answering: HashSet<String>,
    /// The connection that was asked last, by endpoint.
    turns: HashMap<String, String>,
}

/// Most endpoints whose answers are remembered; beyond it all are forgotten.
const MOST: usize = 4096;

impl Path {
    /// Whether packets came that are no answers to echoes; nothing is known of a link that is gone.
    fn has_received(&mut self, counted: u64) -> bool {
        let before = self.received.replace(counted);
        let answers = std::mem::take(&mut self.answers);
        before.is_some_and(|before| counted.saturating_sub(before) > answers)
    }

    fn tell(&mut self, now: Instant) {
        let data = self.pulse.look(now);
        self.data.send_if_modified(|known| std::mem::replace(known, data) != data);
    }
}

// === impl Paths ===

impl Paths {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, known: BTreeMap::new(), answering: HashSet::new(), turns: HashMap::new() }
    }

    fn path(&mut self, id: &str) -> &mut Path {
        let pace = self.pace;
        self.known.entry(id.to_owned()).or_insert_with(|| Path {
            route: None,
            pulse: Pulse::new(pace),
            awaited: HashSet::new(),
            received: None,
            answers: 0,
            reached: false,
            data: watch::Sender::new(Data::Unknown),
        })
    }

    /// What is known of a connection, now and whenever it changes.
    pub(super) fn subscribe(&mut self, id: &str) -> watch::Receiver<Data> {
        self.path(id).data.subscribe()
    }

    /// A Request was answered, or the connection is closed.
    pub(super) fn set(&mut self, id: &str, route: Option<Route>) {
        let answers = route.as_ref().is_some_and(|route| self.answering.contains(&route.endpoint));
        let path = self.path(id);
        if path.route == route && !path.pulse.begins_anew() {
            return;
        }
        path.pulse.begin(answers);
        path.awaited.clear();
        (path.route, path.received, path.answers, path.reached) = (route, None, 0, false);
        path.data.send_replace(Data::Unknown);
    }

    pub(super) fn route(&self, id: &str) -> Option<&Route> {
        self.known.get(id)?.route.as_ref()
    }

    /// Whether there is anything to look at.
    pub(super) fn is_empty(&self) -> bool {
        self.known.values().all(|path| path.route.is_none())
    }

    /// Others say that the connection is down: it is asked at once.
    pub(super) fn doubt(&mut self, id: &str) {
        self.path(id).pulse.doubt();
    }

    /// An echo to a pair of a connection was answered.
    pub(super) fn answered(&mut self, id: &str, pair: usize, now: Instant) {
        let Some(path) = self.known.get_mut(id) else { return };
        let Some(endpoint) = path.route.as_ref().map(|route| route.endpoint.clone()) else { return };
        path.answers += 1;
        if !path.awaited.remove(&pair) || !path.awaited.is_empty() {
            return;
        }
        path.reached = true;
        path.pulse.answered();
        path.tell(now);
        if self.answering.len() >= MOST {
            self.answering.clear();
        }
        self.answering.insert(endpoint);
    }

    /// An interface is gone, or carries nothing any more.
    pub(super) fn broke(&mut self, interface: &str, now: Instant) {
        let of = |path: &&mut Path| path.route.as_ref().is_some_and(|route| route.interface == interface);
        for path in self.known.values_mut().filter(of) {
            path.pulse.broke();
            // Told even if it was doubtful before: it may have been repaired meanwhile.
            path.data.send_replace(path.pulse.look(now));
        }
    }

    /// An echo could not even be sent: where it could be before, an address or a route is gone, whatever packets
    /// still come.
    pub(super) fn has_no_way(&mut self, id: &str, now: Instant) {
        if let Some(path) = self.known.get_mut(id).filter(|path| path.reached) {
            path.pulse.broke();
            path.tell(now);
        }
    }

    /// Connections to ask now. `counted` are the packets that each interface has received.
    pub(super) fn look(&mut self, now: Instant, counted: &HashMap<String, u64>) -> Vec<String> {
        let mut silent: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut late = HashSet::new();
        for (id, path) in &mut self.known {
            let Some(Route { endpoint, interface, .. }) = path.route.clone() else { continue };
            let received = counted.get(&interface).map(|counted| path.has_received(*counted));
            match received {
                Some(true) => path.pulse.came(),
                Some(false) if path.pulse.is_late(now) => drop(late.insert(endpoint.clone())),
                Some(false) => {}
                None => {
                    path.received = None;
                    path.pulse.broke();
                    path.pulse.asked(now);
                }
            }
            let of_use = received == Some(false) || received == Some(true) && path.pulse.is_new();
            if of_use && path.pulse.is_due(now) {
                silent.entry(endpoint).or_default().push(id.clone());
            }
            path.tell(now);
        }
        self.turns.retain(|endpoint, _| silent.contains_key(endpoint));
        let mut asked = Vec::new();
        for (endpoint, ids) in silent {
            if late.contains(&endpoint) {
                asked.extend(ids);
                continue;
            }
            let last = self.turns.get(&endpoint);
            let next = ids.iter().find(|id| last.is_none_or(|last| *id > last)).or_else(|| ids.first());
            if let Some(id) = next {
                self.turns.insert(endpoint, id.clone());
                asked.push(id.clone());
            }
        }
        for id in &asked {
            self.await_answers(id, now);
        }
        asked
    }

    fn await_answers(&mut self, id: &str, now: Instant) {
        if let Some(path) = self.known.get_mut(id) {
            path.awaited = (0..path.route.as_ref().map_or(0, |route| route.pairs.len())).collect();
            path.pulse.asked(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PACE: Pace = Pace { interval: Duration::from_millis(200), timeout: Duration::from_secs(1) };

    fn route(endpoint: &str, interface: &str) -> Route {
        let pair = |own: &str, other: &str| (own.parse().unwrap(), other.parse().unwrap());
        let pairs = vec![pair("10.0.0.1", "10.0.0.0"), pair("fd00::1", "fd00::")];
        Route { endpoint: endpoint.into(), interface: interface.into(), pairs }
    }

    /// Connections `a`, `b` and so on, each by an interface of its name.
    struct Scene {
        paths: Paths,
        now: Instant,
        counted: HashMap<String, u64>,
    }

    impl Scene {
        fn new(of: &[(&str, &str)]) -> Self {
            let mut paths = Paths::new(PACE);
            for (id, endpoint) in of {
                paths.set(id, Some(route(endpoint, id)));
            }
            let counted = of.iter().map(|(id, _)| ((*id).to_owned(), 0)).collect();
            Self { paths, now: Instant::now(), counted }
        }

        /// One interval; those who are asked answer if `alive`.
        fn tick(&mut self, alive: bool) -> Vec<String> {
            self.now += PACE.interval;
            let asked = self.paths.look(self.now, &self.counted);
            for id in asked.iter().filter(|_| alive) {
                for pair in 0..2 {
                    self.paths.answered(id, pair, self.now);
                    *self.counted.get_mut(id).unwrap() += 1;
                }
            }
            asked
        }

        fn data(&mut self, id: &str) -> Data {
            *self.paths.subscribe(id).borrow()
        }
    }

    #[test]
    fn however_many_connections_lead_to_an_endpoint_one_is_asked_at_a_time() {
        let mut scene = Scene::new(&[("a", "nse"), ("b", "nse"), ("c", "nse"), ("d", "other")]);
        let asked: Vec<_> = (0..4).map(|_| scene.tick(true)).collect();
        assert_eq!(asked, [["a", "d"], ["b", "d"], ["c", "d"], ["a", "d"]]);
    }

    #[test]
    fn nobody_is_asked_whose_packets_come_anyway() {
        let mut scene = Scene::new(&[("a", "nse")]);
        scene.tick(true);
        for _ in 0..100 {
            *scene.counted.get_mut("a").unwrap() += 1 + 2 * u64::from(scene.paths.known["a"].answers > 0);
            assert_eq!(scene.tick(true), [] as [&str; 0]);
        }
        assert_eq!(scene.data("a"), Data::Up);
        assert_eq!(scene.tick(true), ["a"], "answers to echoes are not taken for other packets");
        assert_eq!(scene.tick(true), ["a"]);
    }

    #[test]
    fn an_endpoint_is_asked_once_though_packets_come_so_that_it_is_missed_when_they_do_not() {
        let mut scene = Scene::new(&[("a", "nse")]);
        for _ in 0..3 {
            *scene.counted.get_mut("a").unwrap() += 10;
            scene.tick(true);
        }
        for _ in 0..6 {
            scene.tick(false);
        }
        assert_eq!(scene.data("a"), Data::Down);
    }

    #[test]
    fn once_one_connection_of_an_endpoint_is_late_all_are_asked_and_found_dead_in_time() {
        let ids = ["a", "b", "c", "d"];
        let mut scene = Scene::new(&ids.map(|id| (id, "nse")));
        for _ in ids {
            scene.tick(true);
        }
        scene.tick(false);
        assert_eq!(scene.tick(false).len(), 4);
        for _ in 0..5 {
            scene.tick(false);
        }
        for id in ids {
            assert_eq!(scene.data(id), Data::Down, "{id}");
        }
    }

    #[test]
    fn both_families_have_to_answer() {
        let mut scene = Scene::new(&[("a", "nse")]);
        scene.tick(true);
        for _ in 0..6 {
            for id in scene.tick(false) {
                scene.paths.answered(&id, 0, scene.now);
                *scene.counted.get_mut(&id).unwrap() += 1;
            }
        }
        assert_eq!(scene.data("a"), Data::Down);
    }

    #[test]
    fn a_link_that_is_gone_or_breaks_is_doubtful_at_once() {
        let mut scene = Scene::new(&[("a", "nse"), ("b", "nse")]);
        scene.tick(true);
        scene.tick(true);
        scene.paths.broke("a", scene.now);
        assert_eq!((scene.data("a"), scene.data("b")), (Data::Doubtful, Data::Up));
        scene.counted.remove("b");
        scene.tick(false);
        assert_eq!(scene.data("b"), Data::Doubtful);
    }

    #[test]
    fn a_way_that_is_no_more_is_doubtful_at_once_though_packets_come_and_one_that_never_was_is_not() {
        let mut scene = Scene::new(&[("a", "nse")]);
        scene.paths.has_no_way("a", scene.now);
        assert_eq!(scene.data("a"), Data::Unknown);
        scene.tick(true);
        assert_eq!(scene.data("a"), Data::Up);
        *scene.counted.get_mut("a").unwrap() += 1;
        scene.paths.has_no_way("a", scene.now);
        assert_eq!(scene.data("a"), Data::Doubtful);
    }

    #[test]
    fn a_new_path_to_an_endpoint_that_answers_is_found_dead_and_one_to_a_silent_endpoint_is_not() {
        let mut scene = Scene::new(&[("a", "nse")]);
        scene.tick(true);
        scene.paths.set("a", Some(route("silent", "a")));
        for _ in 0..20 {
            scene.tick(false);
        }
        assert_eq!(scene.data("a"), Data::Unknown);
        scene.paths.set("a", Some(route("nse", "a")));
        for _ in 0..7 {
            scene.tick(false);
        }
        assert_eq!(scene.data("a"), Data::Down);
        scene.paths.set("a", Some(route("nse", "a")));
        assert_eq!(scene.data("a"), Data::Unknown, "what was asked for anew is looked at anew");
        scene.paths.set("a", None);
        assert!(scene.paths.is_empty());
    }
}
