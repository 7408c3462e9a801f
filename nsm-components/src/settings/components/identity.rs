//! Settings of `nsm identity`.

use std::{path::PathBuf, time::Duration};

use super::{MINUTE, ObjectRef};
use crate::{
    api::names,
    settings::{Errors, LogLevel, Reader, Target, Vars, vars},
};

/// `nsm identity agent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityAgent {
    /// `NSM_LOG_LEVEL`, INFO.
    pub log_level: LogLevel,
    /// `NSM_LISTEN_ON`: the Workload API socket to serve.
    pub listen_on: Target,
    /// `NODE_NAME`.
    pub node_name: String,
    /// `NSM_AUTHORITY_URL`.
    pub authority_url: Target,
    /// `NSM_AUTHORITY_TOKEN_FILE`.
    pub token_file: PathBuf,
    /// `NSM_BUNDLE_CONFIG_MAP`: the trust bundle by which the authority is known.
    pub bundle: ObjectRef,
}

impl IdentityAgent {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            log_level: reader.log_level(),
            listen_on: reader.target(vars::NSM_LISTEN_ON, &format!("unix://{}", names::IDENTITY_SOCKET)),
            node_name: reader.name(vars::NODE_NAME, ""),
            authority_url: reader.target(vars::NSM_AUTHORITY_URL, ""),
            token_file: reader.text(vars::NSM_AUTHORITY_TOKEN_FILE, "/var/run/secrets/nsm/token").into(),
            bundle: reader.object(vars::NSM_BUNDLE_CONFIG_MAP, "nsm-system/nsm-identity-bundle"),
        };
        reader.finish(settings)
    }
}

/// `nsm identity authority`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityAuthority {
    /// `NSM_LOG_LEVEL`, INFO.
    pub log_level: LogLevel,
    /// `NSM_LISTEN_ON`: one TCP address.
    pub listen_on: Target,
    /// `NSM_TRUST_DOMAIN`.
    pub trust_domain: String,
    /// `NSM_SVID_LIFETIME`, 1 hour.
    pub svid_lifetime: Duration,
    /// `NSM_ROOT_SECRET`: where the root key is kept.
    pub root_secret: ObjectRef,
    /// `NSM_BUNDLE_CONFIG_MAP`: where the trust bundle is published.
    pub bundle: ObjectRef,
    /// `NSM_AGENT_SERVICE_ACCOUNT`: the only account whose tokens are taken.
    pub agent_account: ObjectRef,
}

impl IdentityAuthority {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            log_level: reader.log_level(),
            listen_on: reader.target(vars::NSM_LISTEN_ON, &format!("tcp://:{}", names::AUTHORITY_PORT)),
            trust_domain: reader.name(vars::NSM_TRUST_DOMAIN, "k8s.nsm"),
            svid_lifetime: reader.duration(vars::NSM_SVID_LIFETIME, 60 * MINUTE),
            root_secret: reader.object(vars::NSM_ROOT_SECRET, "nsm-operator/nsm-identity-root"),
            bundle: reader.object(vars::NSM_BUNDLE_CONFIG_MAP, "nsm-system/nsm-identity-bundle"),
            agent_account: reader.object(vars::NSM_AGENT_SERVICE_ACCOUNT, "nsm-system/nsm-identity-agent"),
        };
        reader.finish(settings)
    }
}

/// `nsm identity standalone`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityStandalone {
    /// `NSM_LOG_LEVEL`, INFO.
    pub log_level: LogLevel,
    /// `NSM_LISTEN_ON`: the Workload API socket to serve.
    pub listen_on: Target,
    /// `NSM_TRUST_DOMAIN`.
    pub trust_domain: String,
    /// `NSM_SVID_LIFETIME`, 1 hour.
    pub svid_lifetime: Duration,
    /// `NSM_BASE_DIR`: folder of the root key.
    pub base_dir: PathBuf,
}

impl IdentityStandalone {
    /// Reads all settings of the process.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            log_level: reader.log_level(),
            listen_on: reader.target(vars::NSM_LISTEN_ON, &format!("unix://{}", names::IDENTITY_SOCKET)),
            trust_domain: reader.name(vars::NSM_TRUST_DOMAIN, "host.nsm"),
            svid_lifetime: reader.duration(vars::NSM_SVID_LIFETIME, 60 * MINUTE),
            base_dir: reader.text(vars::NSM_BASE_DIR, "/var/lib/networkservicemesh/identity").into(),
        };
        reader.finish(settings)
    }
}
