//! Each rule of selection by itself.

use super::super::registry::{Destination, Match, Metadata, NetworkServiceLabels};
use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn endpoint(name: &str, pairs: &[(&str, &str)]) -> NetworkServiceEndpoint {
    let labels = NetworkServiceLabels { labels: labels(pairs) };
    NetworkServiceEndpoint {
        name: name.into(),
        network_service_labels: BTreeMap::from([("ns".to_owned(), labels)]),
        ..Default::default()
    }
}

fn entry(source: &[(&str, &str)], routes: &[&[(&str, &str)]]) -> Match {
    let routes = routes
        .iter()
        .map(|pairs| Destination { destination_selector: labels(pairs), ..Default::default() })
        .collect();
    Match { source_selector: labels(source), routes, ..Default::default() }
}

fn names(matches: Vec<Match>, client: &[(&str, &str)]) -> Vec<String> {
    let service = NetworkService { name: "ns".into(), matches, ..Default::default() };
    let all = [endpoint("a", &[("app", "a"), ("nodeName", "n1")]), endpoint("b", &[("app", "b")])];
    endpoints(&labels(client), &service, &all).into_iter().map(|found| found.name.clone()).collect()
}

#[test]
fn without_matches_every_endpoint_will_do() {
    assert_eq!(names(vec![], &[]), ["a", "b"]);
}

#[test]
fn the_first_match_for_the_client_decides_even_when_it_finds_nothing() {
    let first = entry(&[("x", "1")], &[&[("app", "none")]]);
    let second = entry(&[], &[&[("app", "b")]]);
    assert_eq!(names(vec![first.clone(), second.clone()], &[("x", "1")]), [""; 0]);
    assert_eq!(names(vec![first.clone(), second.clone()], &[]), ["b"]);
    let falls_through = Match { fallthrough: true, ..first };
    assert_eq!(names(vec![falls_through, second], &[("x", "1")]), ["b"]);
}

#[test]
fn metadata_without_routes_lets_every_endpoint_through_and_nothing_at_all_lets_none() {
    let bare = entry(&[], &[]);
    assert_eq!(names(vec![bare.clone()], &[]), [""; 0]);
    assert_eq!(names(vec![Match { metadata: Some(Metadata::default()), ..bare }], &[]), ["a", "b"]);
}

#[test]
fn an_endpoint_that_two_routes_pick_gets_two_turns() {
    assert_eq!(names(vec![entry(&[], &[&[("app", "a")], &[]])], &[]), ["a", "a", "b"]);
}

#[test]
fn templates_put_the_clients_labels_in_and_the_text_itself_counts_first() {
    for template in ["{{.nodeName}}", "{{ .nodeName }}", "{{ index . \"nodeName\" }}"] {
        let found = names(vec![entry(&[], &[&[("nodeName", template)]])], &[("nodeName", "n1")]);
        assert_eq!(found, ["a"], "{template}");
        let literal = [endpoint("c", &[("nodeName", template)])];
        let matches = vec![entry(&[], &[&[("nodeName", template)]])];
        let service = NetworkService { name: "ns".into(), matches, ..Default::default() };
        assert!(fits(&Labels::new(), &service, &literal[0]), "{template}");
    }
    // The variables of a source selector are the client's own labels.
    let same = entry(&[("nodeName", "{{.home}}")], &[&[("app", "b")]]);
    assert_eq!(names(vec![same.clone()], &[("nodeName", "n1"), ("home", "n1")]), ["b"]);
    assert_eq!(names(vec![same], &[("nodeName", "n1"), ("home", "n2")]), [""; 0]);
}

#[test]
fn an_absent_label_reads_as_the_empty_value_if_there_are_labels_enough() {
    let wanted: &[(&str, &str)] = &[("tier", "")];
    assert_eq!(names(vec![entry(&[], &[wanted])], &[]), ["a", "b"]);
    assert_eq!(names(vec![entry(wanted, &[&[]])], &[]), [""; 0], "no labels at all are too few");
    assert_eq!(names(vec![entry(wanted, &[&[]])], &[("x", "1")]), ["a", "b"]);
}

#[test]
fn metadata_without_routes_that_falls_through_leaves_it_to_the_next_match() {
    let metadata = Match { metadata: Some(Metadata::default()), fallthrough: true, ..entry(&[], &[]) };
    assert_eq!(names(vec![metadata.clone(), entry(&[], &[&[("app", "b")]])], &[]), ["b"]);
    assert_eq!(names(vec![metadata], &[]), [""; 0]);
}

#[test]
fn an_endpoint_without_labels_fits_an_empty_selector_alone() {
    let bare = NetworkServiceEndpoint { name: "c".into(), ..Default::default() };
    let service = |route: &[(&str, &str)]| NetworkService {
        name: "ns".into(),
        matches: vec![entry(&[], &[route])],
        ..Default::default()
    };
    assert!(fits(&Labels::new(), &service(&[]), &bare));
    assert!(!fits(&Labels::new(), &service(&[("app", "a")]), &bare));
}

#[test]
fn an_endpoint_that_a_later_match_let_in_still_fits_when_an_earlier_one_finds_others() {
    let first = Match { fallthrough: true, ..entry(&[], &[&[("app", "a")]]) };
    let matches = vec![first, entry(&[], &[&[("app", "b")]])];
    assert_eq!(names(matches.clone(), &[]), ["a"]);
    let service = NetworkService { name: "ns".into(), matches, ..Default::default() };
    assert!(fits(&Labels::new(), &service, &endpoint("b", &[("app", "b")])));
    assert!(!fits(&Labels::new(), &service, &endpoint("c", &[("app", "c")])));
}

#[test]
fn forwarders_are_asked_for_point_to_point_unless_the_match_says_otherwise() {
    let all = [endpoint("a", &[("p2p", "true")]), endpoint("b", &[("fast", "yes")])];
    let pick = |matches| {
        let service = NetworkService { matches, ..Default::default() };
        let found = forwarders(&Labels::new(), &service, "ns", &all);
        found.into_iter().map(|forwarder| forwarder.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(pick(vec![]), ["a", "b"]);
    assert_eq!(pick(vec![entry(&[], &[])]), ["a"]);
    let fast = Metadata { labels: labels(&[("fast", "yes")]) };
    assert_eq!(pick(vec![Match { metadata: Some(fast), ..entry(&[], &[]) }]), ["b"]);
}

#[test]
fn a_match_for_forwarders_falls_through_only_if_it_says_so() {
    let all = [endpoint("a", &[("p2p", "true")])];
    let fast = Metadata { labels: labels(&[("fast", "yes")]) };
    let first = Match { metadata: Some(fast), ..entry(&[], &[]) };
    let pick = |first: Match| {
        let service = NetworkService { matches: vec![first, entry(&[], &[])], ..Default::default() };
        forwarders(&Labels::new(), &service, "ns", &all).len()
    };
    assert_eq!(pick(first.clone()), 0);
    assert_eq!(pick(Match { fallthrough: true, ..first }), 1);
}
