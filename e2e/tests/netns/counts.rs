//! What a connection costs along its whole way, exactly: calls, dials, signatures, verifications and
//! changes of the kernel, summed over client, nsmgr, forwarder and endpoint.

use std::{collections::BTreeMap, ops::Sub, time::Duration};

use futures::future::try_join_all;
use nsm_e2e::{
    figures::figures,
    mesh::{Mesh, Who},
    wait::may_run,
};

use crate::player::{Player, pass, runtime};

/// Tokens are used again for an eighth of it; registrations are repeated long after that.
const LIFE: Duration = Duration::from_secs(64);

/// Until a token is signed anew.
const REUSED: Duration = Duration::from_secs(LIFE.as_secs() / 8 + 1);

/// Windows in which a registration or a watch went by say nothing of a connection's own.
const TRIES: usize = 6;

const PROCESSES: [Who; 3] = [Who::Nsmgr(2), Who::Forwarder(2), Who::Endpoint(1)];

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    requests: u64,
    /// Calls of anything else than Request and Close: those of registrations, watches and monitors.
    others: u64,
    dials: u64,
    signed: u64,
    verified: u64,
    writes: u64,
}

impl Sub for Done {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            others: self.others - before.others,
            dials: self.dials - before.dials,
            signed: self.signed - before.signed,
            verified: self.verified - before.verified,
            writes: self.writes - before.writes,
        }
    }
}

fn calls(all: impl Iterator<Item = (String, u64)>) -> (u64, u64) {
    let (mut requests, mut others) = (0, 0);
    for (method, count) in all {
        match method.rsplit_once('/').map(|(_, name)| name.trim_end_matches("\"}")) {
            Some("Request") => requests += count,
            Some("Close") => {}
            _ => others += count,
        }
    }
    (requests, others)
}

fn by(mesh: &Mesh, who: Who) -> Done {
    let seen: BTreeMap<String, u64> = figures(&mesh.metrics_socket(who)).unwrap();
    let (requests, others) =
        calls(seen.clone().into_iter().filter(|(name, _)| name.starts_with("nsm_calls_total")));
    Done {
        requests,
        others,
        dials: seen["nsm_dials_total"],
        signed: seen["nsm_tokens_signed_total"],
        verified: seen["nsm_tokens_verified_total"],
        writes: seen.get("nsm_kernel_writes_total").copied().unwrap_or_default(),
    }
}

/// By each process on the way, the client first.
fn done(mesh: &Mesh, player: &Player) -> [Done; 4] {
    let own = player.counts();
    let (requests, others) = calls(own.calls().map(|(method, count)| (method.to_owned(), count)));
    let client = Done {
        requests,
        others,
        dials: own.dials.get(),
        signed: own.signatures.get(),
        verified: own.verifications.get(),
        writes: 0,
    };
    let [nsmgr, forwarder, endpoint] = PROCESSES.map(|who| by(mesh, who));
    [client, nsmgr, forwarder, endpoint]
}

fn difference(before: [Done; 4], after: [Done; 4]) -> [Done; 4] {
    std::array::from_fn(|at| after[at] - before[at])
}

fn sum(all: &[Done; 4], one: impl Fn(&Done) -> u64) -> u64 {
    all.iter().map(one).sum()
}

/// Node 2 with an endpoint, and an empty pod beside it.
fn stage(life: Duration, prefix: &str) -> (Mesh, Who) {
    let mut mesh = Mesh::start(life).unwrap();
    mesh.endpoint(2, "finance", &[("NSM_CIDR_PREFIX", prefix)]).unwrap();
    let pod = mesh.empty_pod(2).unwrap();
    (mesh, pod)
}

