//! Which addresses are handed out, and which never are.

use proptest::prelude::*;

use super::*;

fn ipam(prefixes: &[&str]) -> Point2PointIpam {
    Point2PointIpam::new(prefixes.iter().map(|prefix| vec![prefix.parse().unwrap()]).collect())
}

fn ask(ipam: &Point2PointIpam, connection: &str) -> IpContext {
    let mut context = IpContext::default();
    ipam.assign(connection, &mut context).unwrap();
    context
}

#[test]
fn the_lowest_address_is_the_endpoints_and_the_next_the_clients() {
    let ipam = ipam(&["172.16.1.0/24", "fd00::/64"]);
    let context = ask(&ipam, "a");
    assert_eq!(context.dst_ip_addrs, ["172.16.1.0/32", "fd00::/128"]);
    assert_eq!(context.src_ip_addrs, ["172.16.1.1/32", "fd00::1/128"]);
    assert_eq!(context.src_routes[0].prefix, "172.16.1.0/32");
    assert_eq!(ask(&ipam, "b").dst_ip_addrs[0], "172.16.1.2/32");
    assert_eq!(ask(&ipam, "a"), context);
}

#[test]
fn after_a_restart_a_connection_gets_back_what_it_brings_unless_it_is_taken() {
    let before = ipam(&["172.16.1.0/24"]);
    ask(&before, "a");
    let brought = ask(&before, "b");
    let after = ipam(&["172.16.1.0/24"]);
    let mut context = brought.clone();
    after.assign("b", &mut context).unwrap();
    assert_eq!(context, brought);
    let mut stranger = brought.clone();
    after.assign("c", &mut stranger).unwrap();
    assert_eq!(stranger.dst_ip_addrs, ["172.16.1.0/32"]);
}

#[test]
fn addresses_of_another_endpoint_are_replaced_not_added_to() {
    let mut context = ask(&ipam(&["10.9.0.0/24"]), "a");
    ipam(&["172.16.1.0/24"]).assign("a", &mut context).unwrap();
    assert_eq!(context.dst_ip_addrs, ["172.16.1.0/32"]);
    assert_eq!(context.src_routes.len(), 1);
}

#[test]
fn excluded_prefixes_are_not_handed_out_and_a_pair_in_one_is_renumbered() {
    let ipam = ipam(&["172.16.1.0/24"]);
    ask(&ipam, "a");
    let mut context = IpContext { excluded_prefixes: vec!["172.16.1.0/30".into()], ..IpContext::default() };
    ipam.assign("a", &mut context).unwrap();
    assert_eq!(context.dst_ip_addrs, ["172.16.1.4/32"]);
}

#[test]
fn an_empty_pool_says_which_setting_to_change_and_takes_nothing() {
    let ipam = ipam(&["172.16.1.0/24", "10.0.0.0/32"]);
    let error = ipam.assign("a", &mut IpContext::default()).unwrap_err();
    assert!(error.message.contains("NSM_CIDR_PREFIX"));
    assert!(!ipam.knows("a"));
}

#[test]
fn half_of_a_wide_pool_can_be_excluded_and_so_can_all_of_it() {
    let ipam = ipam(&["fd00::/64"]);
    let excluding =
        |prefix: &str| IpContext { excluded_prefixes: vec![prefix.into()], ..IpContext::default() };
    let mut context = excluding("fd00::/65");
    ipam.assign("a", &mut context).unwrap();
    assert_eq!(context.dst_ip_addrs, ["fd00::8000:0:0:0/128"]);
    assert_eq!(ipam.assign("b", &mut excluding("fd00::/63")).unwrap_err().kind, Kind::Exhausted);
    assert_eq!(ipam.assign("c", &mut excluding("::/0")).unwrap_err().kind, Kind::Exhausted);
}

#[test]
fn more_excluded_prefixes_than_are_considered_are_refused() {
    let excluded_prefixes = vec!["10.0.0.0/8".into(); MAX_EXCLUDED + 1];
    let mut context = IpContext { excluded_prefixes, ..IpContext::default() };
    assert_eq!(ipam(&["172.16.1.0/24"]).assign("a", &mut context).unwrap_err().kind, Kind::Invalid);
}

proptest! {
    #[test]
    fn whatever_is_excluded_is_never_handed_out_and_the_search_ends(
        wide in prop::collection::vec((any::<u64>(), 65_u8..=128), 0..12),
        near in prop::collection::vec((0_u64..64, 120_u8..=128), 0..20),
        connections in 1_usize..20,
    ) {
        let begin = u128::from("fd00::".parse::<std::net::Ipv6Addr>().unwrap());
        let excluded: Vec<IpNet> = wide
            .into_iter()
            .chain(near)
            .map(|(low, length)| IpNet::new_assert(IpAddr::V6((begin + u128::from(low)).into()), length))
            .collect();
        let ipam = ipam(&["fd00::/64"]);
        let excluded_prefixes: Vec<_> = excluded.iter().map(ToString::to_string).collect();
        let started = std::time::Instant::now();
        for connection in 0..connections {
            let mut context = IpContext { excluded_prefixes: excluded_prefixes.clone(), ..IpContext::default() };
            if ipam.assign(&connection.to_string(), &mut context).is_err() {
                prop_assert!(excluded.iter().any(|net| net.prefix_len() <= 66));
                continue;
            }
            for ip in [&context.src_ip_addrs[0], &context.dst_ip_addrs[0]].map(|text| parse(text).unwrap()) {
                prop_assert!(!excluded.iter().any(|net| net.contains(&ip)), "{} is excluded", ip);
            }
        }
        prop_assert!(started.elapsed() < std::time::Duration::from_secs(1));
    }

    #[test]
    fn no_address_is_ever_handed_out_twice(steps in prop::collection::vec((0_u8..12, any::<bool>()), 1..60)) {
        let ipam = ipam(&["172.16.1.0/27"]);
        for (connection, close) in steps {
            let id = connection.to_string();
            if close { ipam.release(&id) } else { ask(&ipam, &id); }
            let pools = ipam.pools.lock();
            let given: Vec<_> = pools[0].pairs.values().flat_map(|pair| [pair.client, pair.endpoint]).collect();
            let unique: BTreeSet<_> = given.iter().copied().collect();
            prop_assert_eq!(given.len(), unique.len());
            prop_assert_eq!(&unique, &pools[0].taken);
        }
    }
}
