//! What of objects must outlive them: the addresses of Services, and which service accounts pods have
//! tokens of. It stands in the status of the `NSMConfig`. No effects.

use nsm_crds::{KnownAccount, NSMConfigStatus, ServiceAddress};
use serde_json::Value;

use crate::{
    compare, names,
    object::{Desired, Kind},
    render::Mesh,
};

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Addresses of Services.
    pub services: Vec<ServiceAddress>,
    /// Service accounts.
    pub accounts: Vec<KnownAccount>,
}

impl Kept {
    /// What was told before.
    pub fn told(status: Option<&NSMConfigStatus>) -> Self {
        let told = |status: &NSMConfigStatus| Self {
            services: status.services.clone(),
            accounts: status.service_accounts.clone(),
        };
        status.map(told).unwrap_or_default()
    }

    /// The same, with an object as it is now; what is missing is remembered as it was.
    pub fn note(&mut self, kind: Kind, name: &str, live: Option<&Value>) {
        let text = |pointer: &str| live.and_then(|live| live.pointer(pointer)?.as_str()).map(str::to_owned);
        match kind {
            Kind::Service => {
                // A headless one has no address.
                let Some(cluster_ip) = text("/spec/clusterIP").filter(|address| address != "None") else {
                    return;
                };
                self.services.retain(|known| known.name != name);
                self.services.push(ServiceAddress { name: name.into(), cluster_ip });
                self.services.sort_by(|one, other| one.name.cmp(&other.name));
            }
            Kind::ServiceAccount => {
                let Some(uid) = text("/metadata/uid") else { return };
                if let Some(known) = self.accounts.iter_mut().find(|known| known.name == name) {
                    known.uid = uid;
                } else {
                    let first_uid = uid.clone();
                    self.accounts.push(KnownAccount { name: name.into(), first_uid, uid });
                }
                self.accounts.sort_by(|one, other| one.name.cmp(&other.name));
            }
            _ => {}
        }
    }

    /// Tells a mesh of it.
    pub fn tell(&self, mesh: &mut Mesh) {
        let address = |known: &ServiceAddress| (known.name.clone(), known.cluster_ip.clone());
        mesh.addresses = self.services.iter().map(address).collect();
        let anew = self.accounts.iter().filter(|known| known.uid != known.first_uid);
        mesh.accounts = anew.map(|known| (known.name.clone(), known.uid.clone())).collect();
    }
}

/// The Service as it is to be written: with the address that it had, if it is made anew or was before.
/// An address that the API server gave stays the server's.
#[must_use]
pub fn addressed(desired: &Desired, mesh: &Mesh, live: Option<&Value>) -> Desired {
    let known = mesh.addresses.get(&desired.key.name).filter(|_| desired.key.kind == Kind::Service);
    let ours = live.is_none_or(|live| compare::applied(live, "/spec/clusterIP", names::MANAGER));
    match known.filter(|_| ours) {
        Some(address) => desired.with(|body| body["spec"]["clusterIP"] = address.as_str().into()),
        None => desired.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_and_an_account_outlive_their_objects() {
        let mut kept = Kept::default();
        let account = |uid: &str| json!({"metadata": {"uid": uid}});
        kept.note(Kind::Service, "registry", Some(&json!({"spec": {"clusterIP": "10.0.0.7"}})));
        kept.note(Kind::Service, "headless", Some(&json!({"spec": {"clusterIP": "None"}})));
        kept.note(Kind::ServiceAccount, "nsmgr", Some(&account("a")));
        let first = kept.clone();
        kept.note(Kind::Service, "registry", None);
        kept.note(Kind::ServiceAccount, "nsmgr", None);
        assert_eq!(kept, first);
        assert_eq!((kept.services.len(), kept.accounts[0].first_uid.as_str()), (1, "a"));
        kept.note(Kind::ServiceAccount, "nsmgr", Some(&account("b")));
        assert_eq!((kept.accounts[0].first_uid.as_str(), kept.accounts[0].uid.as_str()), ("a", "b"));
        let status = NSMConfigStatus {
            services: kept.services.clone(),
            service_accounts: kept.accounts.clone(),
            ..Default::default()
        };
        assert_eq!(Kept::told(Some(&status)), kept);
    }
}
