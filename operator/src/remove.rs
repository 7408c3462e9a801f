//! Removes the mesh as its user would, and waits until the operator has done it: what has to happen
//! before the operator itself goes.

use std::time::Duration;

use kube::{
    Api, Client, ResourceExt,
    api::DeleteParams,
    runtime::{conditions::is_deleted, wait::await_condition},
};
use nsm_crds::{CONDITION_READY, CONFIG_NAME, NSMConfig};
use tokio::time::timeout;
use tracing::info;

/// The mesh was not removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server said no.
    #[error("the NSMConfig cannot be deleted")]
    Request(#[source] Box<kube::Error>),
    /// The watch of it ended.
    #[error("the NSMConfig cannot be watched")]
    Watch(#[source] Box<kube::runtime::wait::Error>),
    /// It is still there.
    #[error(
        "the mesh is not removed after {waited:?}: {message}; see kubectl get nsm {CONFIG_NAME} -o yaml, and whether the operator runs"
    )]
    Timeout {
        /// How long it was waited for.
        waited: Duration,
        /// What its status says.
        message: String,
    },
}

/// Deletes the `NSMConfig`, if there is one, and waits until it is gone.
pub async fn mesh(client: &Client, most: Duration) -> Result<(), Error> {
    let request = |error| Error::Request(Box::new(error));
    let configs: Api<NSMConfig> = Api::all(client.clone());
    let Some(config) = configs.get_opt(CONFIG_NAME).await.map_err(request)? else {
        info!("there is no mesh");
        return Ok(());
    };
    configs.delete(CONFIG_NAME, &DeleteParams::default()).await.map_err(request)?;
    info!("waits until the operator has removed the mesh");
    let uid = config.uid().unwrap_or_default();
    let gone = await_condition(configs.clone(), CONFIG_NAME, is_deleted(&uid));
    match timeout(most, gone).await {
        Ok(Ok(_)) => {
            info!("the mesh is removed");
            Ok(())
        }
        Ok(Err(error)) => Err(Error::Watch(Box::new(error))),
        Err(_) => Err(Error::Timeout { waited: most, message: said(&configs).await }),
    }
}

/// What the status says of the mesh.
async fn said(configs: &Api<NSMConfig>) -> String {
    let config = configs.get_opt(CONFIG_NAME).await.ok().flatten();
    let conditions = config.and_then(|config| config.status).map(|status| status.conditions);
    let ready = conditions.into_iter().flatten().find(|condition| condition.type_ == CONDITION_READY);
    ready.map_or_else(|| "it has no status".to_owned(), |ready| ready.message)
}
