//! `mechanisms`: chooses by which mechanism the caller's side of a connection is carried, the
//! caller's preferences in order (protocol §4.4).

use async_trait::async_trait;

use crate::{
    api::mechanism::{KERNEL, SERVER_INTERFACE},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// See the module.
#[derive(Debug)]
pub struct Mechanisms {
    supported: Vec<&'static str>,
    /// Types that are absent here for a reason.
    absent: Vec<(&'static str, String)>,
}

impl Mechanisms {
    /// A forwarder's: kernel interfaces, and these tunnels. `absent` are those that it lacks, and why.
    pub fn forwarder(tunnels: &[&'static str], absent: &[(&'static str, String)]) -> Self {
        Self { supported: [&[KERNEL], tunnels].concat(), absent: absent.to_vec() }
    }

    /// An endpoint's.
    pub fn kernel() -> Self {
        Self { supported: vec![KERNEL], absent: Vec::new() }
    }
}

impl Mechanisms {
    /// What is said of a type that is not here.
    fn refusal(&self, kind: &str) -> String {
        match self.absent.iter().find(|(absent, _)| *absent == kind) {
            Some((_, reason)) => format!("{kind} is not supported: {reason}"),
            None => format!("{kind} is not supported"),
        }
    }
}

/// The answer, with the caller's side in this process's metrics.
fn with_interface(mut reply: Reply) -> Reply {
    let mechanism = reply.connection.mechanism.clone();
    reply.connection.note_interface(SERVER_INTERFACE, mechanism.as_ref());
    reply
}

#[async_trait]
impl Element for Mechanisms {
    fn name(&self) -> &'static str {
        "mechanisms"
    }

    async fn request(&self, cx: &Cx, request: Request, next: Next<'_>) -> Result<Reply> {
        if let Some(mechanism) = &request.connection.mechanism {
            if !self.supported.contains(&mechanism.r#type.as_str()) {
                let message = format_args!(
                    "unsupported mechanism: {}; here are {}",
                    self.refusal(&mechanism.r#type),
                    self.supported.join(", ")
                );
                return Err(Error::new(Kind::Invalid, message));
            }
            return next.request(cx, request).await.map(with_interface);
        }
        let mut refusals = Vec::new();
        let mut kind = Kind::Invalid;
        for preference in &request.preferences {
            if !self.supported.contains(&preference.r#type.as_str()) {
                refusals.push(self.refusal(&preference.r#type));
                continue;
            }
            let mut request = request.clone();
            request.connection.mechanism = Some(preference.clone());
            match next.request(cx, request).await {
                Ok(reply) => return Ok(with_interface(reply)),
                Err(error) => {
                    kind = error.kind;
                    refusals.push(format!("{}: {}", preference.r#type, error.message));
                }
            }
        }
        let message = format_args!("cannot support any of the requested mechanism: {}", refusals.join("; "));
        Err(Error::new(kind, message))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        api::{
            Connection, Mechanism, Path, PathSegment,
            mechanism::{CLIENT_INTERFACE, NAME},
        },
        chain::Chain,
        elements::MechanismTranslation,
    };

    /// An endpoint that takes the first preference.
    struct Takes;

    #[async_trait]
    impl Element for Takes {
        fn name(&self) -> &'static str {
            "takes"
        }

        async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
            request.connection.mechanism = request.preferences.first().cloned();
            next.request(cx, request).await
        }
    }

    fn request(preferences: &[&str]) -> Request {
        let path = Path { index: 0, path_segments: vec![PathSegment::default()] };
        let preference = |kind: &&str| {
            let mut mechanism = Mechanism { r#type: (*kind).to_owned(), ..Mechanism::kernel() };
            mechanism.set(NAME, "nsm-1");
            mechanism
        };
        let preferences = preferences.iter().map(preference).collect();
        Request {
            connection: Connection { path: Some(path), ..Default::default() },
            preferences,
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn a_forwarder_takes_the_first_preference_it_has_and_tells_its_two_interfaces() {
        let chain = Chain::new([
            Arc::new(Mechanisms::forwarder(&[], &[("VXLAN", "no address for tunnels".to_owned())]))
                as Arc<dyn Element>,
            Arc::new(MechanismTranslation::new(None)),
            Arc::new(Takes),
        ]);
        let cx = Cx::within(Duration::from_secs(1));
        let reply = chain.start().request(&cx, request(&["MEMIF", "KERNEL"])).await.unwrap();
        let metrics = &reply.connection.segments()[0].metrics;
        assert_eq!(metrics[SERVER_INTERFACE], "KERNEL/nsm-1");
        assert_eq!(metrics[CLIENT_INTERFACE], "KERNEL/unknown");
        let error = chain.start().request(&cx, request(&["MEMIF", "VXLAN"])).await.unwrap_err();
        assert!(
            error.message.contains("MEMIF is not supported; VXLAN is not supported: no address for tunnels"),
            "{error}"
        );
    }
}
