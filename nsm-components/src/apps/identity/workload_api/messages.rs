//! The Workload API's messages, made from what stands behind them.

use prost_types::{ListValue, Struct, value::Kind};
use serde_json::{Map, Value};

use super::super::{bundle::Bundle, jwt::JwtKeys, svid::Svid};
use crate::api::workload::{JwtBundlesResponse, X509BundlesResponse, X509svid, X509svidResponse};

pub(super) fn x509_svid(svid: &Svid, bundle: &Bundle) -> X509svidResponse {
    let svid = X509svid {
        spiffe_id: svid.id().to_string(),
        x509_svid: svid.certificates().to_vec(),
        x509_svid_key: svid.key().to_vec(),
        bundle: bundle.to_der(),
        hint: String::new(),
    };
    X509svidResponse { svids: vec![svid], ..X509svidResponse::default() }
}

pub(super) fn x509_bundle(bundle: &Bundle) -> X509BundlesResponse {
    let bundles = [(bundle.domain().id().to_string(), bundle.to_der())].into();
    X509BundlesResponse { crl: Vec::new(), bundles }
}

pub(super) fn jwt_bundle(keys: &JwtKeys) -> JwtBundlesResponse {
    JwtBundlesResponse { bundles: [(keys.domain().id().to_string(), keys.to_jwks())].into() }
}

/// The same as protobuf's own structure.
pub(super) fn structure(map: Map<String, Value>) -> Struct {
    Struct { fields: map.into_iter().map(|(name, value)| (name, protobuf(value))).collect() }
}

fn protobuf(value: Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        // Protobuf has no other numbers than JavaScript.
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(list) => Kind::ListValue(ListValue { values: list.into_iter().map(protobuf).collect() }),
        Value::Object(map) => Kind::StructValue(structure(map)),
    };
    prost_types::Value { kind: Some(kind) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_keep_their_values() {
        let claims =
            serde_json::json!({"aud": ["a", "b"], "exp": 1_795_000_000, "ok": true, "x": {"y": null}});
        let Value::Object(claims) = claims else { unreachable!() };
        let fields = structure(claims).fields;
        let text = |text: &str| prost_types::Value { kind: Some(Kind::StringValue(text.into())) };
        assert_eq!(
            fields["aud"].kind,
            Some(Kind::ListValue(ListValue { values: vec![text("a"), text("b")] }))
        );
        assert_eq!(fields["exp"].kind, Some(Kind::NumberValue(1_795_000_000.0)));
        assert_eq!(fields["ok"].kind, Some(Kind::BoolValue(true)));
        let Some(Kind::StructValue(inner)) = &fields["x"].kind else { unreachable!() };
        assert_eq!(inner.fields["y"].kind, Some(Kind::NullValue(0)));
    }
}
