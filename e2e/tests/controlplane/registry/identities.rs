//! SPIFFE identities of a test's own making: one CA, and a Workload API for each who has one.

use std::{
    path::PathBuf,
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
};

use futures::{Stream, StreamExt, stream};
use nsm_components::{
    api::workload::{
        JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
        ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
        X509svidResponse,
        spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
    },
    settings::Target,
    transport::Source,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic::{Request, Response, Status, transport::Server};

/// See the module.
pub(crate) struct Identities {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    folder: PathBuf,
}

/// Gives everybody who asks the same identity.
struct One(X509svidResponse);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Identities {
    /// Sockets go into this folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate, folder }
    }

    /// Serves this identity; answers where.
    pub(crate) fn serve(&self, id: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        let x509_svid = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        let svid = X509svid {
            spiffe_id: id.into(),
            x509_svid,
            x509_svid_key: key.serialize_der(),
            bundle: self.certificate.clone(),
            ..X509svid::default()
        };
        let answer = X509svidResponse { svids: vec![svid], ..X509svidResponse::default() };
        let socket = self.folder.join(format!("identity-{}.sock", NEXT.fetch_add(1, Ordering::Relaxed)));
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let accepted = stream::unfold(listener, |listener| async {
            Some((listener.accept().await.map(|(stream, _)| stream), listener))
        });
        let service = SpiffeWorkloadApiServer::new(One(answer));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(accepted));
        socket
    }

    /// The same for the test itself.
    pub(crate) fn source(&self, id: &str) -> Source {
        Source::start(&Target::Unix(self.serve(id)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for One {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        _: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let answer = stream::iter([Ok(self.0.clone())]).chain(stream::pending());
        Ok(Response::new(Box::pin(answer)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}
