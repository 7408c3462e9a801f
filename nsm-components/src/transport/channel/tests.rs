//! How many connections are made, and how long they are kept.

use futures::future::join_all;
use tokio_util::sync::DropGuard;
use tonic::{Request, transport::Server};
use tonic_health::{
    ServingStatus, pb::HealthCheckRequest, pb::health_client::HealthClient, server::HealthReporter,
};

use super::*;
use crate::{
    settings::Target,
    transport::{
        Accepted, Listener,
        testing::{Ca, Hand, controlled, with_roots_of},
        token,
    },
};

const HOUR: Duration = Duration::from_hours(1);

/// A process that serves, and the channels of one that calls it.
struct Two {
    _folder: tempfile::TempDir,
    _stop: DropGuard,
    address: Address,
    channels: Channels,
    /// Of both.
    ca: Ca,
    identity: Hand,
    reporter: HealthReporter,
    /// The connection of the last call, as the server sees it.
    seen: Arc<Mutex<Option<Accepted>>>,
}

fn two() -> Two {
    two_for(HOUR)
}

/// With SVIDs of this life.
fn two_for(life: Duration) -> Two {
    let (folder, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let ca = Ca::new();
    let (source, identity) = controlled(ca.svid("spiffe://d/a", life));
    let target = Target::Unix(folder.path().join("a.sock"));
    let listener = Listener::bind(&target).unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    let seen: Arc<Mutex<Option<Accepted>>> = Arc::default();
    let look = seen.clone();
    let look = move |call: Request<()>| {
        *look.lock() = call.extensions().get::<Accepted>().cloned();
        Ok(call)
    };
    let router =
        Server::builder().add_service(tonic::service::interceptor::InterceptedService::new(health, look));
    tokio::spawn(listener.serve(router, source.clone(), stop.clone()));
    let channels = Channels::new(source, Duration::from_secs(10));
    let address = target.into();
    Two { _folder: folder, _stop: stop.drop_guard(), address, channels, ca, identity, reporter, seen }
}

async fn check(channel: &Channel) {
    HealthClient::new(channel.grpc.clone()).check(HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test]
async fn many_first_calls_at_once_make_one_connection() {
    let Two { address, channels, .. } = &two();
    let got = join_all((0..50).map(|_| channels.get(address))).await;
    assert!(got.iter().all(Result::is_ok));
    assert_eq!(channels.counts().dials.get(), 1);
}

#[tokio::test]
async fn a_channel_that_nobody_uses_is_dropped_and_one_that_is_held_stays() {
    let Two { address, channels, .. } = &two();
    let held = channels.get(address).await.unwrap();
    let later = Instant::now() + KEPT + SWEEP;
    channels.sweep(later);
    drop(channels.get(address).await.unwrap());
    assert_eq!(channels.counts().dials.get(), 1);
    drop(held);
    channels.sweep(later);
    channels.get(address).await.unwrap();
    assert_eq!(channels.counts().dials.get(), 2);
}

#[tokio::test]
async fn calls_that_broke_together_make_one_new_connection() {
    let Two { address, channels, .. } = &two();
    let broken = channels.get(address).await.unwrap();
    let again = |_| async {
        channels.discard(address, &broken);
        channels.get(address).await
    };
    let got = join_all((0..50).map(again)).await;
    assert!(got.iter().all(Result::is_ok));
    channels.discard(address, &broken);
    channels.get(address).await.unwrap();
    assert_eq!(channels.counts().dials.get(), 2);
}

#[tokio::test]
async fn what_stands_is_told_and_forgotten_while_another_call_has_the_slot() {
    let Two { address, channels, .. } = &two();
    assert_eq!(channels.standing(address), None);
    let channel = channels.get(address).await.unwrap();
    assert_eq!(channels.standing(address), Some(channel.number));
    let slot = channels.0.open.lock().slot(&slot_key(address, 0), Instant::now());
    let dialling = slot.dialling.lock().await;
    assert_eq!(channels.standing(address), Some(channel.number));
    channels.discard(address, &channel);
    assert_eq!((channels.standing(address), channels.len()), (None, 1), "who dials keeps its slot");
    drop(dialling);
    let next = channels.get(address).await.unwrap();
    drop(slot);
    channels.discard(address, &channel);
    assert_eq!(channels.standing(address), Some(next.number), "a newer one stays");
    channels.discard(address, &next);
    assert_eq!((channels.standing(address), channels.len()), (None, 0));
}

#[tokio::test]
async fn a_channel_never_gets_a_second_connection_beneath_its_tokens() {
    let Two { address, channels, .. } = &two();
    let mut connector = Connector {
        address: address.clone(),
        source: channels.0.source.clone(),
        limit: channels.0.dial_timeout,
        files: FdTable::default(),
        session: Arc::default(),
        ended: CancellationToken::new(),
    };
    let mut connect = || tower::Service::call(&mut connector, http::Uri::from_static("http://localhost"));
    let first = connect().await;
    assert!(first.is_ok());
    assert!(connect().await.is_err());
}

#[tokio::test]
async fn a_token_is_signed_once_for_many_calls() {
    let two = two();
    let channel = two.channels.get(&two.address).await.unwrap();
    let first = channel.token(Duration::from_mins(10)).unwrap();
    for _ in 0..100 {
        assert_eq!(channel.token(Duration::from_mins(10)).unwrap(), first);
    }
    let counts = two.channels.counts();
    assert_eq!((counts.signatures.get(), counts.signatures_saved.get()), (1, 100));
}

#[tokio::test]
async fn a_token_is_verified_once_for_many_calls_and_a_wrong_one_every_time() {
    let two = two();
    let channel = two.channels.get(&two.address).await.unwrap();
    let (session, counts) = (channel.session().unwrap(), two.channels.counts());
    // Both sides have the same key here.
    let token = channel.token(Duration::from_mins(10)).unwrap().text;
    assert!((0..100).all(|_| session.verify(&token)));
    assert_eq!((counts.verifications.get(), counts.verifications_saved.get()), (1, 99));
    let changed = token.replacen('.', ".e", 1);
    assert!((0..3).all(|_| !session.verify(&changed)));
    assert_eq!((counts.verifications.get(), counts.verifications_saved.get()), (4, 99));
}

#[tokio::test]
async fn calls_are_counted_by_their_methods() {
    let two = two();
    let channel = two.channels.get(&two.address).await.unwrap();
    let mut client = tonic_health::pb::health_client::HealthClient::new(channel.grpc);
    for _ in 0..3 {
        client.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    }
    let seen: Vec<_> = two.channels.counts().calls().filter(|(_, count)| *count > 0).collect();
    assert_eq!(seen, [(crate::transport::OTHER, 3)]);
}

/// Two connections of one process that have different keys, as after a renewal.
async fn renewed(two: &Two) -> [Arc<Session>; 2] {
    let channel = two.channels.get(&two.address).await.unwrap();
    let before = channel.session().unwrap();
    two.identity.give(with_roots_of(two.ca.svid("spiffe://d/a", HOUR), &two.ca));
    two.channels.discard(&two.address, &channel);
    let after = two.channels.get(&two.address).await.unwrap().session().unwrap();
    [before, after]
}

#[tokio::test]
async fn a_token_for_another_is_shown_signed_by_the_key_that_the_peer_saw() {
    let two = two();
    let counts = two.channels.counts().clone();
    let [before, after] = renewed(&two).await;
    let [own, other] = [before.token(HOUR / 6).unwrap().text, after.token(HOUR / 6).unwrap().text];
    let shown = before.show(&other).unwrap();
    assert_eq!(token::verify(&shown, &before.mine.leaf.public_key), token::read(&other));
    let signatures = counts.signatures.get();
    assert_eq!(before.show(&other).unwrap(), shown);
    assert_eq!(before.show(&own).unwrap(), own);
    assert_eq!(&*before.show("a stranger's").unwrap(), "a stranger's");
    assert_eq!(counts.signatures.get(), signatures, "nothing is signed twice or without need");
    assert_eq!(counts.verifications.get(), 0, "what this process gave out need not be verified");
}

#[tokio::test]
async fn what_only_claims_to_be_a_token_of_this_process_is_never_signed() {
    let two = two();
    let [before, after] = renewed(&two).await;
    let stranger =
        jsonwebtoken::EncodingKey::from_ec_der(&rcgen::KeyPair::generate().unwrap().serialize_der());
    let claims =
        token::Claims { sub: "spiffe://d/a".into(), aud: vec!["spiffe://d/b".into()], exp: i64::MAX };
    let forged = token::sign(&claims, &stranger).unwrap();
    let signatures = two.channels.counts().signatures.get();
    for session in [before, after] {
        assert_eq!(*session.show(&forged).unwrap(), *forged);
    }
    assert_eq!(two.channels.counts().signatures.get(), signatures);
}

#[tokio::test]
async fn a_thousand_calls_use_one_connection() {
    let Two { address, channels, .. } = &two();
    for _ in 0..10 {
        join_all((0..100).map(|_| async { check(&channels.get(address).await.unwrap()).await })).await;
    }
    assert_eq!(channels.counts().dials.get(), 1);
}

#[tokio::test]
async fn a_new_svid_of_a_new_ca_makes_no_new_connection_and_tokens_keep_the_key_that_was_shown() {
    let two = two();
    let before = two.channels.get(&two.address).await.unwrap();
    check(&before).await;
    let new = Ca::new();
    two.identity.give(with_roots_of(new.svid("spiffe://d/a", HOUR), &two.ca));
    let after = two.channels.get(&two.address).await.unwrap();
    check(&after).await;
    assert_eq!(two.channels.counts().dials.get(), 1);
    // Each side knows the other by the leaf of this connection, so that is the key that counts.
    let accepted = two.seen.lock().clone().unwrap();
    let ours = after.token(HOUR / 6).unwrap();
    token::verify(&ours.text, &accepted.session.peer.public_key).unwrap();
    let theirs = accepted.session.token(HOUR / 6).unwrap();
    token::verify(&theirs.text, &after.session().unwrap().peer.public_key).unwrap();
    // The next connection shows the new one, and both CAs are known.
    two.channels.discard(&two.address, &after);
    let next = two.channels.get(&two.address).await.unwrap();
    check(&next).await;
    assert_ne!(next.session().unwrap().peer.public_key, after.session().unwrap().peer.public_key);
    let refused = token::verify(&ours.text, &two.seen.lock().clone().unwrap().session.peer.public_key);
    assert_eq!(refused, Err(token::Refusal::Signature));
}

#[tokio::test]
async fn a_channel_is_replaced_before_a_leaf_ends_and_calls_in_flight_on_the_old_one_go_on() {
    let two = two_for(Duration::from_secs(5));
    let old = two.channels.get(&two.address).await.unwrap();
    let mut client = HealthClient::new(old.grpc.clone());
    let mut watched = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    two.identity.give(two.ca.svid("spiffe://d/a", HOUR));
    let limit = Instant::now() + Duration::from_secs(10);
    let new = loop {
        let channel = two.channels.get(&two.address).await.unwrap();
        if two.channels.counts().dials.get() == 2 {
            break channel;
        }
        assert!(Instant::now() < limit);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let end = old.session().unwrap().peer.not_after;
    assert!(crate::transport::session::now() < end, "well before the leaf ends");
    check(&new).await;
    two.reporter.set_service_status("", ServingStatus::NotServing).await;
    let said = tokio::time::timeout(Duration::from_secs(5), watched.message()).await;
    said.unwrap().unwrap().unwrap();
    // And for good: an hour is not half over.
    two.channels.get(&two.address).await.unwrap();
    assert_eq!(two.channels.counts().dials.get(), 2);
}
