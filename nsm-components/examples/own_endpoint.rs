//! An endpoint of one's own: it hands every client the address that its label asks for, and a note.
//!
//! Run it like `nsm nse`, with `NSM_SERVICE_NAMES`, `NSM_CONNECT_TO` and `SPIFFE_ENDPOINT_SOCKET`.

use nsm_components::{
    api::connectioncontext::ConnectionContext,
    apps::Endpoint,
    chain::{Cx, Element, Error, Kind, Next, Reply, Request, Result},
    daemon,
    settings::{self, ProcessEnvironment},
};

/// A client with the label `seat=7` sits at 10.60.0.7, across from 10.60.0.1.
struct Seats;

#[async_trait::async_trait]
impl Element for Seats {
    fn name(&self) -> &'static str {
        "seats"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let seat = request.connection.labels.get("seat").and_then(|seat| seat.parse::<u8>().ok());
        let seat = seat.filter(|seat| (2..=254).contains(seat));
        let seat = seat.ok_or_else(|| Error::new(Kind::Invalid, "the label seat says 2 to 254"))?;
        let context = request.connection.context.insert(ConnectionContext::default());
        let ip = context.ip_context.get_or_insert_default();
        ip.src_ip_addrs = vec![format!("10.60.0.{seat}/32")];
        ip.dst_ip_addrs = vec!["10.60.0.1/32".into()];
        context.extra_context.insert("note".into(), format!("you sit at {seat}"));
        next.request(cx, request).await
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let settings = settings::Endpoint::read(&ProcessEnvironment)?;
    daemon::Log::start(&settings.common.log_level).follow_signals()?;
    Endpoint::new(settings).with(Seats).kernel()?.serve(daemon::stop_on_signals()?).await?;
    Ok(())
}
