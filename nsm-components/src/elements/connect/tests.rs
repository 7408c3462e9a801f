//! What of an answer counts.

use jsonwebtoken::{EncodingKey, Header};

use super::*;
use crate::api::{Path, PathSegment};

fn brought() -> Token {
    Token { text: "brought".into(), expires: 60 }
}

fn connection(ids: &[&str], index: u32, expires: i64) -> Connection {
    let segment = |id: &&str| PathSegment {
        id: (*id).into(),
        expires: Some(Timestamp { seconds: expires, nanos: 0 }),
        ..Default::default()
    };
    let path = Path { index, path_segments: ids.iter().map(segment).collect() };
    Connection { id: ids[index as usize].into(), path: Some(path), ..Default::default() }
}

#[test]
fn an_answer_changes_neither_whose_connection_it_is_nor_when_its_caller_ends() {
    let sent = connection(&["nsc", "nsmgr"], 1, 100);
    let mut forged = connection(&["x", "victim", "forwarder"], 0, 0);
    forged.segment_mut(1).unwrap().token = "forged".into();
    let got = answer_to(&sent, &brought(), forged).unwrap();
    assert_eq!(got.id, "nsmgr");
    let segments: Vec<_> = got.segments().iter().map(|segment| segment.id.as_str()).collect();
    assert_eq!(segments, ["nsc", "nsmgr", "forwarder"]);
    assert_eq!(got.segments()[0].expires.unwrap().seconds, 100);
    let own = &got.segments()[1];
    assert_eq!((own.token.as_str(), own.expires.unwrap().seconds), ("brought", 60));
    assert_eq!(got.path.unwrap().index, 1);
}

#[test]
fn an_answer_without_the_way_that_was_sent_is_refused() {
    let sent = connection(&["nsc", "nsmgr"], 1, 100);
    assert!(answer_to(&sent, &brought(), connection(&["x"], 0, 0)).is_err());
    assert!(answer_to(&sent, &brought(), Connection::default()).is_err());
}

#[test]
fn a_segment_of_an_answer_lives_no_longer_than_its_token() {
    let sent = connection(&["nsc", "nsmgr"], 1, 100);
    let mut answer = connection(&["nsc", "nsmgr", "forwarder", "nse"], 1, 500);
    let claims = token::Claims { sub: "spiffe://d/a".into(), aud: Vec::new(), exp: 300 };
    let token = jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(b"any"));
    let token = token.unwrap();
    let segments = &mut answer.path.as_mut().unwrap().path_segments;
    for segment in segments.iter_mut() {
        segment.token.clone_from(&token);
    }
    segments[2].expires = Some(Timestamp { seconds: 200, nanos: 0 });
    segments[3].expires = None;
    let got = answer_to(&sent, &brought(), answer).unwrap();
    let ends: Vec<_> = got.segments().iter().map(|segment| segment.expires.unwrap().seconds).collect();
    assert_eq!(ends, [100, 60, 200, 300]);
}
