//! Connections come and go, and nothing stays of them in any process. `NSM_CHURN` says how many;
//! with a thousand or more the memory is looked at as well.

use std::{collections::BTreeMap, fs, time::Duration};

use futures::future::try_join_all;
use nsm_e2e::{
    figures::figures,
    mesh::{Mesh, Who},
    wait::{may_run, until_every, until_true},
};

use crate::player::{Player, pass, runtime};

const LIFE: Duration = Duration::from_mins(1);

/// Side by side, each in a pod of its own.
const CLIENTS: usize = 8;

/// What `make test` does; `make soak` does 20,000.
const FEW: usize = 300;

/// After that many, memory does not grow for the first time any more.
const WARM: usize = 2_000;

/// From here on there is enough to judge memory by.
const JUDGED: usize = 1_000;

/// Longest time until all has come to rest.
const REST: Duration = Duration::from_mins(1);

const PROCESSES: [Who; 4] = [Who::Registry, Who::Nsmgr(2), Who::Forwarder(2), Who::Endpoint(1)];

/// What has to be as it was. The others only grow, or tell of time.
const LEVELS: [&str; 10] = [
    "nsm_tasks",
    "nsm_channels",
    "nsm_connections",
    "nsm_connections_shown",
    "nsm_connections_linked",
    "nsm_monitors",
    "nsm_vnis",
    "nsm_requests_in_flight",
    "nsm_requests_waiting",
    "nsm_requests_callers",
];

type Levels = BTreeMap<String, u64>;

fn id(mesh: &Mesh, who: Who) -> u32 {
    mesh.process(who).unwrap().id().unwrap()
}

fn levels(mesh: &Mesh) -> Levels {
    let mut all = Levels::new();
    for who in PROCESSES {
        let seen = figures(&mesh.metrics_socket(who)).unwrap();
        let known = LEVELS.iter().filter_map(|name| Some((*name, *seen.get(*name)?)));
        all.extend(known.map(|(name, value)| (format!("{who} {name}"), value)));
        let files = fs::read_dir(format!("/proc/{}/fd", id(mesh, who))).unwrap().count();
        all.insert(format!("{who} files"), files as u64);
    }
    all
}

/// The same twice, with a second between.
fn at_rest(mesh: &Mesh) -> Levels {
    let mut last = Levels::new();
    until_every(Duration::from_secs(1), "the processes come to rest", REST, || {
        let now = levels(mesh);
        let same = now == last;
        last = now;
        same.then(|| last.clone())
    })
    .unwrap()
}

/// Memory in KiB (proc(5), `VmRSS`).
fn resident(mesh: &Mesh) -> Vec<(Who, u64)> {
    let read = |who| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", id(mesh, who))).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    PROCESSES.map(|who| (who, read(who))).into()
}

/// Each opens and closes one connection after the other.
async fn churn(player: &Player, mesh: &Mesh, pods: &[Who], count: usize) {
    let one = |number: usize, pod: Who| async move {
        let netns = mesh.pod_of(pod).unwrap();
        for round in 0..count.div_ceil(CLIENTS) {
            let id = format!("churn-{number}-{round}");
            let opened = player.open(&id, "finance", "nsm-1", netns).await?;
            player.close(opened).await?;
        }
        Ok::<_, nsm_components::chain::Error>(())
    };
    try_join_all(pods.iter().enumerate().map(|(number, pod)| one(number, *pod))).await.unwrap();
}

#[test]
fn connections_that_come_and_go_leave_nothing_in_any_process() {
    if !may_run() {
        return;
    }
    let count = std::env::var("NSM_CHURN").map_or(FEW, |count| count.parse().unwrap());
    let mut mesh = Mesh::start_with(LIFE, &[("NSM_LOG_LEVEL", "INFO")]).unwrap();
    let endpoint = mesh.endpoint(2, "finance", &[]).unwrap();
    let pods: Vec<_> = (0..CLIENTS).map(|_| mesh.empty_pod(2).unwrap()).collect();
    assert_eq!(endpoint, Who::Endpoint(1));
    mesh.says(endpoint, "registered", REST).unwrap();
    runtime().block_on(async {
        let player = Player::on(&mesh, 2);
        // First what warms up: allocators, channels and caches have their size then.
        pass(Duration::from_secs(1)).await;
        churn(&player, &mesh, &pods, (count / 4).min(WARM)).await;
        let (before, memory) = (at_rest(&mesh), resident(&mesh));
        let dials = player.counts().dials.get();
        churn(&player, &mesh, &pods, count).await;
        let mut left = Vec::new();
        let clean = until_true("nothing is left", REST, || {
            let now = levels(&mesh);
            left = now
                .into_iter()
                .filter(|(name, value)| before.get(name).is_none_or(|was| value > was))
                .collect();
            left.is_empty()
        });
        assert!(clean.is_ok(), "more than before: {left:?}, before: {before:?}");
        assert_eq!(player.counts().dials.get(), dials, "one channel for all");
        for ((who, before), (_, after)) in memory.into_iter().zip(resident(&mesh)) {
            println!("{who}: {before} KiB before, {after} KiB after {count} connections");
            assert!(count < JUDGED || after * 100 <= before * 105, "{who} grew from {before} to {after} KiB");
        }
    });
    mesh.is_clean(REST).unwrap();
}
