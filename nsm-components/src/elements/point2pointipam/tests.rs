//! Which addresses are handed out, and which never are.

use proptest::prelude::*;

use super::*;
use crate::{api::Connection, chain::Chain};

fn keeping(keep: Keep, prefixes: &[&str]) -> Point2PointIpam {
    let groups = prefixes.iter().map(|prefix| Pool::new(vec![prefix.parse().unwrap()])).collect();
    let pools = Mutex::new(groups);
    Point2PointIpam { pools, keep, recovering_until: Instant::now(), seen: tokio::sync::Mutex::default() }
}

fn ipam(prefixes: &[&str]) -> Point2PointIpam {
    keeping(Keep::Nothing, prefixes)
}

impl Point2PointIpam {
    /// A Request that succeeds.
    fn assign(&self, connection: &str, context: &mut IpContext) -> Result<()> {
        let grant = self.choose(connection, context, &BTreeSet::new())?;
        self.write(&grant.pairs, self.keep, context);
        grant.settle();
        Ok(())
    }
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
    assert_eq!(error.kind, Kind::Exhausted);
    assert!(error.message.contains("10.0.0.0/32") && error.message.contains("NSM_CIDR_PREFIX"), "{error}");
    assert!(!ipam.knows("a"));
}

#[test]
fn several_prefixes_of_one_group_are_used_one_after_the_other() {
    let pool = Pool::new(["10.0.0.0/31", "10.1.0.0/31"].map(|prefix| prefix.parse().unwrap()).into());
    let ipam = Point2PointIpam { pools: Mutex::new(vec![pool]), ..ipam(&[]) };
    assert_eq!(ask(&ipam, "a").dst_ip_addrs, ["10.0.0.0/32"]);
    assert_eq!(ask(&ipam, "b").dst_ip_addrs, ["10.1.0.0/32"]);
    let error = ipam.assign("c", &mut IpContext::default()).unwrap_err();
    assert!(error.message.contains("10.0.0.0/31, 10.1.0.0/31"), "{error}");
}

#[test]
fn a_known_connection_keeps_what_it_has_when_it_cannot_be_renumbered() {
    let ipam = ipam(&["172.16.1.0/31", "10.0.0.0/24"]);
    let before = ask(&ipam, "a");
    let mut context = IpContext { excluded_prefixes: vec!["0.0.0.0/0".into()], ..before.clone() };
    assert_eq!(ipam.assign("a", &mut context).unwrap_err().kind, Kind::Exhausted);
    assert_eq!(ask(&ipam, "a"), before);
    assert!(ipam.assign("b", &mut IpContext::default()).is_err(), "its addresses went to another");
}

/// The connection's own addresses, another endpoint's, and one that claims to be the neighbour's.
fn moved(keep: Keep) -> (Point2PointIpam, IpContext) {
    let ipam = keeping(keep, &["172.16.1.0/24"]);
    ask(&ipam, "neighbour");
    let route = |prefix: &str| Route { prefix: prefix.into(), next_hop: String::new() };
    let context = IpContext {
        src_ip_addrs: vec!["172.16.1.1/32".into(), "10.9.0.1/24".into()],
        dst_ip_addrs: vec!["10.9.0.2/32".into()],
        src_routes: vec![route("172.16.1.0/32"), route("10.0.0.0/8")],
        dst_routes: vec![route("8.8.8.8/32")],
        ..IpContext::default()
    };
    (ipam, context)
}

#[test]
fn polite_keeps_what_a_client_wants_for_its_own_interface_and_nothing_of_its_neighbours() {
    let (ipam, mut context) = moved(Keep::Foreign);
    ipam.assign("a", &mut context).unwrap();
    assert_eq!(context.src_ip_addrs, ["172.16.1.3/32", "10.9.0.1/24"]);
    let routes: Vec<_> = context.src_routes.iter().map(|route| route.prefix.as_str()).collect();
    assert_eq!(routes, ["172.16.1.2/32", "10.0.0.0/8"]);
    // The endpoint's own side is its alone, or a client could draw its packets to itself.
    assert_eq!(context.dst_ip_addrs, ["172.16.1.2/32"]);
    assert_eq!(context.dst_routes.len(), 1);
    let again = context.clone();
    ipam.assign("a", &mut context).unwrap();
    assert_eq!(context, again, "a refresh changes nothing");
}

