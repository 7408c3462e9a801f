//! The witnesses see what they are to see: without that, their silence would prove nothing.

use std::{net::Ipv4Addr, time::Duration};

use nsm_e2e::{monitor::IpMonitor, netns::Netns, stream::Stream, wait::may_run};

#[test]
fn lost_packets_are_counted_and_changes_of_the_kernel_are_seen() {
    if !may_run() {
        return;
    }
    let (here, there) = (Netns::new("here").unwrap(), Netns::new("there").unwrap());
    here.ip(&format!("link add wire type veth peer name wire netns {}", there.path())).unwrap();
    for (netns, host) in [(&here, 1), (&there, 2)] {
        netns.ip(&format!("address add 10.66.0.{host}/24 dev wire")).unwrap();
        netns.ip("link set wire up").unwrap();
    }
    let monitor = IpMonitor::start(&here).unwrap();
    let stream =
        Stream::start((&here, Ipv4Addr::new(10, 66, 0, 1)), (&there, Ipv4Addr::new(10, 66, 0, 2))).unwrap();
    let break_for = Duration::from_millis(100);
    stream.run_for(break_for).unwrap();
    here.ip("link set wire down").unwrap();
    stream.run_for(break_for).unwrap();
    here.ip("link set wire up").unwrap();
    let back = stream.received() + 100;
    nsm_e2e::wait::until_true("packets come back", Duration::from_secs(10), || stream.received() > back)
        .unwrap();
    let report = stream.report().unwrap();
    assert!(report.lost > 0 && report.longest_gap >= break_for, "{report:?}");
    assert!(!monitor.seen().unwrap().is_empty());
}
