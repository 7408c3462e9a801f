//! Settings of `nsm connections`.

use std::path::Path;

use crate::{
    api::names::{self, standalone},
    settings::{Errors, Reader, Target, Vars, vars},
};

/// `nsm connections`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// `NSM_CONNECT_TO`: the node's nsmgr, on its unix socket.
    pub connect_to: Target,
    /// `SPIFFE_ENDPOINT_SOCKET`: where the command gets its identity. By default that of `nsm standalone`
    /// beside the nsmgr's socket if there is one, or else the identity agent's.
    pub workload_api: Target,
}

impl Connections {
    /// Reads all settings of the command.
    pub fn read(vars: &dyn Vars) -> Result<Self, Errors> {
        let mut reader = Reader::new(vars);
        let connect_to = reader.target(vars::NSM_CONNECT_TO, &format!("unix://{}", names::NSMGR_SOCKET));
        if let Target::Tcp(_) = connect_to {
            let allowed = "unix:///path of an nsmgr on this host: it tells nobody else";
            reader.refuse(vars::NSM_CONNECT_TO, &connect_to.to_string(), allowed);
        }
        let workload_api = match reader.vars.get(vars::SPIFFE_ENDPOINT_SOCKET) {
            Some(_) => reader.socket(vars::SPIFFE_ENDPOINT_SOCKET),
            None => Target::Unix(agent_of(&connect_to)),
        };
        reader.finish(Self { connect_to, workload_api })
    }
}

fn agent_of(nsmgr: &Target) -> std::path::PathBuf {
    let beside = match nsmgr {
        Target::Unix(path) => path.parent().map(|folder| folder.join(standalone::IDENTITY)),
        Target::Tcp(_) => None,
    };
    beside.filter(|path| path.exists()).unwrap_or_else(|| Path::new(names::IDENTITY_SOCKET).to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Connections, Errors> {
        let all = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Connections::read(&all.collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn the_workload_api_is_looked_for_beside_the_nsmgrs_socket_and_then_where_agents_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let (nsmgr, agent) = (folder.path().join("nsm.io.sock"), folder.path().join("agent.sock"));
        let nsmgr = format!("unix://{}", nsmgr.display());
        let found = || read(&[(vars::NSM_CONNECT_TO, &nsmgr)]).unwrap().workload_api;
        assert_eq!(found(), Target::Unix(names::IDENTITY_SOCKET.into()));
        std::fs::write(&agent, "").unwrap();
        assert_eq!(found(), Target::Unix(agent));
        let named = read(&[(vars::NSM_CONNECT_TO, &nsmgr), (vars::SPIFFE_ENDPOINT_SOCKET, "unix:///x")]);
        assert_eq!(named.unwrap().workload_api, Target::Unix("/x".into()));
    }

    #[test]
    fn an_nsmgr_on_another_host_is_refused_before_it_does() {
        let errors = read(&[(vars::NSM_CONNECT_TO, "tcp://10.0.0.1:5001")]).unwrap_err().to_string();
        assert!(errors.contains("tcp://10.0.0.1:5001") && errors.contains("unix:///path"), "{errors}");
    }
}
