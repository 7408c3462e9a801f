//! `mechanisms`: chooses by which mechanism the caller's side of a connection is carried, the
//! caller's preferences in order (protocol §4.4).

use async_trait::async_trait;

use crate::{
    api::mechanism::{KERNEL, VXLAN},
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
};

/// See the module.
#[derive(Debug)]
pub struct Mechanisms {
    supported: &'static [&'static str],
}

impl Mechanisms {
    /// A forwarder's: kernel interfaces, and tunnels when there is an address for them.
    pub fn forwarder(tunnels: bool) -> Self {
        Self { supported: if tunnels { &[KERNEL, VXLAN] } else { &[KERNEL] } }
    }

    /// An endpoint's.
    pub fn kernel() -> Self {
        Self { supported: &[KERNEL] }
    }
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
                    "unsupported mechanism {:?}; here are {}",
                    mechanism.r#type,
                    self.supported.join(", ")
                );
                return Err(Error::new(Kind::Invalid, message));
            }
            return next.request(cx, request).await;
        }
        let mut refusals = Vec::new();
        let mut kind = Kind::Invalid;
        for preference in &request.preferences {
            if !self.supported.contains(&preference.r#type.as_str()) {
                refusals.push(format!("{} is not supported", preference.r#type));
                continue;
            }
            let mut request = request.clone();
            request.connection.mechanism = Some(preference.clone());
            match next.request(cx, request).await {
                Ok(reply) => return Ok(reply),
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
