//! How many connections are made, and how long they are kept.

use futures::future::join_all;
use tokio_util::sync::DropGuard;
use tonic::transport::Server;

use super::*;
use crate::{
    settings::Target,
    transport::{Listener, testing},
};

/// A process that serves, and the channels of one that calls it.
struct Two {
    _folder: tempfile::TempDir,
    _stop: DropGuard,
    address: Address,
    channels: Channels,
}

fn two() -> Two {
    let (folder, source, stop) = (tempfile::tempdir().unwrap(), testing::source(), CancellationToken::new());
    let target = Target::Unix(folder.path().join("a.sock"));
    let listener = Listener::bind(&target).unwrap();
    let router = Server::builder().add_service(tonic_health::server::health_reporter().1);
    tokio::spawn(listener.serve(router, source.clone(), stop.clone()));
    let channels = Channels::new(source, Duration::from_secs(10));
    Two { _folder: folder, _stop: stop.drop_guard(), address: target.into(), channels }
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
