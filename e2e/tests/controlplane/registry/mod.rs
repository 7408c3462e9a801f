//! Registries that keep what is registered as custom resources: what that costs the API server, whose
//! names are whose, and that any of them answers the same.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use kube::{Api, ResourceExt};
use nsm_components::{
    api::registry::{NetworkService, NetworkServiceEndpoint},
    chain::Kind,
};
use nsm_e2e::{
    figures::figures,
    kubernetes::{Mark, Requests, apply, documents, eventually, repository},
    mesh::Signal,
};

use self::stage::{Registries, endpoint, next, of_service, owner_id};
use crate::stage::MESH;

mod identities;
mod stage;

const LIFE: Duration = Duration::from_mins(10);

/// What registries asked about what is registered, but for their watches.
async fn asked(registries: &Registries, since: Mark) -> Requests {
    let asked = registries.stage.audit.of(registries.account.user(), since).await.unwrap();
    asked.filter(|request| request.verb != "watch")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_one_write_a_find_none_and_every_registry_answers_the_same() {
    let mut registries = Registries::start(2, LIFE).await.unwrap();
    let manager = registries.nsmgr("w1").await;
    let (one, two) = (manager.to(&registries, 0), manager.to(&registries, 1));
    let mut watch = two.watch(of_service("finance")).await.unwrap();

    let mark = registries.stage.audit.mark().await.unwrap();
    let registered = one.register("nse-1", endpoint("nse-1", "finance")).await.unwrap();
    assert!(registered.expiration_time.is_some() && registered.initial_registration_time.is_some());
    // Who registered finds it at once, whatever the watch says.
    assert_eq!(one.find(of_service("finance")).await.unwrap().len(), 1);
    let told = next(&mut watch).await.unwrap();
    assert_eq!((told.entry.name.as_str(), told.deleted), ("nse-1", false));
    assert_eq!(told.entry.path_ids[0], owner_id("nse-1"));
    for _ in 0..100 {
        assert_eq!(two.find(of_service("finance")).await.unwrap().len(), 1);
    }
    let asked_for = asked(&registries, mark).await;
    assert_eq!(
        asked_for.words(),
        ["patch networkserviceendpoints nsm-system/nse-1"],
        "one write, no question"
    );

    let objects: Api<nsm_crds::NetworkServiceEndpoint> =
        Api::namespaced(registries.stage.client.clone(), MESH);
    let object = objects.get("nse-1").await.unwrap();
    assert_eq!(object.spec.url.as_deref(), Some("tcp://10.0.0.1:5001"));
    assert_eq!(object.spec.expiration_time, None, "it ends with the Lease of its node");

    two.unregister("nse-1", endpoint("nse-1", "finance")).await.unwrap();
    assert!(next(&mut watch).await.unwrap().deleted);
    eventually("the other registry to know", async || {
        let found = one.find(of_service("finance")).await?;
        ensure!(found.is_empty(), "{found:?}");
        Ok(())
    })
    .await
    .unwrap();
    registries.ensure_running().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_registry_has_just_taken_another_one_ends_though_no_watch_has_told_it() {
    let registries = Registries::start(2, LIFE).await.unwrap();
    let manager = registries.nsmgr("w1").await;
    let (one, two) = (manager.to(&registries, 0), manager.to(&registries, 1));
    for number in 0..20 {
        let name = format!("nse-{number}");
        one.register(&name, endpoint(&name, "finance")).await.unwrap();
        two.unregister(&name, endpoint(&name, "finance")).await.unwrap();
    }
    let left = registries.stage.plane.kubectl(&["get", "nse", "--namespace", MESH, "-o", "name"]).unwrap();
    assert_eq!(left, "");

    let mark = registries.stage.audit.mark().await.unwrap();
    two.unregister("never", endpoint("never", "finance")).await.unwrap();
    let asked_for = asked(&registries, mark).await;
    assert_eq!(asked_for.words(), ["get networkserviceendpoints nsm-system/never (404)"], "one question");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_belongs_to_who_registered_it_at_whichever_registry_and_templates_are_no_endpoints() {
    let registries = Registries::start(2, LIFE).await.unwrap();
    registries.stage.apply(WRITTEN).await.unwrap();
    let manager = registries.nsmgr("w1").await;
    let (one, two) = (manager.to(&registries, 0), manager.to(&registries, 1));
    // Both at once: the API server says who was first.
    let (a, b) = tokio::join!(
        one.register("nse-a", endpoint("nse", "finance")),
        two.register("nse-b", endpoint("nse", "finance"))
    );
    assert_eq!([&a, &b].iter().filter(|result| result.is_ok()).count(), 1, "{a:?} {b:?}");
    let refused = a.err().or(b.err()).unwrap();
    assert_eq!(refused.kind, Kind::Denied, "{refused}");
    assert!(refused.message.contains("belongs to"), "{refused}");

    eventually("the objects of users to be known", async || {
        let found = one.find(of_service("by-hand")).await?;
        ensure!(found.len() == 1 && found[0].name == "handmade", "{found:?}");
        Ok(())
    })
    .await
    .unwrap();
    assert!(one.find(of_service("sales")).await.unwrap().is_empty(), "a template is no endpoint");
    for (name, why) in [("till", "template"), ("handmade", "demo/handmade"), ("own-till", "spec.workload")] {
        let refused = one.register("x", endpoint(name, "sales")).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Taken, "{refused}");
        assert!(refused.message.contains(why) && refused.message.contains("use another name"), "{refused}");
    }
    let refused = one.register("x", endpoint("No_Name", "sales")).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Invalid, "{refused}");
    let objects = registries.stage.plane.kubectl(&["get", "nse", "-A", "-o", "name"]).unwrap();
    assert_eq!(objects.lines().count(), 4, "{objects}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_deletes_is_told_to_watches_and_is_registered_again_by_the_next_refresh() {
    let registries = Registries::start(2, LIFE).await.unwrap();
    let manager = registries.nsmgr("w1").await;
    let (one, two) = (manager.to(&registries, 0), manager.to(&registries, 1));
    let mut watch = two.watch(of_service("finance")).await.unwrap();
    one.register("nse", endpoint("nse", "finance")).await.unwrap();
    assert!(!next(&mut watch).await.unwrap().deleted);
    registries.stage.plane.kubectl(&["--namespace", MESH, "delete", "nse", "nse"]).unwrap();
    assert!(next(&mut watch).await.unwrap().deleted);
    one.register("nse", endpoint("nse", "finance")).await.unwrap();
    assert!(!next(&mut watch).await.unwrap().deleted);
    // Somebody writes what the registry wrote: the owner gets it back when it has something new.
    let url = r#"{"spec":{"url":"tcp://6.6.6.6:1"}}"#;
    registries.stage.plane.kubectl(&["-n", MESH, "patch", "nse", "nse", "--type=merge", "-p", url]).unwrap();
    assert_eq!(next(&mut watch).await.unwrap().entry.url, "tcp://6.6.6.6:1");
    one.register("nse", endpoint("nse", "finance")).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().entry.url, "tcp://10.0.0.1:5001");
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_objects_are_served_as_they_are_and_stay_as_they_are() {
    let registries = Registries::start(1, LIFE).await.unwrap();
    let text = std::fs::read_to_string(repository().join("crds/tests/data/upstream-objects.yaml")).unwrap();
    let manager = registries.nsmgr("w1").await;
    let objects: Vec<_> = documents(&text).unwrap();
    assert!(objects.len() > 30);
    for (number, object) in objects.iter().enumerate() {
        // Each in a namespace of its own: some are two states of one object.
        let namespace = format!("demo-{number}");
        registries.stage.plane.kubectl(&["create", "namespace", &namespace]).unwrap();
        let (mut object, name) = (object.clone(), format!("{}-{number}", object.name_any()));
        object.metadata.namespace = Some(namespace.clone());
        object.metadata.name = Some(name.clone());
        apply(&registries.stage.client, &object).await.unwrap();
        let services = manager.to::<NetworkService>(&registries, 0);
        let endpoints = manager.to::<NetworkServiceEndpoint>(&registries, 0);
        let is_service = object.types.as_ref().unwrap().kind == "NetworkService";
        eventually("the object to be found", async || {
            let (name, spec) = (name.clone(), &object.data["spec"]);
            if is_service {
                let found = services.find(NetworkService { name, ..Default::default() }).await?;
                let found = found.first().context("it is not")?;
                ensure!(spec["payload"].as_str().unwrap_or_default() == found.payload, "{found:?}");
                let matches = spec["matches"].as_array().map_or(0, Vec::len);
                ensure!(found.matches.len() == matches, "{found:?}");
                return Ok(());
            }
            let found = endpoints.find(NetworkServiceEndpoint { name, ..Default::default() }).await?;
            let found = found.first().context("it is not")?;
            ensure!(spec["url"].as_str().unwrap_or_default() == found.url, "{found:?}");
            Ok(())
        })
        .await
        .unwrap();
        let kind = if is_service { "netsvc" } else { "nse" };
        let there = registries.stage.plane.kubectl(&["-n", &namespace, "get", kind, &name, "-o", "json"]);
        let there: serde_json::Value = serde_json::from_str(&there.unwrap()).unwrap();
        assert_eq!(there["spec"], object.data["spec"], "{name}");
    }
}

/// What users write: templates, in their namespace and in that of the registry, and an endpoint.
const WRITTEN: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: demo}
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: till, namespace: demo}
spec: {workload: {networkServices: [sales]}}
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: own-till, namespace: nsm-system}
spec: {workload: {networkServices: [sales]}}
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: handmade, namespace: demo}
spec: {network_service_names: [by-hand], url: 'tcp://10.0.0.9:5001'}";