#[test]
fn strict_keeps_nothing() {
    let (ipam, mut context) = moved(Keep::Nothing);
    ipam.assign("a", &mut context).unwrap();
    assert_eq!(context.src_ip_addrs, ["172.16.1.3/32"]);
    assert_eq!(context.src_routes.len(), 1);
}

#[tokio::test]
async fn a_connection_that_comes_from_another_endpoint_brings_nothing_of_it() {
    let (ipam, context) = moved(Keep::Foreign);
    let mut connection = Connection { id: "a".into(), ..Connection::default() };
    connection.context.get_or_insert_default().ip_context = Some(context);
    connection.set_state(State::ReselectRequested);
    let chain = Chain::new([std::sync::Arc::new(ipam) as std::sync::Arc<dyn Element>]);
    let request = Request { connection, ..Request::default() };
    let reply = chain.start().request(&Cx::within(Duration::from_secs(1)), request).await.unwrap();
    let context = reply.connection.context.unwrap().ip_context.unwrap();
    assert_eq!(context.src_ip_addrs, ["172.16.1.3/32"]);
}

#[test]
fn what_a_former_incarnation_still_has_goes_to_those_that_bring_it_alone() {
    let former = ipam(&["172.16.1.0/24"]);
    ask(&former, "a");
    let brought = ask(&former, "b");
    let held: BTreeSet<_> = (0..4).map(|host| IpAddr::from([172, 16, 1, host])).collect();
    let now = ipam(&["172.16.1.0/24"]);
    let grant = now.choose("new", &IpContext::default(), &held).unwrap();
    assert_eq!(grant.pairs[0].endpoint, IpAddr::from([172, 16, 1, 4]));
    grant.settle();
    let grant = now.choose("b", &brought, &held).unwrap();
    assert_eq!(grant.pairs[0].endpoint, IpAddr::from([172, 16, 1, 2]));
}

/// Fails every Request.
struct Broken;

#[async_trait]
impl Element for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }

    async fn request(&self, _: &Cx, _: Request, _: Next<'_>) -> Result<Reply> {
        Err(Error::new(Kind::Unavailable, "told to fail"))
    }
}

#[async_trait]
impl Element for std::sync::Arc<Point2PointIpam> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        (**self).request(cx, request, next).await
    }
}

#[tokio::test]
async fn a_request_that_fails_takes_no_address_and_takes_none_away() {
    use std::sync::Arc;
    let ipam = Arc::new(ipam(&["172.16.1.0/24"]));
    ask(&ipam, "a");
    let chain = Chain::new([Arc::new(ipam.clone()) as Arc<dyn Element>, Arc::new(Broken)]);
    let request = |id: &str, excluded: &str| {
        let mut connection = Connection { id: id.into(), ..Connection::default() };
        let context = connection.context.get_or_insert_default().ip_context.get_or_insert_default();
        context.excluded_prefixes.push(excluded.into());
        Request { connection, ..Request::default() }
    };
    let cx = Cx::within(Duration::from_secs(1));
    chain.start().request(&cx, request("new", "10.0.0.0/8")).await.unwrap_err();
    // It would be renumbered, but the other side has not agreed.
    chain.start().request(&cx, request("a", "172.16.1.0/30")).await.unwrap_err();
    let taken: Vec<_> = ipam.pools.lock()[0].taken.iter().copied().collect();
    assert_eq!(taken, [[172, 16, 1, 0], [172, 16, 1, 1]].map(IpAddr::from));
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

#[test]
fn addresses_given_back_are_the_next_to_go_wherever_the_search_has_come() {
    let ipam = ipam(&["172.16.1.0/24"]);
    let all: Vec<_> = ["a", "b", "c"].into_iter().map(|name| ask(&ipam, name)).collect();
    ipam.release("b");
    ipam.release("a");
    assert_eq!([ask(&ipam, "d"), ask(&ipam, "e")], [all[0].clone(), all[1].clone()]);
    assert_eq!(ask(&ipam, "f").dst_ip_addrs, ["172.16.1.6/32"]);
}
