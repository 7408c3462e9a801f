//! `passthrough`: for an endpoint that is also a client, of the next endpoint of the same service
//! (protocol §4.5, `replacelabels` and `replacensename`). Its own labels choose the next one, whose
//! name it remembers; the caller sees its own labels and this endpoint's name.

use std::{collections::BTreeMap, mem};

use async_trait::async_trait;

use crate::{
    api::{Connection, connection::State},
    chain::{Cx, Element, Next, Reply, Request, Result},
};

/// See the module.
#[derive(Debug)]
pub struct PassThrough {
    labels: BTreeMap<String, String>,
}

impl PassThrough {
    /// Asks on with these labels.
    pub fn new(labels: BTreeMap<String, String>) -> Self {
        Self { labels }
    }

    /// Puts this endpoint's labels and the name of the next one in; answers what stood there.
    fn replace(&self, cx: &Cx, connection: &mut Connection) -> (BTreeMap<String, String>, String) {
        let reselect = connection.state() == State::ReselectRequested;
        let known = cx.memory.with(|memory| memory.passed_on.clone()).filter(|_| !reselect);
        let labels = mem::replace(&mut connection.labels, self.labels.clone());
        let name = mem::replace(&mut connection.network_service_endpoint_name, known.unwrap_or_default());
        (labels, name)
    }
}

#[async_trait]
impl Element for PassThrough {
    fn name(&self) -> &'static str {
        "passthrough"
    }

    async fn request(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<Reply> {
        let (labels, name) = self.replace(cx, &mut request.connection);
        let mut reply = next.request(cx, request).await?;
        reply.connection.labels = labels;
        let passed_on = mem::replace(&mut reply.connection.network_service_endpoint_name, name);
        cx.memory.with(|memory| memory.passed_on = Some(passed_on));
        Ok(reply)
    }

    async fn close(&self, cx: &Cx, mut request: Request, next: Next<'_>) -> Result<()> {
        self.replace(cx, &mut request.connection);
        next.close(cx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc, time::Duration};

    use parking_lot::Mutex;

    use super::*;
    use crate::{
        api::registry::{Destination, Match, NetworkService, NetworkServiceEndpoint, NetworkServiceLabels},
        chain::{Chain, Memory, RegistryChain, RegistryCx, SystemClock},
        elements::{Discover, Index, registry},
    };

    /// The five endpoints of upstream's composed service, in the order a packet meets them.
    const STAGES: [&str; 5] = ["firewall", "passthrough-1", "passthrough-2", "passthrough-3", "gateway"];

    fn labels(app: &str) -> BTreeMap<String, String> {
        [("app".to_owned(), app.to_owned())].into()
    }

    /// Each stage leads to the next; who is none begins with the first.
    fn service() -> NetworkService {
        let entry = |from: Option<&str>, to: &str| Match {
            source_selector: from.map(labels).unwrap_or_default(),
            routes: vec![Destination { destination_selector: labels(to), ..Default::default() }],
            ..Default::default()
        };
        let mut matches: Vec<_> = STAGES.windows(2).map(|pair| entry(Some(pair[0]), pair[1])).collect();
        matches.push(entry(None, STAGES[0]));
        NetworkService { name: "composed".into(), payload: "ETHERNET".into(), matches, ..Default::default() }
    }

    /// What was called, of whom, and with which labels.
    type Called = (&'static str, String, BTreeMap<String, String>);

    /// Calls the chain of the endpoint that was chosen, and keeps what its session would.
    #[derive(Clone, Default)]
    struct Call {
        endpoints: Arc<Mutex<HashMap<String, (Chain, Memory)>>>,
        called: Arc<Mutex<Vec<Called>>>,
    }

    impl Call {
        fn next(&self, what: &'static str, cx: &Cx, connection: &Connection) -> (Chain, Cx) {
            let name = &connection.network_service_endpoint_name;
            self.called.lock().push((what, name.clone(), connection.labels.clone()));
            let (chain, memory) = self.endpoints.lock()[name].clone();
            (chain, Cx { memory, ..cx.clone() })
        }

        fn order(&self) -> Vec<String> {
            mem::take(&mut *self.called.lock())
                .into_iter()
                .map(|(what, name, _)| what.to_owned() + &name)
                .collect()
        }
    }

    #[async_trait]
    impl Element for Call {
        fn name(&self) -> &'static str {
            "call"
        }

        async fn request(&self, cx: &Cx, request: Request, _: Next<'_>) -> Result<Reply> {
            let (chain, cx) = self.next("", cx, &request.connection);
            chain.start().request(&cx, request).await
        }

        async fn close(&self, cx: &Cx, request: Request, _: Next<'_>) -> Result<()> {
            let (chain, cx) = self.next("close ", cx, &request.connection);
            chain.start().close(&cx, request).await
        }
    }

    /// What a client calls, and who is called then.
    async fn composed() -> (Chain, Call) {
        let services = RegistryChain::new([registry::Store::in_memory() as _]);
        let endpoints = RegistryChain::new([registry::Store::in_memory() as _]);
        let cx = RegistryCx::within(Duration::from_secs(5));
        services.start().register(&cx, service()).await.unwrap();
        // Backwards: the order of registration is not that of the stages.
        for app in STAGES.iter().rev() {
            let own = NetworkServiceLabels { labels: labels(app) };
            let entry = NetworkServiceEndpoint {
                name: (*app).to_owned(),
                network_service_names: vec!["composed".into()],
                network_service_labels: [("composed".to_owned(), own)].into(),
                url: "tcp://127.0.0.1:1".into(),
                ..Default::default()
            };
            endpoints.start().register(&cx, entry).await.unwrap();
        }
        let index = Index::new(services, endpoints, Arc::new(SystemClock), "");
        let call = Call::default();
        let forward = || {
            let discover: Arc<dyn Element> = Arc::new(Discover::new(index.clone()));
            [discover, Arc::new(call.clone())]
        };
        for app in STAGES {
            let pass = Arc::new(PassThrough::new(labels(app))) as Arc<dyn Element>;
            let chain = if app == "gateway" {
                Chain::new([])
            } else {
                Chain::new([pass].into_iter().chain(forward()))
            };
            call.endpoints.lock().insert(app.to_owned(), (chain, Memory::default()));
        }
        (Chain::new(forward()), call)
    }

    #[tokio::test]
    async fn five_endpoints_compose_one_service_and_their_client_sees_the_first_alone() {
        let (chain, call) = composed().await;
        let cx = Cx::within(Duration::from_secs(5));
        let own: BTreeMap<_, _> = [("podName".to_owned(), "p".to_owned())].into();
        let connection =
            Connection { network_service: "composed".into(), labels: own.clone(), ..Default::default() };
        let request = Request { connection, ..Default::default() };
        let reply = chain.start().request(&cx, request).await.unwrap();
        assert_eq!(call.called.lock()[0].2, own);
        assert_eq!(call.called.lock()[4].2, labels("passthrough-3"));
        assert_eq!(call.order(), STAGES);
        assert_eq!(reply.connection.network_service_endpoint_name, "firewall");
        assert_eq!(reply.connection.labels, own);
        // A refresh goes the same way, by the names that each has kept; and so does the Close.
        let request = Request { connection: reply.connection, ..Default::default() };
        let again = chain.start().request(&cx, request.clone()).await.unwrap();
        assert_eq!(
            (call.order(), &again.connection),
            (STAGES.map(str::to_owned).into(), &request.connection)
        );
        chain.start().close(&cx, request).await.unwrap();
        assert_eq!(call.order(), STAGES.map(|app| format!("close {app}")));
    }
}
