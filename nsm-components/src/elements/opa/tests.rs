//! Policies in our own words, equal in effect to the native checks, decide as these do.

use proptest::{prelude::*, test_runner::TestRunner};
use rcgen::{CertificateParams, KeyPair, PublicKeyData, SanType};
use serde_json::json;

use super::*;
use crate::{
    api::peer::Peer,
    chain::Caller,
    elements::{
        authorize::Judge,
        testing::{KeyOf, token},
    },
};

/// Not expired, made one for the next, and the last but one signed by the caller.
const ALL: &str = r"
package nsm

default valid = false
default index = 0

index = input.index

claims(token) = payload {
    [_, payload, _] := io.jwt.decode(token)
}

unreadable {
    segment := input.path_segments[_]
    not claims(segment.token)
}

over {
    segment := input.path_segments[_]
    time.now_ns() / 1000000000 >= claims(segment.token).exp
}

broken {
    segment := input.path_segments[i]
    j := i + 1
    next := input.path_segments[j]
    not meant(segment.token, next.token)
}

meant(token, next) {
    claims(token).aud[_] == claims(next).sub
}

valid {
    not unreadable
    not over
    not broken
    index > 0
    previous := input.path_segments[index - 1].token
    io.jwt.verify_es256(previous, input.auth_info.certificate)
}
";

fn policies(folder: &Path, text: &str) -> std::result::Result<Policies, PolicyError> {
    fs::write(folder.join("own.rego"), text).unwrap();
    Policies::load("NSM_SERVER_POLICIES", &[format!("{}/.*.rego", folder.display())])
}

struct Key {
    pair: KeyPair,
    certificate: Vec<u8>,
}

fn keys() -> Vec<Key> {
    let key = |_| {
        let (pair, mut leaf) = (KeyPair::generate().unwrap(), CertificateParams::default());
        leaf.subject_alt_names = vec![SanType::URI("spiffe://d/a".try_into().unwrap())];
        let certificate = leaf.self_signed(&pair).unwrap().der().to_vec();
        Key { pair, certificate }
    };
    (0..3).map(key).collect()
}

#[test]
fn policies_in_rego_and_the_native_checks_agree() {
    let folder = tempfile::tempdir().unwrap();
    let policies = policies(folder.path(), ALL).unwrap();
    let (keys, far, past) = (keys(), 4_000_000_000, 1_000_000_000);
    // nsc → nsmgr → fwd: whose key signed, who is meant, whether it is over, whether it is readable.
    let step = || (0..2_usize, any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    let names = ["nsc", "nsmgr", "fwd"];
    let seen = std::cell::Cell::new([0_u32; 2]);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    TestRunner::new(config)
        .run(&(step(), step(), 0..2_usize), |(first, second, peer)| {
            let text = |at: usize, (key, meant, over, broken): (usize, bool, bool, bool)| {
                let aud = if meant { names[at + 1] } else { "elsewhere" };
                let token = token(&keys[key].pair, names[at], aud, if over { past } else { far });
                if broken { token.replacen('.', "!", 1) } else { token }
            };
            let tokens = [text(0, first), text(1, second)];
            let own = token(&keys[2].pair, "fwd", "nsmgr", far);
            let caller = Peer { id: "nsmgr".into(), public_key: Vec::new(), not_after: 0 };
            let link = Arc::new(KeyOf("fwd", keys[peer].pair.der_bytes().to_vec()));
            let caller = Caller { link, ..Caller::test(caller) };
            let native = Judge { now: Some(1.8e9), caller: &caller }.check(&[&tokens[0], &tokens[1]]);
            let segments: Vec<_> = tokens.iter().chain([&own]).map(|token| json!({"token": token})).collect();
            let certificate = auth_info(&keys[peer].certificate);
            let input = json!({"index": 2, "path_segments": segments, "auth_info": certificate});
            let rego = policies.check(&input);
            let mut counts = seen.get();
            counts[usize::from(native.is_ok())] += 1;
            seen.set(counts);
            prop_assert_eq!(native.is_ok(), rego.is_ok(), "{:?} {:?}", native, rego);
            Ok(())
        })
        .unwrap();
    assert!(seen.get().iter().all(|count| *count > 5), "{:?}", seen.get());
}

#[test]
fn who_is_refused_hears_by_which_file_and_an_error_in_one_is_ours() {
    let folder = tempfile::tempdir().unwrap();
    let refusing =
        policies(folder.path(), "package nsm\ndefault valid = false\nvalid { input.name == \"x\" }");
    let refusing = refusing.unwrap();
    refusing.check(&json!({"name": "x"})).unwrap();
    let error = refusing.check(&json!({})).unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
    assert!(
        error.message.contains("no sufficient privileges") && error.message.contains("own.rego"),
        "{error}"
    );
}

#[test]
fn a_policy_that_goes_on_for_ever_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let endless = "package nsm\ndefault valid = false\n\
        valid { x := input.many[_]; y := input.many[_]; z := input.many[_]; x + y + z == 0 }";
    let endless = policies(folder.path(), endless).unwrap();
    let begin = std::time::Instant::now();
    let many: Vec<_> = (1..2_000).collect();
    let error = endless.check(&json!({"many": many})).unwrap_err();
    assert_eq!(error.kind, Kind::Internal, "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test(flavor = "current_thread")]
async fn others_go_on_while_policies_are_asked() {
    let folder = tempfile::tempdir().unwrap();
    let endless = "package nsm\ndefault valid = false\n\
        valid { x := input.many[_]; y := input.many[_]; z := input.many[_]; x + y + z == 0 }";
    let endless = policies(folder.path(), endless).unwrap();
    let many: Vec<_> = (1..2_000).collect();
    let mut judged = std::pin::pin!(endless.judge(json!({"many": many})));
    assert!(futures::poll!(&mut judged).is_pending(), "the one thread is free again");
    judged.await.unwrap_err();
}

#[test]
fn masks_name_native_policies_files_and_patterns_and_one_that_names_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let load = |mask: &str| Policies::load("NSM_SERVER_POLICIES", &[mask.to_owned()]);
    assert!(load("etc/nsm/opa/common/.*.rego").unwrap().is_empty());
    load("etc/nsm/opa/server/team.rego").unwrap_err();
    assert_eq!(policies(folder.path(), ALL).unwrap().0.len(), 1);
    assert_eq!(load(folder.path().join("own.rego").to_str().unwrap()).unwrap().0.len(), 1);
    for mask in [format!("{}/other.*", folder.path().display()), "/nowhere/x.rego".into(), "(".into()] {
        let error = load(&mask).unwrap_err().to_string();
        assert!(error.contains("NSM_SERVER_POLICIES") && error.contains(&mask), "{error}");
    }
    for text in
        ["package other\nvalid = true", "package nsm\nvalid if true", "rubbish", "package nsm\nx = true"]
    {
        assert!(policies(folder.path(), text).is_err(), "{text}");
    }
}
