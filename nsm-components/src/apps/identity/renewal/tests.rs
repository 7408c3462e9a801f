use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::apps::identity::{
    attest::{AttestError, Process},
    bundle::Bundle,
    ca::{Ca, StoredRoot},
    id::TrustDomain,
};

const LIFE: Duration = Duration::from_mins(10);

/// An issuer that can be cut off.
struct Fake {
    ca: Ca,
    domain: TrustDomain,
    reachable: AtomicBool,
    knows_callers: AtomicBool,
    calls: AtomicUsize,
}

impl Fake {
    fn new() -> Arc<Self> {
        let domain = TrustDomain::parse("test").unwrap();
        let ca = Ca::open(&StoredRoot::generate(&domain).unwrap(), &domain).unwrap();
        let (reachable, knows_callers) = (true.into(), true.into());
        Arc::new(Self { ca, domain, reachable, knows_callers, calls: AtomicUsize::new(0) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Issuer for Fake {
    fn attest(&self, process: &Process) -> Result<Caller, AttestError> {
        Err(process.refuse("not asked for"))
    }

    async fn issue(&self, caller: &Caller) -> Result<Svid, IssueError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if !self.reachable.load(Ordering::SeqCst) {
            return Err(IssueError::NotNow("cut off".into()));
        }
        if !self.knows_callers.load(Ordering::SeqCst) {
            return Err(IssueError::Refused("unknown".into()));
        }
        let id = self.domain.workload("test", "test", caller.as_str()).unwrap();
        self.ca.issue(&id, LIFE).map_err(|error| IssueError::NotNow(error.into()))
    }

    fn bundle(&self) -> watch::Receiver<Option<Bundle>> {
        watch::channel(None).1
    }
}

async fn ready(states: &mut watch::Receiver<State>) -> Arc<Svid> {
    let state = states.wait_for(|state| matches!(state, State::Ready(_))).await.unwrap().clone();
    let State::Ready(svid) = state else { unreachable!() };
    svid
}

fn caller() -> Caller {
    Caller::new("a")
}

#[tokio::test(start_paused = true)]
async fn an_svid_is_renewed_by_half_life_and_streams_share_it() {
    let fake = Fake::new();
    let renewals = Renewals::new(fake.clone());
    let (mut one, mut two) = (renewals.subscribe(&caller()).unwrap(), renewals.subscribe(&caller()).unwrap());
    let first = ready(&mut one).await;
    assert!(Arc::ptr_eq(&first, &ready(&mut two).await));
    let start = Instant::now();
    one.mark_unchanged();
    one.changed().await.unwrap();
    assert!(start.elapsed() <= LIFE / 2 + Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(start.elapsed() >= LIFE * 4 / 10, "{:?}", start.elapsed());
    assert!(!Arc::ptr_eq(&first, &ready(&mut one).await));
}

#[tokio::test(start_paused = true)]
async fn while_the_issuer_is_cut_off_a_stream_waits_and_a_valid_svid_stays() {
    let fake = Fake::new();
    let renewals = Renewals::new(fake.clone());
    let mut held = renewals.subscribe(&caller()).unwrap();
    let svid = ready(&mut held).await;
    fake.reachable.store(false, Ordering::SeqCst);
    time::sleep(LIFE * 9 / 10).await;
    assert!(fake.calls() > 5, "it tries again");
    let mut new = renewals.subscribe(&caller()).unwrap();
    assert!(Arc::ptr_eq(&svid, &ready(&mut new).await), "still served to new streams");

    let mut other = renewals.subscribe(&Caller::new("b")).unwrap();
    time::sleep(Duration::from_mins(1)).await;
    assert!(matches!(*other.borrow(), State::Waiting));
    fake.reachable.store(true, Ordering::SeqCst);
    ready(&mut other).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_streams_and_the_next_one_asks_again() {
    let fake = Fake::new();
    fake.knows_callers.store(false, Ordering::SeqCst);
    let renewals = Renewals::new(fake.clone());
    let mut states = renewals.subscribe(&caller()).unwrap();
    states.wait_for(|state| matches!(state, State::Refused(_))).await.unwrap();
    fake.knows_callers.store(true, Ordering::SeqCst);
    ready(&mut renewals.subscribe(&caller()).unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_not_take_a_valid_svid_back() {
    let fake = Fake::new();
    let renewals = Renewals::new(fake.clone());
    let mut states = renewals.subscribe(&caller()).unwrap();
    let svid = ready(&mut states).await;
    fake.knows_callers.store(false, Ordering::SeqCst);
    time::sleep(LIFE * 9 / 10).await;
    assert!(Arc::ptr_eq(&svid, &ready(&mut states).await));
}

#[tokio::test(start_paused = true)]
async fn an_svid_without_streams_is_kept_and_not_renewed_until_it_is_over() {
    let fake = Fake::new();
    let renewals = Renewals::new(fake.clone());
    ready(&mut renewals.subscribe(&caller()).unwrap()).await;
    time::sleep(LIFE * 9 / 10).await;
    assert_eq!(fake.calls(), 1);
    // A caller that comes back has its SVID at once, and a new one soon.
    let mut states = renewals.subscribe(&caller()).unwrap();
    assert!(matches!(*states.borrow_and_update(), State::Ready(_)));
    states.changed().await.unwrap();
    assert_eq!(fake.calls(), 2);
    drop(states);
    time::sleep(LIFE * 2).await;
    assert!(renewals.entries.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_caller_has_a_bounded_number_of_streams() {
    let renewals = Renewals::new(Fake::new());
    let streams: Vec<_> = (0..STREAMS_PER_CALLER).map(|_| renewals.subscribe(&caller()).unwrap()).collect();
    assert!(renewals.subscribe(&caller()).is_err());
    assert!(renewals.subscribe(&Caller::new("b")).is_ok());
    drop(streams);
    assert!(renewals.subscribe(&caller()).is_ok());
}
