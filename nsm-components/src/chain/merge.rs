//! What a caller means who asks again for a connection that has changed since it was answered
//! (protocol §4.3, `begin` client).

use crate::api::{Connection, connectioncontext::ConnectionContext};

/// The connection to send: the current one with what the caller changed. `returned` is what it was
/// answered last, `asked` what it asks for now, `current` what a refresh or heal made of it since.
pub(super) fn merge(returned: &Connection, asked: &Connection, current: &Connection) -> Connection {
    let mut merged = current.clone();
    if asked.network_service_endpoint_name != returned.network_service_endpoint_name {
        merged.network_service_endpoint_name.clone_from(&asked.network_service_endpoint_name);
    }
    if asked.context != returned.context {
        let empty = ConnectionContext::default();
        let context = asked.context.as_ref().unwrap_or(&empty);
        let before = returned.context.as_ref().unwrap_or(&empty);
        let into = merged.context.get_or_insert_default();
        into.ip_context.clone_from(&context.ip_context);
        into.ethernet_context.clone_from(&context.ethernet_context);
        into.dns_context.clone_from(&context.dns_context);
        into.mtu = context.mtu;
        for (key, value) in &before.extra_context {
            match context.extra_context.get(key) {
                Some(now) if now == value => {}
                Some(now) => {
                    into.extra_context.insert(key.clone(), now.clone());
                }
                None => {
                    into.extra_context.remove(key);
                }
            }
        }
        // Upstream loses keys that the caller adds; there is no reason to.
        for (key, value) in &context.extra_context {
            if !before.extra_context.contains_key(key) {
                into.extra_context.insert(key.clone(), value.clone());
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(endpoint: &str, mtu: u32, extra: &[(&str, &str)]) -> Connection {
        let extra_context = extra.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        Connection {
            network_service_endpoint_name: endpoint.into(),
            context: Some(ConnectionContext { mtu, extra_context, ..Default::default() }),
            ..Connection::default()
        }
    }

    #[test]
    fn who_changes_nothing_gets_what_it_became_since() {
        let returned = connection("nse-1", 1500, &[("a", "1")]);
        let current = connection("nse-2", 1400, &[("a", "2")]);
        assert_eq!(merge(&returned, &returned, &current), current);
    }

    #[test]
    fn what_the_caller_changed_counts_and_nothing_else() {
        let returned = connection("nse-1", 1500, &[("gone", "1"), ("same", "1"), ("changed", "1")]);
        let asked = connection("nse-1", 1300, &[("same", "1"), ("changed", "2"), ("new", "1")]);
        let current = connection("nse-2", 1400, &[("gone", "1"), ("same", "9"), ("changed", "1")]);
        let wanted = connection("nse-2", 1300, &[("same", "9"), ("changed", "2"), ("new", "1")]);
        assert_eq!(merge(&returned, &asked, &current), wanted);
    }

    #[test]
    fn a_caller_may_ask_for_another_endpoint() {
        let returned = connection("nse-1", 1500, &[]);
        let asked = connection("nse-3", 1500, &[]);
        let merged = merge(&returned, &asked, &connection("nse-2", 1400, &[]));
        assert_eq!(merged, connection("nse-3", 1400, &[]));
    }
}
