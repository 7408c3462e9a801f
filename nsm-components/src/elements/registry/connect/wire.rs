//! Both registries' messages and generated clients, seen as one.

use async_trait::async_trait;
use tonic::{Request as Call, Response, Status, Streaming};

use crate::{
    api::{
        peer::Files,
        registry::{
            NetworkService, NetworkServiceEndpoint, NetworkServiceEndpointQuery,
            NetworkServiceEndpointResponse, NetworkServiceQuery, NetworkServiceResponse,
            network_service_endpoint_registry_client::NetworkServiceEndpointRegistryClient,
            network_service_registry_client::NetworkServiceRegistryClient,
        },
    },
    chain::{Entry, Event, Query},
    transport::Channel,
};

/// Metadata key of a Find: its watch leaves out what only prolongs a life, and its entries come without
/// their ends. It says so beside the query and not in it: upstream's nsmgr passes on fields that it does
/// not know, and would itself not be told that an endpoint came back to it.
pub(in crate::elements::registry) const WITHOUT_REFRESHES: &str = "nsm-without-refreshes";

/// What the two registries' generated clients have in common.
#[async_trait]
pub trait Wire: Entry {
    /// A Find's message.
    type Query: Send;
    /// A Find's answers.
    type Response: Send + 'static;

    /// The URL that names the endpoint's socket, where there is one.
    fn url(&self) -> &str;
    /// Puts another URL in its place.
    fn set_url(&mut self, url: String);
    /// A query as its message.
    fn query(query: Query<Self>) -> Self::Query;
    /// A query from its message.
    fn from_query(query: Self::Query, without_refreshes: bool) -> Query<Self>;
    /// An event as its message.
    fn response(event: Event<Self>) -> Self::Response;
    /// An event from its message.
    fn from_response(response: Self::Response) -> Option<Event<Self>>;

    /// Calls Register.
    async fn call_register(
        channel: &Channel,
        call: Call<Self>,
    ) -> std::result::Result<Response<Self>, Status>;
    /// Calls Unregister.
    async fn call_unregister(
        channel: &Channel,
        call: Call<Self>,
    ) -> std::result::Result<Response<()>, Status>;
    /// Calls Find.
    async fn call_find(
        channel: &Channel,
        call: Call<Self::Query>,
    ) -> std::result::Result<Response<Streaming<Self::Response>>, Status>;
}

macro_rules! wire {
    ($entry:ident, $query:ident, $response:ident, $client:ident, $field:ident, $url:expr, $set_url:expr) => {
        #[async_trait]
        impl Wire for $entry {
            type Query = $query;
            type Response = $response;

            fn url(&self) -> &str {
                let url: fn(&Self) -> &str = $url;
                url(self)
            }

            fn set_url(&mut self, url: String) {
                let set: fn(&mut Self, String) = $set_url;
                set(self, url);
            }

            fn query(query: Query<Self>) -> $query {
                $query { $field: Some(query.like), watch: query.watch }
            }

            fn from_query(query: $query, without_refreshes: bool) -> Query<Self> {
                Query { like: query.$field.unwrap_or_default(), watch: query.watch, without_refreshes }
            }

            fn response(event: Event<Self>) -> $response {
                $response { $field: Some(event.entry), deleted: event.deleted }
            }

            fn from_response(response: $response) -> Option<Event<Self>> {
                let deleted = response.deleted;
                response.$field.map(|entry| Event { entry, deleted, files: Files::default() })
            }

            async fn call_register(
                channel: &Channel,
                call: Call<Self>,
            ) -> std::result::Result<Response<Self>, Status> {
                $client::new(channel.grpc.clone()).register(call).await
            }

            async fn call_unregister(
                channel: &Channel,
                call: Call<Self>,
            ) -> std::result::Result<Response<()>, Status> {
                $client::new(channel.grpc.clone()).unregister(call).await
            }

            async fn call_find(
                channel: &Channel,
                call: Call<$query>,
            ) -> std::result::Result<Response<Streaming<$response>>, Status> {
                $client::new(channel.grpc.clone()).find(call).await
            }
        }
    };
}

wire!(
    NetworkService,
    NetworkServiceQuery,
    NetworkServiceResponse,
    NetworkServiceRegistryClient,
    network_service,
    |_| "",
    |_, _| {}
);
wire!(
    NetworkServiceEndpoint,
    NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse,
    NetworkServiceEndpointRegistryClient,
    network_service_endpoint,
    |entry| &entry.url,
    |entry, url| entry.url = url
);
