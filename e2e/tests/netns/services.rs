//! Network services come and go, and a pod may use several.

use nsm_e2e::{
    interface::interfaces,
    mesh::{Mesh, START},
    wait::may_run,
};

use crate::story::{IFNAME, LIFE};

#[test]
fn a_client_of_an_unknown_service_says_so_and_connects_when_it_appears() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    let client = mesh.client(1, &format!("kernel://finance/{IFNAME}")).unwrap();
    let line = mesh.says(client, "network service finance is not found", START).unwrap();
    assert!(line.contains("trying again"), "{line}");
    let process = mesh.process(client).unwrap().id();
    mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.connected(client, IFNAME).unwrap();
    assert_eq!(mesh.process(client).unwrap().id(), process);
}

#[test]
fn a_pod_has_an_interface_for_every_service_that_its_clients_ask_for() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    mesh.endpoint(2, "finance", &[]).unwrap();
    mesh.endpoint(1, "weather,news", &[]).unwrap();
    let client = mesh.client(1, "kernel://finance/nsm-1,kernel://weather/nsm-2").unwrap();
    let other = mesh.client_beside(client, 1, "kernel://news/nsm-3").unwrap();
    let prefixes = [(client, "nsm-1", 1, "vxlan"), (client, "nsm-2", 2, "veth"), (other, "nsm-3", 2, "veth")];
    for (client, name, number, kind) in prefixes {
        let interface = mesh.connected(client, name).unwrap();
        assert_eq!(interface.address.unwrap().0.octets()[..3], [172, 16, number]);
        assert_eq!(interface.kind, kind);
    }
    assert_eq!(interfaces(mesh.pod_of(client).unwrap()).unwrap().len(), 3);
}
