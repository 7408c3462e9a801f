//! What a process says of settings that it cannot use.

use std::time::Duration;

use ipnet::IpNet;

use super::{reader::parse_groups, *};

fn vars(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn every_bad_setting_is_named_with_its_value_and_what_is_allowed() {
    let vars = vars(&[
        (vars::SPIFFE_ENDPOINT_SOCKET, "unix:///run/agent.sock"),
        (vars::NSM_DIAL_TIMEOUT, "soon"),
        (vars::NSM_CONNECT_TO, "ftp://x"),
        (vars::NSM_NETWORK_SERVICES, "kernel://finance/an-interface-name-that-is-too-long"),
    ]);
    let errors = Nsc::read(&vars).unwrap_err().to_string();
    for part in ["NSM_DIAL_TIMEOUT=\"soon\"", "200ms", "NSM_CONNECT_TO=\"ftp://x\"", "NSM_NETWORK_SERVICES"] {
        assert!(errors.contains(part), "{part} in {errors}");
    }
}

#[test]
fn liveness_has_upstreams_names_and_loses_a_packet_before_it_loses_patience() {
    let read = |of: &[(&str, &str)]| {
        let common = [
            (vars::SPIFFE_ENDPOINT_SOCKET, "unix:///run/agent.sock"),
            (vars::NSM_NETWORK_SERVICES, "kernel://finance"),
        ];
        Nsc::read(&vars(&[&common, of].concat())).map(|settings| settings.liveness)
    };
    let (interval, timeout, enabled) =
        ("NSM_LIVENESS_CHECK_INTERVAL", "NSM_LIVENESS_CHECK_TIMEOUT", "NSM_LIVENESS_CHECK_ENABLED");
    let millis = |interval, timeout| Some((Duration::from_millis(interval), Duration::from_millis(timeout)));
    assert_eq!(read(&[]).unwrap(), millis(200, 1000));
    assert_eq!(read(&[(interval, "1200ms"), (timeout, "400ms")]).unwrap(), millis(100, 400));
    assert_eq!(read(&[(enabled, "false")]).unwrap(), None);
    assert!(read(&[(timeout, "5ms")]).unwrap_err().to_string().contains("10ms"));
}

#[test]
fn a_socket_that_cannot_be_is_refused_at_once() {
    let vars = vars(&[
        (vars::SPIFFE_ENDPOINT_SOCKET, "tcp://127.0.0.1:8081"),
        (
            vars::NSM_LISTEN_ON,
            "unix:///run/nsm.sock,tcp://127.0.0.1:5001,tcp://[::1]:5002,tcp://localhost:5003",
        ),
    ]);
    let errors = Nsmgr::read(&vars).unwrap_err().0;
    let of = |name: &str| errors.iter().filter(|error| error.name == name).collect::<Vec<_>>();
    assert!(of(vars::SPIFFE_ENDPOINT_SOCKET)[0].allowed.contains("unix:///path"), "{errors:?}");
    let [listen] = of(vars::NSM_LISTEN_ON)[..] else { panic!("{errors:?}") };
    assert_eq!(listen.value, "tcp://localhost:5003");
}

#[test]
fn groups_of_urls_keep_their_brackets() {
    let text = "[kernel://a/nsm-1?x=y,kernel://b],[kernel://c]";
    let groups = parse_groups::<NsmUrl>(text).unwrap();
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(groups[0][0], "kernel://a/nsm-1?x=y".parse().unwrap());
    assert_eq!(parse_groups::<NsmUrl>("[http://a]"), Err("http://a".to_owned()));
}

#[test]
fn groups_of_prefixes_keep_their_brackets() {
    let parse_groups = parse_groups::<IpNet>;
    let groups = parse_groups("[10.0.0.0/24,fd00::/64], 172.16.0.0/16").unwrap();
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(parse_groups("10.0.0.0/24,10.1.0.0/24").unwrap().len(), 2);
    assert!(parse_groups("[10.0.0.0/24").is_err());
    assert!(parse_groups("10.0.0.0/33").is_err());
    assert!(parse_groups("").unwrap().is_empty());
}

#[test]
fn a_missing_workload_api_socket_is_an_error_of_its_own() {
    let errors = Nsmgr::read(&vars(&[])).unwrap_err();
    assert_eq!(errors.0[0].name, vars::SPIFFE_ENDPOINT_SOCKET);
}