/// Asks until the endpoint is known.
async fn first(player: &Player, mesh: &Mesh, pod: Who) -> crate::player::Opened {
    let mut tries = 0;
    loop {
        match player.open("first", "finance", "first", mesh.pod_of(pod).unwrap()).await {
            Ok(opened) => return opened,
            Err(error) if tries == 200 => panic!("{error}"),
            Err(_) => tries += 1,
        }
        pass(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_connection_is_three_calls_and_four_signatures_and_verifications_or_none_with_warm_caches() {
    if !may_run() {
        return;
    }
    let (mesh, pod) = stage(LIFE, "172.16.1.0/24");
    runtime().block_on(async {
        let player = Player::on(&mesh, 2);
        first(&player, &mesh, pod).await;
        let netns = mesh.pod_of(pod).unwrap();
        for number in 0..TRIES {
            // What every process has is too old now to be used again.
            pass(REUSED).await;
            let begin = done(&mesh, &player);
            let names = ["cold", "warm"].map(|name| format!("{name}-{number}"));
            let opened = player.open(&names[0], "finance", &names[0], netns).await.unwrap();
            let between = done(&mesh, &player);
            player.open(&names[1], "finance", &names[1], netns).await.unwrap();
            let then = done(&mesh, &player);
            player.refresh(opened).await.unwrap();
            let end = done(&mesh, &player);
            if sum(&difference(begin, end), |done| done.others) > 0 {
                continue;
            }
            let each = Done { requests: 1, signed: 1, verified: 1, ..Done::default() };
            let writes = difference(begin, between)[2].writes;
            assert!(writes > 0, "a new connection changes the kernel");
            // The endpoint asks nobody; its own token is the last one on the path.
            let cold = [each, each, Done { writes, ..each }, Done { requests: 0, ..each }];
            assert_eq!(difference(begin, between), cold);
            let warm = cold.map(|done| Done { signed: 0, verified: 0, ..done });
            assert_eq!(difference(between, then), warm);
            let refresh = warm.map(|done| Done { writes: 0, ..done });
            assert_eq!(difference(then, end), refresh);
            return;
        }
        panic!("something else was called in each of {TRIES} windows");
    });
}

/// Nothing ends meanwhile, however slow the machine is.
const LONG: Duration = Duration::from_mins(10);

/// Open connections, each an interface.
const MANY: usize = 1_000;

#[test]
fn a_thousand_open_connections_use_one_channel_to_each_peer_and_their_refreshes_change_nothing() {
    if !may_run() {
        return;
    }
    let (mesh, pod) = stage(LONG, "172.16.0.0/20");
    runtime().block_on(async {
        let player = Player::on(&mesh, 2);
        first(&player, &mesh, pod).await;
        let netns = mesh.pod_of(pod).unwrap();
        let before = done(&mesh, &player);
        let mut open = Vec::new();
        for from in (0..MANY).step_by(50) {
            let names = (from..from + 50).map(|number| format!("c-{number}"));
            let opening = names.map(|name| {
                let player = &player;
                async move { player.open(&name, "finance", &name, netns).await }
            });
            open.extend(try_join_all(opening).await.unwrap());
        }
        let opened = done(&mesh, &player);
        for from in 0..open.len() / 50 {
            let some = open.drain(..50).collect::<Vec<_>>();
            let refreshed = try_join_all(some.into_iter().map(|opened| player.refresh(opened))).await;
            open.extend(refreshed.unwrap_or_else(|error| panic!("refresh of {from}: {error}")));
        }
        let refreshed = done(&mesh, &player);
        let made = difference(before, opened);
        assert_eq!(made.map(|done| done.dials), [0; 4], "all channels were there");
        let thousand = MANY as u64;
        assert_eq!(made.map(|done| done.requests), [thousand, thousand, thousand, 0]);
        assert!(made[2].writes >= thousand);
        let refreshed = difference(opened, refreshed);
        assert_eq!(refreshed.map(|done| (done.dials, done.writes)), [(0, 0); 4]);
        assert_eq!(refreshed.map(|done| done.requests), [thousand, thousand, thousand, 0]);
        for (who, channels) in [(Who::Forwarder(2), 2), (Who::Endpoint(1), 1)] {
            let seen = figures(&mesh.metrics_socket(who)).unwrap();
            assert_eq!(seen["nsm_channels"], channels, "{who}");
        }
    });
}
