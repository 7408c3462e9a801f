//! What policies are shown, as upstream writes it (protocol §3.3).

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use crate::api::{PathSegment, connection::MonitorScopeSelector};

/// A path, whose current segment is `index`, and who is on the other side of the TLS connection.
pub(in crate::elements) fn path(index: usize, segments: &[PathSegment], certificate: &[u8]) -> Value {
    let mut path = Map::new();
    if index > 0 {
        path.insert("index".to_owned(), index.into());
    }
    path.insert("path_segments".to_owned(), segments.iter().map(segment).collect());
    path.insert("auth_info".to_owned(), auth_info(certificate));
    path.into()
}

/// What is empty is absent.
fn segment(segment: &PathSegment) -> Map<String, Value> {
    let texts = [("name", &segment.name), ("id", &segment.id), ("token", &segment.token)];
    let texts = texts.into_iter().filter(|(_, text)| !text.is_empty());
    let mut all: Map<_, _> = texts.map(|(key, text)| (key.to_owned(), text.as_str().into())).collect();
    if let Some(end) = &segment.expires {
        all.insert("expires".to_owned(), json!({"seconds": end.seconds, "nanos": end.nanos}));
    }
    if !segment.metrics.is_empty() {
        all.insert("metrics".to_owned(), json!(segment.metrics));
    }
    all
}

/// Who wants to watch which connections, and the ids under which it asked for those it has. As upstream's
/// map of all peers, with this one alone.
pub(in crate::elements) fn watch(
    peer: &str,
    known: &[String],
    selector: &MonitorScopeSelector,
    certificate: &[u8],
) -> Value {
    let named = selector.path_segments.iter().map(|segment| &segment.id);
    let named: Vec<_> = named.filter(|id| !id.is_empty()).collect();
    let known = if known.is_empty() { json!({}) } else { json!({peer: known}) };
    json!({
        "service_spiffe_id": peer,
        "selector_connection_ids": named,
        "spiffe_id_connection_map": known,
        "auth_info": auth_info(certificate),
    })
}

/// What policies learn of the TLS connection: the peer's certificate as PEM.
pub(in crate::elements) fn auth_info(certificate: &[u8]) -> Value {
    if certificate.is_empty() {
        return json!({"certificate": ""});
    }
    let text = BASE64_STANDARD.encode(certificate);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    json!({"certificate": pem})
}