/// What registries asked about Leases of nodes.
async fn renewals(registries: &Registries, since: Mark) -> Requests {
    let asked = registries.stage.audit.of_leases(registries.account.user(), since).await.unwrap();
    asked.filter(|request| request.verb == "patch")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_refreshes_of_a_node_are_no_write_but_its_lease_and_that_once_a_minute_for_all_registries()
{
    let registries = Registries::start(2, LIFE).await.unwrap();
    let manager = registries.nsmgr("w1").await;
    let (one, two) = (manager.to(&registries, 0), manager.to(&registries, 1));
    let mark = registries.stage.audit.mark().await.unwrap();
    for number in 0..20 {
        let name = format!("nse-{number}");
        one.register(&name, endpoint(&name, "finance")).await.unwrap();
    }
    eventually("the other registry to know", async || {
        ensure!(two.find(of_service("finance")).await?.len() == 20, "it does not");
        ensure!(renewals(&registries, mark).await.count() == 1, "no Lease");
        Ok(())
    })
    .await
    .unwrap();
    let mark = registries.stage.audit.mark().await.unwrap();
    let began = Instant::now();
    for number in 0..1000 {
        let (name, registry) = (format!("nse-{}", number % 20), if number % 2 == 0 { &one } else { &two });
        registry.register(&name, endpoint(&name, "finance")).await.unwrap();
    }
    let minutes = began.elapsed().as_secs() / 60 + 1;
    asked(&registries, mark).await.ensure_none("unchanged refreshes were written").unwrap();
    // Two that renew at the same moment: the API server takes one.
    let renewed = renewals(&registries, mark).await.granted().count() as u64;
    assert!(renewed <= minutes, "{renewed} renewals in {minutes} minutes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_killed_leaves_the_others_to_answer_and_comes_back_with_all_of_it() {
    let mut registries = Registries::start(2, LIFE).await.unwrap();
    let manager = registries.nsmgr("w1").await;
    let one = manager.to::<NetworkServiceEndpoint>(&registries, 0);
    one.register("nse-1", endpoint("nse-1", "finance")).await.unwrap();
    let mut first = registries.replicas.remove(&0).unwrap();
    first.signal(Signal::SIGKILL).unwrap();
    first.ended().unwrap();
    let two = manager.to(&registries, 1);
    eventually("the other registry to know", async || {
        ensure!(two.find(of_service("finance")).await?.len() == 1, "it does not");
        Ok(())
    })
    .await
    .unwrap();
    two.register("nse-1", endpoint("nse-1", "finance")).await.unwrap();
    two.register("nse-2", endpoint("nse-2", "finance")).await.unwrap();
    registries.add(2).unwrap();
    registries.ready().await.unwrap();
    let three = manager.to(&registries, 2);
    assert_eq!(three.find(of_service("finance")).await.unwrap().len(), 2);
    let mark = registries.stage.audit.mark().await.unwrap();
    three.register("nse-1", endpoint("nse-1", "finance")).await.unwrap();
    asked(&registries, mark).await.ensure_none("what is known was written again").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_refreshes_is_ended_by_one_registry_and_a_refresh_at_any_of_them_counts_for_all() {
    let life = Duration::from_secs(8);
    let registries = Registries::start(2, life).await.unwrap();
    let manager = registries.nsmgr("w1").await;
    let gone = registries.nsmgr("w2").await;
    let foreign = registries.manager("spiffe://d/ns/nsm-system/pod/nsmgr-x").await;
    registries.stage.apply(WRITTEN).await.unwrap();
    let mark = registries.stage.audit.mark().await.unwrap();
    gone.to(&registries, 0).register("gone", endpoint("gone", "finance")).await.unwrap();
    foreign.to(&registries, 0).register("foreign", endpoint("foreign", "finance")).await.unwrap();
    let two = manager.to(&registries, 1);
    let began = Instant::now();
    eventually("what nobody refreshes to be gone", async || {
        // Those that go on take turns between the registries.
        for number in 0..2 {
            manager.to(&registries, number).register("alive", endpoint("alive", "finance")).await?;
        }
        let found = two.find(of_service("finance")).await?;
        let names: Vec<_> = found.into_iter().map(|entry| entry.name).collect();
        ensure!(names == ["alive"], "{names:?}");
        ensure!(began.elapsed() > life * 3, "the others may not have come to their ends yet");
        Ok(())
    })
    .await
    .unwrap();
    let deletes = asked(&registries, mark).await.filter(|request| request.verb == "delete").granted();
    let mut words = deletes.words();
    words.sort();
    assert_eq!(
        words,
        [
            "delete networkserviceendpoints nsm-system/foreign",
            "delete networkserviceendpoints nsm-system/gone"
        ]
    );
    let by: BTreeSet<_> = deletes.iter().map(|request| request.user_agent.clone()).collect();
    assert_eq!(by.len(), 1, "{by:?}");
    let left = registries.stage.plane.kubectl(&["get", "nse", "-A", "-o", "name"]).unwrap();
    assert_eq!(left.lines().count(), 4, "templates and what users wrote stay: {left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_server_what_is_known_is_told_and_said_to_be_old_and_nothing_ends() {
    let life = Duration::from_secs(6);
    let mut registries = Registries::start_through_proxy(2, life).await.unwrap();
    let manager = registries.nsmgr("w1").await;
    let one = manager.to(&registries, 0);
    one.register("nse-1", endpoint("nse-1", "finance")).await.unwrap();
    registries
        .manager("spiffe://d/ns/nsm-system/pod/nsmgr-x")
        .await
        .to(&registries, 0)
        .register("nse-2", endpoint("nse-2", "finance"))
        .await
        .unwrap();
    let mut watch = manager.to(&registries, 1).watch(of_service("finance")).await.unwrap();
    for _ in 0..2 {
        assert!(!next(&mut watch).await.unwrap().deleted);
    }
    registries.away(true).unwrap();
    let stale = |number| {
        let socket = registries.metrics(number);
        move || figures(&socket)?.get("nsm_registry_stale_seconds").copied().context("no such figure")
    };
    eventually("both to notice", async || {
        ensure!(stale(0)()? > 0 && stale(1)()? > 0, "they have not");
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(one.find(of_service("finance")).await.unwrap().len(), 2);
    one.register("nse-1", endpoint("nse-1", "finance")).await.unwrap();
    let refused = one.register("nse-3", endpoint("nse-3", "finance")).await.unwrap_err();
    assert_eq!(refused.kind, Kind::Unavailable, "{refused}");
    assert!(refused.message.contains("try again"), "{refused}");
    assert!(manager.stale(&registries, 0).await.unwrap() >= Some(1));
    // Longer than any of them would live. Silence has no event to wait for.
    tokio::time::sleep(life * 4).await;
    assert_eq!(one.find(of_service("finance")).await.unwrap().len(), 2);
    registries.away(false).unwrap();
    eventually("both to follow again", async || {
        ensure!(stale(0)()? == 0 && stale(1)()? == 0, "they do not");
        Ok(())
    })
    .await
    .unwrap();
    // Who refreshes as soon as it can has lost nothing.
    one.register("nse-1", endpoint("nse-1", "finance")).await.unwrap();
    assert!(one.find(of_service("finance")).await.unwrap().iter().any(|entry| entry.name == "nse-1"));
    eventually("new registrations", async || {
        one.register("nse-3", endpoint("nse-3", "finance")).await?;
        Ok(())
    })
    .await
    .unwrap();
    assert_eq!(manager.stale(&registries, 0).await.unwrap(), None);
    registries.ensure_running().unwrap();
}
