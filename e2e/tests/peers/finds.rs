//! Find and watch give the same answers to upstream's client and to ours, from upstream's registry
//! and from ours.

use std::{collections::BTreeMap, time::Duration};

use nsm_components::api::registry::{
    NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceLabels,
    network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient,
};
use nsm_e2e::{
    mesh::{Mesh, START},
    wait::{may_run, until},
};

use crate::{
    stranger::Stranger,
    upstream::{LIFE, Upstream},
};

/// Longest time all queries may take.
const LIMIT: Duration = Duration::from_secs(10);

/// What is looked for: name, service, and a label of it; and who is found.
const QUERIES: &[(&str, &str, &str, &str)] = &[
    ("", "", "", "nse-1,nse-2,nse-3"),
    ("", "finance", "", "nse-1,nse-2"),
    ("", "weather", "", "nse-3"),
    ("", "sport", "", ""),
    ("", "finance", "left", "nse-1"),
    ("", "finance", "up", ""),
    ("nse-2", "", "", "nse-2"),
    ("nse", "", "", ""),
    ("nse-1", "weather", "", ""),
];

fn wanted((name, service, side, _): (&str, &str, &str, &str)) -> NetworkServiceEndpoint {
    let labels = (!side.is_empty())
        .then(|| NetworkServiceLabels { labels: BTreeMap::from([("side".to_owned(), side.to_owned())]) });
    NetworkServiceEndpoint {
        name: name.to_owned(),
        network_service_names: (!service.is_empty()).then(|| service.to_owned()).into_iter().collect(),
        network_service_labels: labels.map(|labels| (service.to_owned(), labels)).into_iter().collect(),
        ..NetworkServiceEndpoint::default()
    }
}

/// What our client is told by way of an nsmgr: by a Find, and by a watch that starts with the same.
async fn ours(mesh: &Mesh) -> Vec<String> {
    let channel = Stranger::of(mesh).channel(&mesh.nsmgr_socket(1)).await;
    let mut client = NetworkServiceEndpointRegistryClient::new(channel.grpc.clone());
    let mut all = Vec::new();
    for query in QUERIES {
        let mut found = [Vec::new(), Vec::new()];
        for watch in [false, true] {
            // Upstream begins to answer a watch when there is something to say.
            if watch && found[0].is_empty() {
                break;
            }
            let network_service_endpoint = Some(wanted(*query));
            let query = NetworkServiceEndpointQuery { network_service_endpoint, watch };
            let mut call = tonic::Request::new(query);
            channel.token(LIFE).unwrap().write(call.metadata_mut());
            let mut stream = client.find(call).await.unwrap().into_inner();
            while !watch || found[1].len() < found[0].len() {
                let Some(answer) = stream.message().await.unwrap() else { break };
                found[usize::from(watch)].push(answer.network_service_endpoint.unwrap().name);
            }
        }
        let names = found.map(|mut names| {
            names.sort();
            names.join(",")
        });
        all.push(names.join("; "));
    }
    all
}

/// What upstream's client is told at the registry's own address.
fn theirs(mesh: &Mesh) -> Vec<String> {
    let queries = QUERIES.iter().map(|query| {
        let wanted = wanted(*query);
        let labels: BTreeMap<_, _> = wanted
            .network_service_labels
            .iter()
            .map(|(service, of)| (service, serde_json::json!({"labels": of.labels})))
            .collect();
        serde_json::json!({
            "name": wanted.name,
            "networkServiceNames": wanted.network_service_names,
            "networkServiceLabels": labels,
        })
    });
    let queries = queries.collect::<serde_json::Value>().to_string();
    let client = Upstream::finder(mesh, "tcp://10.77.0.1:5002", &queries);
    client.says("asked all", START);
    let log = client.log();
    let answers = log.lines().filter_map(|line| line.split_once("query ")?.1.split_once(": "));
    answers.map(|(_, names)| names.trim_end_matches('"').to_owned()).collect()
}

/// Fails when it takes too long.
async fn asked(asking: impl Future<Output = Vec<String>>) -> Vec<String> {
    tokio::time::timeout(LIMIT, asking).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn find_and_watch_answer_alike_to_both_clients_from_both_registries() {
    if !may_run() {
        return;
    }
    let mut mesh = Mesh::start(LIFE).unwrap();
    for (node, service, side) in [(1, "finance", "left"), (2, "finance", "right"), (2, "weather", "left")] {
        let endpoint = mesh.endpoint(node, service, &[("NSM_LABELS", &format!("side:{side}"))]).unwrap();
        mesh.says(endpoint, "\"registered\"", START).unwrap();
    }
    let expected: Vec<_> = QUERIES.iter().map(|query| format!("{0}; {0}", query.3)).collect();
    assert_eq!(asked(ours(&mesh)).await, expected, "our client, our registry");
    assert_eq!(theirs(&mesh), expected, "upstream's client, our registry");
    let _registry = Upstream::registry(&mut mesh);
    // It knows nothing until it is told again.
    until("upstream's client finds all", LIFE, || (theirs(&mesh) == expected).then_some(())).unwrap();
    assert_eq!(asked(ours(&mesh)).await, expected, "our client, upstream's registry");
}
